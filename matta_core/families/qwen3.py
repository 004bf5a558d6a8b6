"""Qwen3: Llama's shape; queries and keys are normalised per head, by one weight for all."""

from matta_core.families.table import Family

QWEN3 = Family(model_type="qwen3")
