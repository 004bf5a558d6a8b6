"""What a family's table says: which axes its layers have, and where in the parameters they lie."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A stretch of a parameter's dimension, as a grid of counts, the outermost first: each is a config's word.
Segment = tuple[str, ...]

NEURONS: Segment = ("intermediate_size",)
KEYS: Segment = ("num_key_value_heads", "head_dim")  # of keys, and of values
QUERIES: Segment = ("num_key_value_heads", "num_attention_heads", "head_dim")


@dataclass(frozen=True)
class Axis:
    """Units that every layer has, and of which a student keeps the first: FFN neurons, attention heads.

    Parameters are named by their ends, below one layer. Those that a config turns off, such as biases, are not met.
    """

    name: str
    # What configs and recipes count, and what one is called. Of two, the second lie in equal shares within the first,
    # as query heads within key/value heads: a student keeps the first groups, and the first of each group's heads.
    keys: Mapping[str, str]
    # Where the units lie: a parameter's dimension, and the segments that this is the concatenation of.
    parameters: Mapping[str, tuple[int, Sequence[Segment]]]
    output: str  # the projection through which the units write into the residual stream
    by_layer: bool = False  # a size may keep another number in each layer
    multiple_of: int = 1  # what a size keeps
    attends: bool = False  # each unit looks at all tokens of the context
    fixed: str = ""  # why a size must keep all, where the stock class wants that

    @property
    def read(self) -> tuple[str, int, Segment]:
        """The output projection's weight, the dimension along which it reads the units, and the grid in which."""
        name = f"{self.output}.weight"
        dimension, (grid,) = self.parameters[name]
        return name, dimension, grid

    def shares(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Every key's count: of the first, in all; of another, within each unit of the one before."""
        keys = list(self.keys)
        return {key: counts[key] // counts[keys[place - 1]] if place else counts[key] for place, key in enumerate(keys)}

    def called(self, key: str) -> str:
        """What `shares` counts, in words."""
        names = list(self.keys)
        place = names.index(key)
        return f"{self.keys[key]}s" + (f" per {self.keys[names[place - 1]]}" if place else "")

    @property
    def settings(self) -> Iterator[tuple[str, str]]:
        """What a recipe's size may set, and the key that it counts: `intermediate_sizes` has one for each layer."""
        for key in self.keys:
            yield key, key
            if self.by_layer:
                yield f"{key}s", key


FFN = Axis(
    "neurons",
    keys={"intermediate_size": "neuron"},
    parameters={
        "mlp.gate_proj.weight": (0, [NEURONS]),
        "mlp.gate_proj.bias": (0, [NEURONS]),
        "mlp.up_proj.weight": (0, [NEURONS]),
        "mlp.up_proj.bias": (0, [NEURONS]),
        "mlp.down_proj.weight": (1, [NEURONS]),
    },
    output="mlp.down_proj",
    by_layer=True,
    multiple_of=8,  # matrix units' tiles
)
HEADS = Axis(
    "attention heads",
    keys={"num_key_value_heads": "key/value head", "num_attention_heads": "query head"},
    parameters={
        "self_attn.q_proj.weight": (0, [QUERIES]),
        "self_attn.q_proj.bias": (0, [QUERIES]),
        "self_attn.k_proj.weight": (0, [KEYS]),
        "self_attn.k_proj.bias": (0, [KEYS]),
        "self_attn.v_proj.weight": (0, [KEYS]),
        "self_attn.v_proj.bias": (0, [KEYS]),
        "self_attn.o_proj.weight": (1, [QUERIES]),
    },
    output="self_attn.o_proj",
    attends=True,
)
# What a config means where it says no number.
UNSAID: Mapping[str, Callable[[Any], int]] = {
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
}


@dataclass(frozen=True)
class Family:
    """One transformers architecture whose parameters nest. Llama's shape is the default.

    Adding a family is adding such a table: docs/families.md goes through it line by line.
    """

    model_type: str
    layers: str = "model.layers"  # the module that lists the layers
    axes: tuple[Axis, ...] = (FFN, HEADS)
    words: Mapping[str, str] = field(default_factory=dict)  # the config's, where it says a key otherwise
    unsaid: Mapping[str, Callable[[Any], int]] = field(default_factory=lambda: UNSAID)
    # Norms after the axes' output projections, and the weight with which they write nothing. Behind a norm a projection
    # of zeros is no gentle beginning: its first step, however small, comes out at full size.
    output_norms: Mapping[str, float] = field(default_factory=dict)
    dropouts: tuple[str, ...] = ("attention_dropout",)
    activation: str = "hidden_act"
    # Settings that must keep their default, and why.
    unsupported: Mapping[str, str] = field(default_factory=dict)

    def word(self, key: str) -> str:
        """What the config calls it."""
        return self.words.get(key, key)

    def count(self, config: Any, key: str) -> int:
        """How many of something a model with this config has."""
        number = getattr(config, self.word(key), None)
        return number if number is not None else self.unsaid[key](config)

    @property
    def nested(self) -> tuple[Axis, ...]:
        """The axes on which a size can be smaller."""
        return tuple(axis for axis in self.axes if not axis.fixed)

    @property
    def keys(self) -> tuple[str, ...]:
        """What the axes count."""
        return tuple(key for axis in self.axes for key in axis.keys)

    @property
    def features(self) -> set[str]:
        """Counts that lie along an axis and stay: a head's size."""
        grids = [segment for axis in self.axes for _, segments in axis.parameters.values() for segment in segments]
        return {key for grid in grids for key in grid} - set(self.keys)
