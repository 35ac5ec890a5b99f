"""Whether any arch meets the limits; decided before a search begins.

Exact where the limits are tables: by their extremes one by one, then by a mixed-integer
program for all together. Limits that are functions are met by minimising how far they are
exceeded, with a bounded number of tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onceforall.search import exact
from onceforall.search.limits import Infeasible, Limit, violation
from onceforall.space import Population, Space, Table

_SECONDS = 1.0  # for one program; beyond it, trying takes the place of proof
_GAP = 1e-5  # share of the value: near enough for a value that is only shown
_ROUNDS, _SIZE = 60, 400  # of trying


def decide(space: Space, limits: Sequence[Limit], rng: np.random.Generator) -> Population:
    """(n, genes), n >= 1: archs within the limits.

    Raises:
        Infeasible: names the first limit that cannot be met together with those before it, and
            the nearest value it can have then.
    """
    tables = [limit for limit in limits if isinstance(limit.value, Table)]
    found = _exactly(space, tables)
    if not len(found) or len(tables) < len(limits):
        ordered = [*tables, *(limit for limit in limits if limit not in tables)]
        found = _by_trying(space, ordered, found, rng)
    return found


def _exactly(space: Space, limits: Sequence[Limit]) -> Population:
    """Archs within limits that are tables; none where time ran out without an answer."""
    extremes = []
    for limit in limits:
        assert isinstance(limit.value, Table)
        smallest, low_arch = limit.value.minimum()
        largest, high_arch = limit.value.maximum()
        for nearest, beyond in ((smallest, smallest > limit.high), (largest, largest < limit.low)):
            if beyond and limit.excess(np.array([nearest]))[0] > 0:
                raise Infeasible(limit, nearest, others=(), proven=True)
        extremes.append(space.encode([low_arch, high_arch]))
    if not limits:
        return space.encode([space.smallest(), space.largest()])
    rows = np.concatenate(extremes)
    inside = rows[violation(limits, rows) == 0]
    if len(inside):
        return inside
    for count in range(1, len(limits) + 1):
        solution = exact.solve(space, None, limits[:count], _SECONDS)
        if solution.row is None and solution.finished:
            raise Infeasible(
                limits[count - 1],
                _nearest(space, limits[: count - 1], limits[count - 1]),
                others=limits[: count - 1],
                proven=True,
            )
        if solution.row is None:
            return rows[:0]
        inside = solution.row[violation(limits, solution.row) == 0]
    return inside


def _nearest(space: Space, others: Sequence[Limit], limit: Limit) -> float:
    """The achievable value nearest to the bounds of a limit that cannot be met with the others."""
    found = []
    if limit.at_most is not None:  # from above
        bounds = [] if limit.at_least is None else [replace(limit, at_most=None)]
        found.append(_extreme(space, [*others, *bounds], limit, 1))
    if limit.at_least is not None:  # from below
        bounds = [] if limit.at_most is None else [replace(limit, at_least=None)]
        found.append(_extreme(space, [*others, *bounds], limit, -1))
    return min(found, key=lambda value: float(limit.excess(np.array([value]))[0]))


def _extreme(space: Space, limits: Sequence[Limit], limit: Limit, sign: int) -> float:
    """The smallest (sign 1) or largest (-1) value of a limit's table, other limits met.

    NaN where no arch meets the others.
    """
    table = limit.value
    assert isinstance(table, Table)
    if table.reduce == "sum":
        row = exact.solve(space, table.scaled(-sign), limits, _SECONDS, _GAP).row
        return float("nan") if row is None else float(table(row)[0])
    # a maximum is one of the table's own numbers: bisection over these
    numbers = np.unique(np.concatenate([f.values.ravel() for f in table.factors]))[::sign]
    best = float("nan")
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        bound = float(numbers[middle])
        side = replace(
            limit, at_most=bound if sign > 0 else None, at_least=None if sign > 0 else bound
        )
        row = exact.solve(space, None, [*limits, side], _SECONDS).row
        if row is None:
            low = middle + 1
        else:
            best, high = float(table(row)[0]), middle
    return best


def _by_trying(
    space: Space, limits: Sequence[Limit], start: Population, rng: np.random.Generator
) -> Population:
    """Evolution of archs that exceed the limits less and less."""
    ends = space.encode([space.smallest(), space.largest()])
    tried = np.concatenate([start, ends, space.sample(rng, _SIZE)])
    excess = violation(limits, tried)
    for _ in range(_ROUNDS):
        if (excess == 0).any():
            return tried[excess == 0]
        parents = tried[np.argsort(excess, kind="stable")[: _SIZE // 4]]
        a, b = parents[rng.integers(0, len(parents), (2, _SIZE))]
        half = _SIZE // 2
        new = np.concatenate([space.mutate(a[:half], rng, 0.1), space.cross(a, b, rng)[half:]])
        tried = np.concatenate([tried, new])
        excess = np.concatenate([excess, violation(limits, new)])
    if (excess == 0).any():
        return tried[excess == 0]
    met = np.ones(len(tried), bool)
    for i, limit in enumerate(limits):
        values = limit.of(tried)
        outside = limit.excess(values)
        if not (met & (outside == 0)).any():
            nearest = float(values[np.where(met, outside, np.inf).argmin()])
            raise Infeasible(limit, nearest, others=limits[:i], proven=False)
        met &= outside == 0
    raise AssertionError("an arch within all limits has no excess")
