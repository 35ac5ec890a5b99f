"""Quantities as people write them: 20ms, 300M, 1.5G, 256KiB."""

from __future__ import annotations

import math
import re
from typing import overload

from onceforall.errors import InputError, choices

TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
COUNTED = ("MACs", "parameters")
COUNTS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}


@overload
def quantity(where: str, text: str, unit: str | None) -> float: ...
@overload
def quantity(where: str, text: None, unit: str | None) -> None: ...
def quantity(where: str, text: str | None, unit: str | None) -> float | None:
    """The number a text means, in the unit of the quantity; a bare number is in it already.

    `unit` is that of a time, "bytes", one of COUNTED, or any name, which then is the only one that
    fits; None where the quantity's is not known: times are then taken in ms.

    Raises:
        InputError: not a number, or with a unit that the quantity cannot have.
    """
    if text is None:
        return None
    fitting = _fitting(unit)
    match = re.fullmatch(r"([0-9.eE+-]+?)\s*([A-Za-z%]*)", text.strip())
    try:
        value = float(match[1]) * (fitting[match[2]] if match[2] else 1.0) if match else math.nan
    except (ValueError, KeyError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{where}: {text!r} is not a number with a unit that fits ({choices(fitting)}, or none)"
            if text.strip().lower() not in ("nan", "inf", "-inf")
            else f"{where}: {text!r} is not a finite number"
        )
    return value


def _fitting(unit: str | None) -> dict[str, float]:
    """What a number in each unit that fits has to be multiplied by."""
    if unit is None:
        return TIMES | COUNTS | BYTES
    if unit in TIMES:
        return {name: factor / TIMES[unit] for name, factor in TIMES.items()}
    if unit == "bytes":
        return COUNTS | BYTES
    return COUNTS if unit in COUNTED else {unit: 1.0}
