"""What is searched for: an objective, limits, and the archs evaluated so far.

A search knows a `Space` and functions of populations; whether those are predictors,
tables or anything else it does not know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.space import GENE, Arch, Population, Space, Table

Floats = NDArray[np.float64]
Objective = Callable[[Population], Floats]  # (n, genes) -> (n,), more is better

_ROUNDING = 1e-12  # a sum of numbers may exceed its bound by this share of it


@dataclass(frozen=True)
class Limit:
    """A quantity that must stay within bounds; a `Table` as value makes decisions exact.

    Attributes:
        name: for messages and results.
        value: a function of populations.
        at_most, at_least: inclusive; None for no bound.
        unit: for messages.
    """

    name: str
    value: Callable[[Population], Floats]
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        for bound in (self.at_most, self.at_least):
            if bound is not None and not math.isfinite(bound):
                raise InputError(f"limit {self.name}: {bound} is not a finite number")
        if self.at_most is None and self.at_least is None:
            raise InputError(f"limit {self.name}: neither at most nor at least is given")
        if self.low > self.high:
            raise InputError(
                f"limit {self.name}: at least {self.low:g} and at most {self.high:g} exclude"
                " each other"
            )

    @property
    def low(self) -> float:
        return -math.inf if self.at_least is None else self.at_least

    @property
    def high(self) -> float:
        return math.inf if self.at_most is None else self.at_most

    @property
    def range(self) -> str:
        """Its bounds in words."""
        most, least = self.at_most, self.at_least
        bounds = [] if least is None else [f"at least {self.text(least)}"]
        bounds += [] if most is None else [f"at most {self.text(most)}"]
        return " and ".join(bounds)

    def text(self, value: float) -> str:
        """A value for people: with its unit, and whole numbers in full."""
        number = f"{value:.0f}" if float(value).is_integer() else f"{value:.8g}"
        return f"{number} {self.unit}" if self.unit else number

    def excess(self, values: Floats) -> Floats:
        """How far outside its bounds each value is, as a share of the bound; 0 inside."""
        over = (values - self.high) / max(abs(self.high), 1e-300) if self.at_most is not None else 0
        under = (self.low - values) / max(abs(self.low), 1e-300) if self.at_least is not None else 0
        worst = np.maximum(over, under)
        return np.where(worst > _ROUNDING, worst, 0.0)

    def restrict(self, space: Space) -> Limit:
        """The same limit with its table, if it has one, cut to the space that is searched."""
        if not isinstance(self.value, Table):
            return self
        return Limit(self.name, self.value.restrict(space), self.at_most, self.at_least, self.unit)


class Infeasible(InputError):  # noqa: N818  (a state of the world, as in the literature)
    """No arch meets the limits: which limit is at fault, and what it could be at best.

    Attributes:
        limit: the first limit that cannot be met, by itself or together with `others`.
        nearest: the value closest to its bounds among archs that meet the others.
        proven: False where a search, not a proof, found nothing better.
    """

    def __init__(self, limit: Limit, nearest: float, others: Sequence[Limit], proven: bool) -> None:
        self.limit, self.nearest, self.proven = limit, nearest, proven
        too_low = nearest > limit.high
        side = (
            f"at most {limit.text(limit.high)}" if too_low else f"at least {limit.text(limit.low)}"
        )
        word = "smallest" if too_low else "largest"
        met = " and ".join(f"{other.name} {other.range}" for other in others)
        among = f" with {met}" if met else ""
        found = "achievable" if proven else "found"
        super().__init__(
            f"limit {limit.name}: {side} cannot be met{among};"
            f" the {word} value {found}{among and ' then'} is {limit.text(nearest)}"
        )


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


class Archive:
    """All archs evaluated so far, each once, in order: several searches can share one."""

    def __init__(self, space: Space, objective: Objective) -> None:
        self.space = space
        self._objective = objective
        # a random linear code of 64 bits: two archs share one with probability 2^-64
        rng = np.random.default_rng(20)
        self._code = rng.integers(-(2**63), 2**63 - 1, len(space.genes), dtype=np.int64)
        self._index: dict[int, int] = {}
        self._population = np.zeros((1024, len(space.genes)), GENE)
        self._values = np.zeros(1024)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def population(self) -> Population:
        return self._population[: len(self)]

    @property
    def values(self) -> Floats:
        return self._values[: len(self)]

    def keys(self, population: Population) -> list[int]:
        """A number for each arch, the same for equal archs."""
        codes: list[int] = (population.astype(np.int64) @ self._code).tolist()
        return codes

    def unseen(self, population: Population) -> Population:
        """The distinct archs of a population that are not here yet, in order."""
        first: dict[int, int] = {}
        for i, key in enumerate(self.keys(population)):
            if key not in self._index:
                first.setdefault(key, i)
        return population[list(first.values())]

    def add(self, population: Population) -> NDArray[np.intp]:
        """(n,) where each arch of the population is here; the objective is asked for new ones.

        Raises:
            InputError: the objective gives NaN, or not one number an arch.
        """
        keys = self.keys(population)
        new: dict[int, int] = {}
        for i, key in enumerate(keys):
            if key not in self._index:
                new.setdefault(key, i)
        if new:
            rows = population[list(new.values())]
            values = np.asarray(self._objective(rows), float)
            if values.shape != (len(rows),):
                raise InputError(
                    f"objective: gave an array of shape {values.shape} for {len(rows)} archs"
                )
            if np.isnan(values).any():
                arch = self.space.decode(rows[np.isnan(values)][:1])[0]
                raise InputError(f"objective: not a number for {arch}")
            start = len(self)
            self._reserve(start + len(rows))
            self._population[start : start + len(rows)] = rows
            self._values[start : start + len(rows)] = values
            for offset, key in enumerate(new):
                self._index[key] = start + offset
        return np.array([self._index[key] for key in keys], np.intp)

    def _reserve(self, n: int) -> None:
        if n > len(self._values):
            size = max(n, 2 * len(self._values))
            population = np.zeros((size, self._population.shape[1]), GENE)
            population[: len(self)] = self.population
            values = np.zeros(size)
            values[: len(self)] = self.values
            self._population, self._values = population, values


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
        return violation(self.limits, population)

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


def violation(limits: Sequence[Limit], population: Population) -> Floats:
    """(n,) the sum of the limits' excesses; NaN of a quantity is outside of any bound."""
    total = np.zeros(len(population))
    for limit in limits if len(population) else ():
        values = np.asarray(limit.value(population), float)
        total += np.where(np.isnan(values), np.inf, limit.excess(values))
    return total
