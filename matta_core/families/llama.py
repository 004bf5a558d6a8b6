"""Llama 2 and 3, and models of the same class: gated FFN, rotary positions, grouped queries. The table's default."""

from matta_core.families.table import Family

LLAMA = Family(model_type="llama")
