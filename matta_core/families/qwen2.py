"""Qwen2 and Qwen2.5: Llama's shape with biases on queries, keys and values."""

from matta_core.families.table import Family

QWEN2 = Family(
    model_type="qwen2",
    queries={"self_attn.q_proj.weight": 0, "self_attn.q_proj.bias": 0, "self_attn.o_proj.weight": 1},
    keys_values={
        "self_attn.k_proj.weight": 0,
        "self_attn.k_proj.bias": 0,
        "self_attn.v_proj.weight": 0,
        "self_attn.v_proj.bias": 0,
    },
)
