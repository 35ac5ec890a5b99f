"""Costs of archs of a family that is given by `build` alone: each is built and counted, once.

Knows families and archs; tables over the space are made of what is counted here (`discovery`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onceforall import progress
from onceforall.costs.dispatch import count
from onceforall.costs.quantities import QUANTITIES
from onceforall.costs.result import FLOAT_BYTES, Cost, Row
from onceforall.costs.shapes import Unfilled
from onceforall.errors import InputError, choices
from onceforall.families import Family
from onceforall.space import Arch, Population, Space

Floats = NDArray[np.float64]
Key = tuple[str, int]  # of a row: its name, and how many of that name came before
Numbers = tuple[float, ...]  # what a row is of each of QUANTITIES


class Rows(NamedTuple):
    """An arch's rows as numbers."""

    numbers: dict[Key, Numbers]

    def total(self, name: str) -> float:
        at = list(QUANTITIES).index(name)
        values = [numbers[at] for numbers in self.numbers.values()]
        return float(sum(values) if QUANTITIES[name].reduce == "sum" else max(values))


@dataclass(eq=False)
class Built:
    """Networks of a family without weights, counted."""

    family: Family
    uncovered: dict[str, None] = field(default_factory=dict)  # of all that were counted
    _totals: dict[Arch, Numbers] = field(default_factory=dict)
    _rows: dict[Arch, Rows] = field(default_factory=dict)

    def cost(self, arch: Arch) -> Cost:
        """Raises InputError where the network cannot be counted."""
        family = self.family
        shape = (family.in_channels, arch.resolution, arch.resolution)
        try:
            return count(_without_weights(family, arch), shape, own=True)
        except InputError as error:
            try:  # it may need its weights
                return count(family.build(arch), shape, own=True)
            except InputError:
                raise InputError(f"{arch}: {error}") from None

    def rows(self, arch: Arch) -> Rows:
        if arch not in self._rows:
            found = self.cost(arch)
            image = (self.family.in_channels, arch.resolution, arch.resolution)
            size = FLOAT_BYTES * int(np.prod(image))
            rows = (Row("", "Input", image, 0, 0, alive_bytes=size), *found.rows)
            times: Counter[str] = Counter()
            numbers: dict[Key, Numbers] = {}
            for row in rows:
                key = (row.name, times[row.name])
                times[row.name] += 1
                numbers[key] = tuple(float(q.of(row)) for q in QUANTITIES.values())
            self.uncovered |= dict.fromkeys(found.uncovered)
            self._rows[arch] = Rows(numbers)
        return self._rows[arch]

    def total(self, arch: Arch, name: str) -> float:
        """Raises InputError where the network has operations that are not covered."""
        if arch not in self._totals:
            known = self.rows(arch)
            self._totals[arch] = tuple(known.total(each) for each in QUANTITIES)
            del self._rows[arch]  # there may be many
        check_covered(name, self.uncovered)
        return self._totals[arch][list(QUANTITIES).index(name)]


@lru_cache(maxsize=16)
def _built(same: Same) -> Built:
    return Built(same.family)


@dataclass(frozen=True, eq=False)
class Same:
    """A family as a key: equal to itself alone."""

    family: Family

    def __hash__(self) -> int:
        return id(self.family)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.family is self.family


def built(family: Family) -> Built:
    """The one `Built` of a family: what was counted is not counted again."""
    return _built(Same(family))


def check_covered(name: str, uncovered: Collection[str]) -> None:
    """Raises InputError where a number would be a lower bound; parameters are always known."""
    if uncovered and name != "params":
        raise InputError(f"costs: no rule says what {choices(uncovered)} costs")


@dataclass(frozen=True, eq=False)
class Counted:
    """A quantity of archs that is no table: a function of populations which builds and counts each
    arch, once. `name` and `unit` are those of a `Table`."""

    built: Built
    space: Space
    name: str
    unit: str

    def __call__(self, population: Population) -> Floats:
        """(n, genes) -> (n,)"""
        archs = self.space.decode(population)
        new = sum(arch not in self.built._totals for arch in archs)
        if new > 20:
            archs = list(progress.track(archs, f"counting {self.name}"))
        return np.array([self.built.total(arch, self.name) for arch in archs], float)

    def of(self, arch: Arch) -> float:
        """The value of one arch."""
        return self.built.total(arch, self.name)

    def restrict(self, space: Space) -> Counted:
        """The same, for a part of the space."""
        space.check_part(self.space, f"costs of {self.name}")
        return replace(self, space=space)


def _without_weights(family: Family, arch: Arch) -> nn.Module:
    """The network on the meta device; with weights where it cannot be built there."""
    try:
        with torch.device("meta"), Unfilled():
            return family.build(arch)
    except InputError:
        raise
    except Exception:  # such as a build that reads a value
        return family.build(arch)
