"""Gemma 3, text only: four norms per layer, tied and scaled embeddings, layers with a sliding window or without."""

from matta_core.families.table import Family

GEMMA3 = Family(
    model_type="gemma3_text",
    # These norms multiply by 1 + weight.
    output_norms={"post_attention_layernorm.weight": -1.0, "post_feedforward_layernorm.weight": -1.0},
    activation="hidden_activation",
    unsupported={
        "final_logit_softcapping": "logits are rebuilt from hidden states by the output head alone",
        "use_bidirectional_attention": "a token must not see those after it",
    },
)
