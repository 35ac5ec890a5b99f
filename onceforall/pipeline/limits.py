"""What a specialised network may cost: `Limits`, and what can be decided of them by counting.

Knows families and their cost tables; nothing that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onceforall.costs import cost_table
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.search import Limit
from onceforall.search.feasibility import decide


@dataclass(frozen=True)
class Limits:
    """What an arch may cost; None: anything."""

    latency_ms: float | None = None
    macs: float | None = None
    params: float | None = None
    peak_activation_bytes: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise InputError(f"{name}: {value:g} is not above 0")
        if all(value is None for value in vars(self).values()):
            raise InputError("limits: none given")

    def __str__(self) -> str:
        """Short and fit for a file's name."""
        parts = []
        if self.latency_ms is not None:
            parts.append(f"{self.latency_ms:g}ms")
        if self.macs is not None:
            parts.append(f"{self.macs / 1e6:g}M-macs")
        if self.params is not None:
            parts.append(f"{self.params / 1e6:g}M-params")
        if self.peak_activation_bytes is not None:
            parts.append(f"{self.peak_activation_bytes / 1024:g}KiB")
        return "-".join(parts)


def counted(family: Family, limits: Limits) -> list[Limit]:
    """The limits that need no measuring, as search takes them."""
    wanted = {name: value for name, value in vars(limits).items() if name != "latency_ms"}
    return [
        Limit(name, cost_table(family, name), at_most=value)
        for name, value in wanted.items()
        if value is not None
    ]


def refuse_impossible(family: Family, limits: Limits) -> None:
    """Decides before the long work what can be decided without it.

    Raises:
        Infeasible: no arch has counts within the limits; says what could be met.
        InputError: what is limited cannot be counted on this family.
    """
    decide(family.space, counted(family, limits), np.random.default_rng(0))
