"""How a person starts the running interpreter, for commands in messages."""

import sys
from pathlib import Path


def python() -> str:
    """Its path where that lies below the working directory (`.venv/bin/python`), else `python`."""
    executable, here = Path(sys.executable), Path.cwd()
    return str(executable.relative_to(here)) if executable.is_relative_to(here) else "python"
