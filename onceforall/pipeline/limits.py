"""What a specialised network may cost: `Limits`, and what can be decided of them by counting.

Knows families and their cost tables; nothing that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onceforall.costs import cost_table
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.records import Record
from onceforall.search import Limit
from onceforall.search.feasibility import decide

COUNTED = ("macs", "params", "peak_activation_bytes")  # known without measuring
TOLD = ("sram_bytes", "flash_bytes", "energy_mj")  # by some devices, beside their times


@dataclass(frozen=True)
class Limits:
    """What an arch may cost; None: anything. Memories are those of a device that tells them,
    `file_bytes` the size of the file that is delivered, `energy_mj` that of one run."""

    latency_ms: float | None = None
    macs: float | None = None
    params: float | None = None
    peak_activation_bytes: float | None = None
    sram_bytes: float | None = None
    flash_bytes: float | None = None
    file_bytes: float | None = None
    energy_mj: float | None = None

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
        for name, value in (("sram", self.sram_bytes), ("flash", self.flash_bytes)):
            if value is not None:
                parts.append(f"{value / 1024:g}KiB-{name}")
        if self.file_bytes is not None:
            parts.append(f"{self.file_bytes / 1024:g}KiB-file")
        if self.energy_mj is not None:
            parts.append(f"{self.energy_mj:g}mJ")
        return "-".join(parts)

    @property
    def told(self) -> dict[str, float]:
        """Those on what a device tells beside its times."""
        return {name: vars(self)[name] for name in TOLD if vars(self)[name] is not None}

    @property
    def most_ms(self) -> float:
        return np.inf if self.latency_ms is None else self.latency_ms

    def met(self, latency: Record) -> bool:
        """Whether a network that was timed is within the limits on what was measured then."""
        facts = latency.provenance
        return latency.value <= self.most_ms and all(
            facts.get(name, np.inf) <= most for name, most in self.told.items()
        )


def counted(family: Family, limits: Limits) -> list[Limit]:
    """The limits that need no measuring, as search takes them."""
    wanted = {name: vars(limits)[name] for name in COUNTED}
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
