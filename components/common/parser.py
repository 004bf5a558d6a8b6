"""The parser of every command: a mistake is one line and status 2, and an empty value is a mistake."""

import argparse
import re
import sys
from collections.abc import Collection, Iterable
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """Refuses empty values. A shell makes them of variables that are not set: a command would take `--to "$VERSION"`
    for no --to at all. `may_be_empty` names the options for which an empty value means something."""

    def __init__(self, *args: Any, may_be_empty: Collection[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._may_be_empty = may_be_empty

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        option = None
        for word in given:
            if joined := re.fullmatch(r"(--[^=]+)=\s*", word):
                option, word = joined[1], ""
            elif word.startswith("-"):
                option = word.partition("=")[0]
            if not word.strip() and option not in self._may_be_empty:
                self.error(
                    f"{f'{option} has an empty value' if option else 'an argument is empty'}: is a variable of the "
                    f"shell empty? Give a value, or leave it out"
                )
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (all options: {self.prog} --help)\n")
