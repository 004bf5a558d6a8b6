"""The shapes that are measured: models, their sizes, and a step's tokens."""

from dataclasses import dataclass
from typing import Any

SEQUENCES = 12  # so that each of eight sizes has whole rows


@dataclass(frozen=True)
class Shape:
    """GPT-2s with eight FFN widths, ascending, and the four of them that make the smaller family."""

    model: dict[str, Any]
    eight: tuple[int, ...]
    four: tuple[int, ...]
    length: int

    @property
    def vocabulary(self) -> int:
        return self.model["vocab_size"]


def _gpt2(vocabulary: int, hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "activation_function": "gelu_pytorch_tanh",
    }


def _in_the_papers_proportions(hidden: int) -> dict[str, tuple[int, ...]]:
    """FFNs from 4 to 8 times the width: from GPT-2 Medium to its TA."""
    return {
        "eight": tuple(hidden * eighths // 8 for eighths in (32, 36, 40, 44, 48, 52, 56, 64)),
        "four": tuple(hidden * factor for factor in (4, 5, 6, 8)),
    }


def shapes(device_type: str) -> dict[str, Shape]:
    """By name. A GPU has the demo's step, too, and as many tokens and as wide an FFN as fill it."""
    on_gpu = device_type == "cuda"
    hidden = 1536 if on_gpu else 512
    return {
        "demo": Shape(_gpt2(2048, 64, 2, 1), (64, 128, 192, 320, 448, 640, 832, 1024), (64, 192, 448, 1024), 128),
        "vocabulary": Shape(  # GPT-2's
            _gpt2(50_257, 256, 4, 4),
            (512, 1024, 1536, 2048, 2560, 3072, 3584, 4096),
            (512, 1024, 2048, 4096),
            684 if on_gpu else 43,
        ),
        "ffn": Shape(
            _gpt2(2048, hidden, 4, hidden // 64), **_in_the_papers_proportions(hidden), length=684 if on_gpu else 64
        ),
    }
