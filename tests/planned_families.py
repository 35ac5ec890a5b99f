"""Families that are written as layers by place, whose networks run at any size."""

from onceforall import families

BUILT = ("autoformer_t", "vit", "vit_mini")  # by `build` alone; see test_transformers
PLANNED = [name for name in families.names() if name not in BUILT]
