"""Qwen2 and Qwen2.5: Llama's shape with biases on queries, keys and values."""

from matta_core.families.table import Family

QWEN2 = Family(model_type="qwen2")
