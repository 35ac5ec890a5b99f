"""What was measured, and its files: `Record`, and `Labels`, arrays that predictors are fitted on.

Knows archs and spaces; no predictors, no devices and no torch.
"""

from onceforall.records.identity import comparable, refuse_others
from onceforall.records.labels import Labels, by_device, read_labels
from onceforall.records.record import Record, add, add_all, appending, read_jsonl, write_jsonl
from onceforall.records.sheets import Sheet, arch_columns, read_archs, write_columns, write_csv
from onceforall.records.store import Store

__all__ = [
    "Record",
    "add",
    "add_all",
    "appending",
    "comparable",
    "read_jsonl",
    "refuse_others",
    "write_jsonl",
    "Labels",
    "by_device",
    "read_labels",
    "Sheet",
    "Store",
    "arch_columns",
    "read_archs",
    "write_columns",
    "write_csv",
]
