"""Quantities as people write them: 20ms, 300M, 1.5G, 256KiB."""

from __future__ import annotations

import math
import re
from typing import overload

from onceforall.errors import InputError, choices

UNITS = {
    "": 1.0,
    "us": 1e-3,  # latencies are in milliseconds
    "ms": 1.0,
    "s": 1e3,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
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
def quantity(where: str, text: str) -> float: ...
@overload
def quantity(where: str, text: None) -> None: ...
def quantity(where: str, text: str | None) -> float | None:
    """The number a text means, in ms, bytes or pieces.

    Raises:
        InputError: not a number and a unit.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9.eE+-]+?)\s*([A-Za-z]*)", text.strip())
    try:
        value = float(match[1]) * UNITS[match[2]] if match else math.nan
    except (ValueError, KeyError):
        value = math.nan
    if not math.isfinite(value):
        units = choices(unit for unit in UNITS if unit)
        raise InputError(f"{where}: {text!r} is not a number with a unit ({units})")
    return value
