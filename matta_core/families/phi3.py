"""Phi-3 and Phi-4: Llama's shape; gate and up are one projection, and so are queries, keys and values."""

from dataclasses import replace

from matta_core.families.table import FFN, HEADS, KEYS, NEURONS, QUERIES, Family

PHI3 = Family(
    model_type="phi3",
    axes=(
        replace(
            FFN,
            parameters={"mlp.gate_up_proj.weight": (0, [NEURONS, NEURONS]), "mlp.down_proj.weight": (1, [NEURONS])},
        ),
        replace(
            HEADS,
            parameters={
                "self_attn.qkv_proj.weight": (0, [QUERIES, KEYS, KEYS]),
                "self_attn.o_proj.weight": (1, [QUERIES]),
            },
        ),
    ),
    dropouts=("resid_pdrop", "embd_pdrop", "attention_dropout"),
)
