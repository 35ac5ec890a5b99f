"""What can be tabled over a space, by name: each is a sum or a maximum over rows of a `Cost`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from onceforall.costs.result import Row
from onceforall.space import Reduce

NO_OPERATION = ("Parameter", "Input")


class Quantity(NamedTuple):
    """`of` says what a row adds, or is at least."""

    reduce: Reduce
    unit: str
    of: Callable[[Row], float]


QUANTITIES: dict[str, Quantity] = {
    "macs": Quantity("sum", "MACs", lambda row: row.macs),
    "params": Quantity("sum", "parameters", lambda row: row.params),
    "peak_activation_bytes": Quantity("max", "bytes", lambda row: row.alive_bytes),
    "written": Quantity(  # by operations that have MACs
        "sum", "elements", lambda row: math.prod(row.output_shape) if row.macs else 0
    ),
    "depthwise": Quantity("sum", "MACs", lambda row: row.macs if row.depthwise else 0),
    "pools": Quantity("sum", "poolings", lambda row: "Pool" in row.kind or row.kind == "mean"),
    "operations": Quantity("sum", "operations", lambda row: row.kind not in NO_OPERATION),
}
PUBLIC = ("macs", "params", "peak_activation_bytes")
