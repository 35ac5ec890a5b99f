"""What a stretch of runs took from the power supply, where Linux tells it: RAPL's counters.

Intel's and AMD's processors count the energy of each package; the counters are readable by root
alone on most systems. What else runs on the machine is counted, too. Knows files, no networks.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/class/powercap")


class Meter:
    """Millijoules since the last reading, of all packages; None: the system does not tell."""

    def __init__(self) -> None:
        self._zones = [
            zone
            for zone in sorted(ROOT.glob("*-rapl:*"))
            if zone.name.count(":") == 1  # a package, not a part of one
        ]
        self._before = self._read()

    def spent_mj(self) -> float | None:
        """Since it was made, or last asked."""
        now, before = self._read(), self._before
        self._before = now
        if now is None or before is None:
            return None
        total = 0.0
        for zone, start, end in zip(self._zones, before, now, strict=True):
            if end < start:  # the counter began anew
                end += _number(zone / "max_energy_range_uj") or 0
            total += max(end - start, 0)
        return total / 1000

    def _read(self) -> list[int] | None:
        found = [_number(zone / "energy_uj") for zone in self._zones]
        known = [value for value in found if value is not None]
        return known if known and len(known) == len(found) else None


def tells_energy() -> bool:
    """Whether this machine's system tells what its processors take."""
    return Meter().spent_mj() is not None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
