"""What is searched for: an objective, limits, and the archs evaluated so far.

A search knows a `Space` and functions of populations; whether those are predictors,
tables or anything else it does not know.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.search.archive import Archive
from onceforall.search.limits import Floats, Limit, violation
from onceforall.space import Arch, Population, Space


@dataclass(frozen=True)
class Certificate:
    """How good any arch within the limits can be at most."""

    bound: float
    gap: float  # bound minus the value found; 0 is a proven optimum


@dataclass(frozen=True)
class Candidate:
    """An arch with its objective and the values of the limited quantities."""

    arch: Arch
    value: float
    limits: dict[str, float]


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        arch, value, limits: the best arch, its objective, the values of the limited quantities.
        evaluations: archs the objective was asked for, each once.
        candidates: the best distinct archs, best first.
        curve: (evaluations, best value) whenever the best improved.
    """

    arch: Arch
    value: float
    limits: dict[str, float]
    evaluations: int
    seconds: float
    method: str
    seed: int
    certificate: Certificate | None = None
    candidates: tuple[Candidate, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()

    def __repr__(self) -> str:
        limits = "".join(f", {name} {value:,.6g}" for name, value in self.limits.items())
        effort = f"{self.evaluations:,} evaluations in {self.seconds:.2g} s, {self.method}"
        return f"Result({str(self.arch)!r}: value {self.value:.5g}{limits}; {effort})"


@dataclass
class Problem:
    """One set of limits over an archive, and when to stop.

    Attributes:
        anchors: (n, genes) archs known to be within the limits; at least one.
        evaluations, deadline: no more evaluations are begun beyond this many archs in the
            archive, or after this time (of `time.perf_counter`).
    """

    archive: Archive
    limits: tuple[Limit, ...]
    anchors: Population
    evaluations: float = math.inf
    deadline: float = math.inf
    curve: list[tuple[int, float]] = field(default_factory=list)
    best: int = -1  # in the archive
    _noted: int = 0  # archs of the archive that `note` has looked at
    _feasible: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def space(self) -> Space:
        return self.archive.space

    @property
    def left(self) -> int:
        """Evaluations that may still be made, at most a billion; 0 when time is over."""
        if time.perf_counter() >= self.deadline:
            return 0
        return max(0, int(min(self.evaluations - len(self.archive), 1e9)))

    def violation(self, population: Population) -> Floats:
        """(n,) the sum of all limits' excesses; 0 within the limits."""
        return violation(self.limits, population, self.archive.limited)

    def within(self, population: Population) -> NDArray[np.bool_]:
        """(n,) whether an arch is within the limits."""
        return self.violation(population) == 0

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """(n,) which archs of the archive are within the limits."""
        n = len(self.archive)
        if len(self._feasible) < n:
            new = self.archive.population[len(self._feasible) :]
            self._feasible = np.concatenate([self._feasible, self.within(new)])
        return self._feasible

    def add(self, population: Population) -> NDArray[np.intp]:
        """Where each arch is in the archive; of new ones, only as many as may be evaluated.

        (n,), or shorter where evaluations ran out.
        """
        new = self.archive.unseen(population)
        if len(new) > self.left:
            allowed = set(self.archive.keys(new[: self.left]))
            known = self.archive._index
            keep = [k in known or k in allowed for k in self.archive.keys(population)]
            population = population[keep]
        where = self.archive.add(population)
        self.note()
        return where

    def first(self) -> None:
        """Evaluates one arch within the limits, so that there is a best however little time."""
        self.archive.add(self.anchors[:1])
        self.note()

    def note(self) -> None:
        feasible, values = self.feasible, self.archive.values
        new = np.arange(self._noted, len(values))
        self._noted = len(values)
        new = new[feasible[new]]
        if not len(new):
            return
        top = int(new[values[new].argmax()])
        if self.best < 0 or values[top] > values[self.best]:
            self.best = top
            self.curve.append((len(values), float(values[top])))

    def ranked(self) -> NDArray[np.intp]:
        """Archs of the archive that are within the limits, best first."""
        inside = np.flatnonzero(self.feasible)
        return inside[np.argsort(-self.archive.values[inside], kind="stable")]

    def delivered(self, top: int) -> list[Candidate]:
        """The best archs within the limits, at least one, with the values that each has by itself.
        (What a function says of an arch may depend, in the last digits, on what else it is asked.)
        """
        found: list[Candidate] = []
        for index in self.ranked():
            made = self.candidate(int(index))
            alone = [(limit, np.array([made.limits[limit.name]])) for limit in self.limits]
            if all(limit.excess(value)[0] == 0 for limit, value in alone):
                found.append(made)
            if len(found) == max(top, 1):
                break
        return found or [self.candidate(self.best)]

    def candidate(self, index: int) -> Candidate:
        row = self.archive.population[index : index + 1]
        return Candidate(
            self.space.decode(row)[0],
            float(self.archive.values[index]),
            {limit.name: float(limit.value(row)[0]) for limit in self.limits},
        )


def check_seed(seed: int) -> None:
    """Raises InputError where random numbers cannot start from it."""
    if seed < 0:
        raise InputError(f"seed: {seed} is negative")
