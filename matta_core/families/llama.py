"""Llama 2 and 3, and what shares their class: gated FFN, rotary positions, grouped queries.

Biases are off unless the config turns them on (attention_bias, mlp_bias): their rows are listed for that case.
"""

from matta_core.families.table import Family

LLAMA = Family(
    model_type="llama",
    neurons={
        "mlp.gate_proj.weight": 0,
        "mlp.gate_proj.bias": 0,
        "mlp.up_proj.weight": 0,
        "mlp.up_proj.bias": 0,
        "mlp.down_proj.weight": 1,
    },
    queries={"self_attn.q_proj.weight": 0, "self_attn.q_proj.bias": 0, "self_attn.o_proj.weight": 1},
    keys_values={
        "self_attn.k_proj.weight": 0,
        "self_attn.k_proj.bias": 0,
        "self_attn.v_proj.weight": 0,
        "self_attn.v_proj.bias": 0,
    },
)
