"""GPT-2. Its Conv1D keeps weights as (in, out); c_attn holds queries, keys and values side by side."""

import re

from matta_core.families.table import Family

GPT2 = Family(
    model_type="gpt2",
    layers="transformer.h",
    width_key="n_inner",
    neurons={"mlp.c_fc.weight": 1, "mlp.c_fc.bias": 0, "mlp.c_proj.weight": 0},
    queries={},
    keys_values={},
    no_heads="its stock class computes the size of a head as hidden_size / num_attention_heads, so that fewer heads of "
    "the same size cannot be expressed",
    ffn_output="mlp.c_proj",
    attention_output="attn.c_proj",
    fused={"attn.c_attn.weight": (1, 3)},
    matrices=re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$|^lm_head\.weight$"),
    dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    activation="activation_function",
)
