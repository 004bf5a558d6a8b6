"""Widths that are drawn anew in each step, between Student and TA, so that sizes that no recipe names are good, too.

Source: Yu & Huang 2019 (universally slimmable networks) draw two widths beside the smallest and the largest.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from matta_core.errors import UserError
from matta_core.families import family_of
from matta_core.nesting.size import Granularity
from matta_core.recipe import TrainConfig

_PARTS = 16  # of the way from the Student's width to the TA's; the ends are trained as sizes of their own
_KEPT = 64  # live students that are kept for the next time their widths are drawn

Widths = tuple[int, ...]


class DrawnStudents:
    """The students of drawn widths. All else is the TA's. They depend on seed and step alone."""

    def __init__(
        self,
        config: TrainConfig,
        ta_config: PreTrainedConfig,
        granularities: Mapping[str, Granularity],
        live: Callable[[Granularity], PreTrainedModel],
    ) -> None:
        self._config = config
        ta, student = granularities[config.ta], granularities[config.student]
        if config.drawn.number and len(ta.by_layer) != 1:
            raise UserError(
                f"train.drawn.number must be 0 for {ta_config.model_type}: widths are drawn on an axis that "
                f"may differ by layer, and it has {'none' if not ta.by_layer else 'several'}; got {config.drawn.number}"
            )
        self._layers = len(ta.layers)
        for axis in ta.by_layer:
            low, high = min(student.by_layer[axis]), max(ta.by_layer[axis])
            unit = next(each.multiple_of for each in family_of(ta_config.model_type).axes if axis in each.keys)
            between = {low + round((high - low) * part / _PARTS / unit) * unit for part in range(1, _PARTS)}
            self._grid = sorted(between - {low, high})
            if config.drawn.number and not self._grid:
                raise UserError(
                    f"train.drawn.number must be 0, got {config.drawn.number}: no {axis} in steps of {unit} lies "
                    f"between {low} of {config.student} and {high} of {config.ta}"
                )

        @lru_cache(maxsize=_KEPT)
        def of_widths(widths: Widths) -> PreTrainedModel:
            (axis,) = ta.by_layer
            return live(ta.keeping("drawn", axis, widths))

        self._of_widths = of_widths

    def widths(self, step: int) -> dict[str, Widths]:
        """The widths by layer that a step trains, by the name of the draw."""
        lot = np.random.default_rng([self._config.seed, step])
        number = self._layers if self._config.drawn.by_layer else 1
        return {
            name: tuple(lot.choice(self._grid, number).tolist()) * (self._layers // number)
            for name in self._config.drawn_names
        }

    def of_step(self, step: int) -> dict[str, PreTrainedModel]:
        if step < self._config.first_nested_step:
            return {}
        return {name: self._of_widths(widths) for name, widths in self.widths(step).items()}
