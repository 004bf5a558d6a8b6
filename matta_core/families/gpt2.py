"""GPT-2. Its Conv1D keeps weights as (in, out); c_attn holds queries, keys and values side by side."""

from dataclasses import replace

from matta_core.families.table import FFN, HEADS, KEYS, NEURONS, QUERIES, UNSAID, Family

GPT2 = Family(
    model_type="gpt2",
    layers="transformer.h",
    axes=(
        replace(
            FFN,
            parameters={
                "mlp.c_fc.weight": (1, [NEURONS]),
                "mlp.c_fc.bias": (0, [NEURONS]),
                "mlp.c_proj.weight": (0, [NEURONS]),
            },
            output="mlp.c_proj",
        ),
        replace(
            HEADS,
            parameters={
                "attn.c_attn.weight": (1, [QUERIES, KEYS, KEYS]),
                "attn.c_attn.bias": (0, [QUERIES, KEYS, KEYS]),
                "attn.c_proj.weight": (0, [QUERIES]),
            },
            output="attn.c_proj",
            fixed="its stock class computes the size of a head as hidden_size / num_attention_heads, so that fewer "
            "heads of the same size cannot be expressed",
        ),
    ),
    words={"intermediate_size": "n_inner"},
    unsaid={**UNSAID, "intermediate_size": lambda config: 4 * config.hidden_size},
    dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    activation="activation_function",
)
