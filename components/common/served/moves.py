"""The moves of a pointer, and the versions that a person withdrew by them until a person serves them again.

- A push neither withdraws a version nor lifts a withdrawal: it never serves a withdrawn version.
- A rollback withdraws the version that it moves away from, and lifts the withdrawal of the one that it moves to.
- A rollback straight after another, back to where that one began, undoes it: the withdrawals are again as before both.
  If this is undone in turn, they are as after the first rollback.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, final

PUSH: Final = "push"
ROLLBACK: Final = "rollback"


def is_version(name: str) -> bool:
    """Whether a text names a version: the first 16 digits of its content digest, in hexadecimal."""
    return re.fullmatch("[0-9a-f]{16}", name) is not None


@final
@dataclass(frozen=True)
class Move:
    """One move of the pointer. `id` is unique; `decision` is the digest of the GateDecision that a push followed."""

    id: str
    version: str
    digest: str
    why: Literal["push", "rollback"]
    moved_at: str  # UTC
    moved_by: str
    decision: str | None


@dataclass(frozen=True)
class Withdrawal:
    """The withdrawal of a version, by the rollback that a person made at `moved_at` (UTC)."""

    version: str
    moved_at: str
    moved_by: str


@dataclass(frozen=True)
class Withdrawn:
    """The withdrawals of a size: those of `now`, and those `before` its last move, in case the next move undoes it.

    They are kept beside the moves, because old moves are dropped and withdrawals never are.
    """

    now: tuple[Withdrawal, ...] = ()
    before: tuple[Withdrawal, ...] = ()

    def after(self, move: Move, last: Move | None, previous: str | None) -> "Withdrawn":
        """The withdrawals after `move`. `last` is the move before it, `previous` the version served before `last`."""
        if move.why == PUSH or last is None:
            return Withdrawn(self.now, self.now)
        if last.why == ROLLBACK and move.version == previous:
            return Withdrawn(self.before, self.now)
        kept = (one for one in self.now if one.version not in (move.version, last.version))
        return Withdrawn((*kept, Withdrawal(last.version, move.moved_at, move.moved_by)), self.now)


def replay(moves: Iterable[Move]) -> Withdrawn:
    """The withdrawals after a whole history."""
    withdrawn = Withdrawn()
    last: Move | None = None
    previous: str | None = None
    for move in moves:
        withdrawn = withdrawn.after(move, last, previous)
        previous, last = last and last.version, move
    return withdrawn
