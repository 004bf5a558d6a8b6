"""Which students are cut out of the TA, and which widths are mixed for a budget."""

import re
from dataclasses import dataclass

from matta_core.artifacts.kinds.checkpoint import SIZE_NAME
from matta_core.recipe.settings import Section, setting


@dataclass(frozen=True)
class MixConfig(Section):
    """The budget of one mixed student (Mix'n'Match). Exactly one of these is set."""

    parameters: int | None = setting(None, low=1)
    bytes: int | None = setting(None, low=1, unit="bytes of float32 weights")
    flops_per_token: int | None = setting(None, low=1, help="at the training data's sequence length")
    prefill_seconds: float | None = setting(
        None, above=0.0, unit="seconds", help="of one training sequence, batch 1, measured where extraction runs"
    )

    def check(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"budget must be one of parameters, bytes, flops_per_token and prefill_seconds, got {given}"
            )

    @property
    def budget(self) -> tuple[str, float]:
        """The name of the limited cost, and its limit."""
        return next((name, value) for name, value in vars(self).items() if value is not None)


def amount(value: float) -> str:
    """A budget or a cost in words: counts in full, seconds to four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


@dataclass(frozen=True)
class ExtractStudentsConfig(Section):
    """Which students are cut out of the TA."""

    sizes: tuple[str, ...] | None = setting(None, help="names; none: all that were trained")
    certificate_sequences: int = setting(4, low=1, unit="sequences of the validation split")
    mixes: dict[str, MixConfig] = setting(
        default_factory=dict,
        help="further students by name, each the best mixture of the sizes' FFN widths for a budget, for instance "
        "mid: {parameters: 400000000}",
    )
    mix_evaluations: int = setting(200, low=1, unit="mixtures", help="scored per mix, at most")
    mix_sequences: int = setting(32, low=1, unit="sequences of the validation split", help="that score a mixture")
    compact: bool = setting(
        False,
        help="students whose widths differ from layer to layer are stock checkpoints, padded with zeros; true: beside "
        "each, below compact/, also without padding, with a small class that loads where its user says "
        "trust_remote_code=True",
    )

    def check(self) -> None:
        for name in self.mixes:
            if not re.fullmatch(SIZE_NAME, name) or name in ("teacher", "references", "compact"):
                raise ValueError(
                    f"mixes are folders' names: at most 63 letters, digits, - and _, and not 'teacher', 'references' "
                    f"or 'compact'; got {name!r}"
                )
