"""Reading fields of somebody else's JSON or YAML: the right type, or an error with the place.

Knows no format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from onceforall.errors import InputError, choices

LARGEST = 10**6  # of a size, a count or a number of channels


def shown(value: object) -> str:
    """A value as an error shows it: one line, not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


class Fields:
    """A map under test: each `take` names a field; `done` refuses what nobody asked for."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise InputError(f"{where}: {shown(data)} is not a map of fields")
        self._data, self._where, self._asked = data, where, set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def where(self, name: str) -> str:
        return f"{self._where}: {name}"

    def take(self, name: str, *default: Any) -> Any:
        """The field as it is, or the default where there is one and the field is absent."""
        self._asked.add(name)
        if name in self._data:
            return self._data[name]
        if not default:
            raise InputError(f"{self._where}: {name!r} is missing")
        return default[0]

    def whole(self, name: str, *default: int, low: int = 1) -> int:
        """A whole number, not below `low`."""
        return whole(self.take(name, *default), self.where(name), low)

    def number(self, name: str, *default: float) -> float:
        """A finite number."""
        value = self.take(name, *default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise InputError(f"{self.where(name)}: {shown(value)} is not a number")
        return value

    def flag(self, name: str, *default: bool) -> bool:
        value = self.take(name, *default)
        if not isinstance(value, bool):
            raise InputError(f"{self.where(name)}: {shown(value)} is not true or false")
        return value

    def one_of(self, name: str, allowed: Iterable[Any], *default: Any) -> Any:
        value = self.take(name, *default)
        known = list(allowed)
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in known):
            raise InputError(
                f"{self.where(name)}: {shown(value)} is not supported, only {choices(known)}"
            )
        return value

    def done(self) -> None:
        """Refuses fields that were never asked for."""
        unknown = [name for name in self._data if name not in self._asked]
        if unknown:
            raise InputError(
                f"{self._where}: unknown field {shown(unknown[0])};"
                f" it has {choices(sorted(self._asked))}"
            )


def whole(value: Any, where: str, low: int = 1) -> int:
    """`value` if it is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= LARGEST:
        kind = "positive whole number" if low == 1 else f"whole number of at least {low}"
        if isinstance(value, int) and value > LARGEST:
            kind = f"whole number of at most {LARGEST}"
        raise InputError(f"{where}: {shown(value)} is not a {kind}")
    return value


def items(value: Any, where: str) -> list[Any]:
    """`value` if it is a list."""
    if not isinstance(value, list):
        raise InputError(f"{where}: {shown(value)} is not a list")
    return value


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
