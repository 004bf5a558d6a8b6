"""Qwen3: no biases unless attention_bias is set; queries and keys are normalised per head, by one weight for all."""

from matta_core.families.qwen2 import QWEN2
from matta_core.families.table import Family

QWEN3 = Family(model_type="qwen3", queries=QWEN2.queries, keys_values=QWEN2.keys_values)
