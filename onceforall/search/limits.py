"""Limits of a search: quantities of archs with bounds, and what is said where none are within."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.space import Population, Space, Table

Floats = NDArray[np.float64]

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

    def of(self, population: Population) -> Floats:
        """(n,) the quantity."""
        return np.asarray(self.value(population), float)

    def excess(self, values: Floats) -> Floats:
        """How far outside its bounds each value is, as a share of the bound; 0 inside. NaN is
        outside of any bound."""
        over = (values - self.high) / max(abs(self.high), 1e-300) if self.at_most is not None else 0
        under = (self.low - values) / max(abs(self.low), 1e-300) if self.at_least is not None else 0
        worst = np.maximum(over, under)
        return np.where(np.isnan(values), np.inf, np.where(worst > _ROUNDING, worst, 0.0))

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


def violation(
    limits: Sequence[Limit],
    population: Population,
    of: Callable[[Limit, Population], Floats] = Limit.of,
) -> Floats:
    """(n,) the sum of the limits' excesses, 0 within all; `of` gives a limit's quantity."""
    total = np.zeros(len(population))
    for limit in limits if len(population) else ():
        total += limit.excess(of(limit, population))
    return total
