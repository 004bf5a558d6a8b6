"""The tables of families: which axes the layers have, and where in the parameters these lie."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A stretch of a parameter's dimension, as a grid of counts with the outermost first. Each is a word of the config.
Segment = tuple[str, ...]

NEURONS: Segment = ("intermediate_size",)
KEYS: Segment = ("num_key_value_heads", "head_dim")  # the segment of keys, and of values
QUERIES: Segment = ("num_key_value_heads", "num_attention_heads", "head_dim")

# Names of one function, equal up to rounding. The first is a single kernel; GPT-2's own, the second, is seven.
TANH_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")


@dataclass(frozen=True)
class Axis:
    """A kind of unit that every layer has: FFN neurons, attention heads. A student keeps the first of them.

    Parameters are named by their ends, below one layer. Some, such as biases, exist only if a config turns them on.
    """

    name: str
    # The words by which configs and recipes count units, and what one unit is called. If there are two, the second
    # units lie in equal shares within the first, as query heads within key/value heads: a student keeps the first
    # groups, and the first heads of each group.
    keys: Mapping[str, str]
    # Where the units lie: in which dimension of a parameter, which is the concatenation of these segments.
    parameters: Mapping[str, tuple[int, Sequence[Segment]]]
    output: str  # the projection through which the units write into the residual stream
    by_layer: bool = False  # a size may keep a different number in each layer
    multiple_of: int = 1  # a size keeps multiples of it
    attends: bool = False  # each unit looks at all tokens of the context
    fixed: str = ""  # why a size must keep all units, if the stock class demands it

    @property
    def read(self) -> tuple[str, int, Segment]:
        """The output projection's weight, the dimension along which it reads the units, and their grid there."""
        name = f"{self.output}.weight"
        dimension, (grid,) = self.parameters[name]
        return name, dimension, grid

    def shares(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Every key's count: the first key's in all, another key's within each unit of the key before."""
        keys = list(self.keys)
        return {key: counts[key] // counts[keys[place - 1]] if place else counts[key] for place, key in enumerate(keys)}

    def called(self, key: str) -> str:
        """The name of a count of `shares`, in words."""
        names = list(self.keys)
        place = names.index(key)
        return f"{self.keys[key]}s" + (f" per {self.keys[names[place - 1]]}" if place else "")

    @property
    def settings(self) -> Iterator[tuple[str, str]]:
        """A recipe's settings, each with the key that it counts. `intermediate_sizes` has a count per layer."""
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
    multiple_of=8,  # the tiles of matrix units
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
# What a config means where it gives no number.
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
    words: Mapping[str, str] = field(default_factory=dict)  # the config's word for a key, where it is another one
    unsaid: Mapping[str, Callable[[Any], int]] = field(default_factory=lambda: UNSAID)
    # Norms after the axes' output projections, and the weight with which each writes nothing. A projection of zeros
    # before a norm is no gentle beginning: the norm brings its first step, however small, to full size.
    output_norms: Mapping[str, float] = field(default_factory=dict)
    dropouts: tuple[str, ...] = ("attention_dropout",)
    activation: str = "hidden_act"
    number: str = "intermediate_size"  # the axis's key that a plain number in a recipe's sizes counts
    # Settings that must keep their default, and why.
    unsupported: Mapping[str, str] = field(default_factory=dict)

    def word(self, key: str) -> str:
        """The config's word for a key."""
        return self.words.get(key, key)

    def count(self, config: Any, key: str) -> int:
        """How many units of a key a model with this config has."""
        number = getattr(config, self.word(key), None)
        return number if number is not None else self.unsaid[key](config)

    @property
    def nested(self) -> tuple[Axis, ...]:
        """The axes on which a size can be smaller."""
        return tuple(axis for axis in self.axes if not axis.fixed)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all axes."""
        return tuple(key for axis in self.axes for key in axis.keys)

    @property
    def features(self) -> set[str]:
        """Counts along an axis that never change, such as a head's size."""
        grids = [segment for axis in self.axes for _, segments in axis.parameters.values() for segment in segments]
        return {key for grid in grids for key in grid} - set(self.keys)
