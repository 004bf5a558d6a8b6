"""What a family's table says. A family is one transformers architecture whose parameters nest."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """One architecture. Parameters are named by their ends, below one layer; a number is the dimension that nests.

    Adding a family is adding such a table: docs/families.md goes through it line by line.
    """

    model_type: str
    layers: str = "model.layers"  # the module that lists the layers
    width_key: str = "intermediate_size"  # the config's word for FFN neurons per layer
    # FFN neurons: along which dimension of which parameter they lie. Biases that a config turns off are just not met.
    neurons: Mapping[str, int] = field(
        default_factory=lambda: {
            "mlp.gate_proj.weight": 0,
            "mlp.gate_proj.bias": 0,
            "mlp.up_proj.weight": 0,
            "mlp.up_proj.bias": 0,
            "mlp.down_proj.weight": 1,
        }
    )
    # Query heads, and key and value heads. Empty where heads do not nest: `no_heads` says why.
    queries: Mapping[str, int] = field(
        default_factory=lambda: {
            "self_attn.q_proj.weight": 0,
            "self_attn.q_proj.bias": 0,
            "self_attn.o_proj.weight": 1,
        }
    )
    keys_values: Mapping[str, int] = field(
        default_factory=lambda: {
            "self_attn.k_proj.weight": 0,
            "self_attn.k_proj.bias": 0,
            "self_attn.v_proj.weight": 0,
            "self_attn.v_proj.bias": 0,
        }
    )
    no_heads: str = ""
    # The two projections through which a layer writes into the residual stream.
    ffn_output: str = "mlp.down_proj"
    attention_output: str = "self_attn.o_proj"
    # Norms after these projections, and the weight with which they write nothing. Behind a norm a projection of zeros
    # is no gentle beginning: its first step, however small, comes out at full size.
    output_norms: Mapping[str, float] = field(default_factory=dict)
    # Parameters that hold several matrices side by side: the dimension, and how many equal parts.
    fused: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    # The parameters that a token is multiplied with.
    matrices: re.Pattern[str] = re.compile(
        r"\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)\.weight$|^lm_head\.weight$"
    )
    dropouts: tuple[str, ...] = ("attention_dropout",)
    activation: str = "hidden_act"
    # Settings that must keep their default, and why.
    unsupported: Mapping[str, str] = field(default_factory=dict)
