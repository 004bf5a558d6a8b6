"""Searches the best FFN width of each layer within a budget. It knows no model, but asks for losses."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from matta_core.errors import UserError

Widths = tuple[int, ...]
Worth = Mapping[tuple[int, int], float]  # (layer, width) -> the fall of the loss


@dataclass(frozen=True)
class Found:
    """`evaluated` counts all mixtures ever scored; `uniform` has the losses of the sizes within the budget."""

    widths: Widths
    loss: float
    evaluated: int
    combinations: int
    ended: str  # exhaustive, local optimum, or evaluations spent
    uniform: Mapping[int, float]


@dataclass
class WidthSearch:
    """Finds the lowest score at a limited cost, among all mixtures of `sizes` or as many as `evaluations` allows.

    `sizes` has the widths by layer of each trained size, ascending. Scores are kept, so that a second search with
    another limit can use them.
    """

    sizes: Sequence[Widths]
    cost: Callable[[Widths], float]
    score: Callable[[Widths], float]
    evaluations: int
    scores: dict[Widths, float] = field(default_factory=dict)

    @property
    def levels(self) -> list[list[int]]:
        """For each layer, the widths that any size has in it, ascending."""
        return [sorted(set(widths)) for widths in zip(*self.sizes, strict=True)]

    @property
    def combinations(self) -> int:
        return math.prod(len(level) for level in self.levels)

    def within(self, limit: float, where: str = "mix") -> Found:
        """The best mixture that costs at most `limit`, within which the first size must be.

        If the mixtures are few enough, all are scored. Otherwise the worth of each single step up from the smallest
        size is measured, and the budget is filled by worth per cost. Then, as long as evaluations last, one layer goes
        up and another down wherever that is better. The sizes within the budget are always compared, too.

        Raises: UserError where `evaluations` does not suffice for the single steps.
        """
        uniform = {index: self._scored(size) for index, size in enumerate(self.sizes) if self.cost(size) <= limit}
        if self.combinations <= self.evaluations:
            for widths in itertools.product(*self.levels):
                if self.cost(widths) <= limit:
                    self._scored(widths)
            ended = "exhaustive"
        else:
            needed = len(uniform) + sum(len(level) - 1 for level in self.levels) + 1
            if needed > self.evaluations:
                raise UserError(
                    f"{where}: extract_students.mix_evaluations must be at least {needed}, got {self.evaluations}"
                )
            worth = self._worth()
            filled = self._filled(worth, limit)
            if self._may_score(filled):
                self._scored(filled)
            ended = self._exchange(worth, limit)
        best = self._best(limit)
        return Found(best, self.scores[best], len(self.scores), self.combinations, ended, uniform)

    def _scored(self, widths: Widths) -> float:
        if widths not in self.scores:
            self.scores[widths] = self.score(widths)
        return self.scores[widths]

    def _may_score(self, widths: Widths) -> bool:
        return widths in self.scores or len(self.scores) < self.evaluations

    def _best(self, limit: float) -> Widths:
        fitting = [widths for widths in self.scores if self.cost(widths) <= limit]
        return min(fitting, key=lambda widths: (self.scores[widths], self.cost(widths)))

    def _worth(self) -> Worth:
        """How much the loss of the smallest size falls if one layer alone gets another width."""
        smallest = self.sizes[0]
        return {
            (layer, width): self._scored(smallest) - self._scored(_with(smallest, layer, width))
            for layer, level in enumerate(self.levels)
            for width in level
        }

    def _filled(self, worth: Worth, limit: float) -> Widths:
        """The budget filled from the smallest size up, always by the step of most worth per cost that still fits."""
        widths = self.sizes[0]
        while True:
            steps = []
            for layer, width in worth:
                raised = _with(widths, layer, width)
                if width > widths[layer] and self.cost(raised) <= limit:
                    gain = worth[layer, width] - worth[layer, widths[layer]]
                    steps.append((gain / max(self.cost(raised) - self.cost(widths), 1e-12), raised))
            if not steps:
                return widths
            widths = max(steps)[1]

    def _exchange(self, worth: Worth, limit: float) -> str:
        """Search locally from the best mixture. Of its neighbours, by expected worth, the first better one is taken."""
        widths = self._best(limit)
        while True:
            neighbours = {
                _with(_with(widths, up, higher), down, lower)
                for (up, higher), (down, lower) in itertools.product(worth, worth)
                if up != down and higher > widths[up] and lower <= widths[down]
            }
            fitting = [neighbour for neighbour in neighbours if self.cost(neighbour) <= limit]
            for neighbour in sorted(fitting, key=lambda each: (-sum(worth[step] for step in enumerate(each)), each)):
                if not self._may_score(neighbour):
                    return "evaluations spent"
                if self._scored(neighbour) < self.scores[widths]:
                    widths = neighbour
                    break
            else:
                return "local optimum"


def _with(widths: Widths, layer: int, width: int) -> Widths:
    return (*widths[:layer], width, *widths[layer + 1 :])
