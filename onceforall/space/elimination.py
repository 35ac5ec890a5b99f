"""Variable elimination: in which order to sum or choose variables away from a product of factors.

A factor is an array over a few variables; what they say together of all variables is worked out
one variable at a time, so that only small arrays are ever made (Dechter, "Bucket elimination",
1999). Counting archs, exact extremes of tables, the mixed-integer program and the additive model's
best archs all follow one such plan. Knows numbers of variables only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.space.genes import Condition

LARGEST = 20_000_000  # entries of an array made in between; beyond it, no plan
Scope = tuple[int, ...]  # variables, ascending


class Part(NamedTuple):
    """What a factor depends on: variables, ascending, and what must hold for it to be there."""

    genes: Scope
    conditions: tuple[Condition, ...] = ()

    @property
    def scope(self) -> Scope:
        """All that it depends on in any way."""
        return tuple(sorted({*self.genes, *(c for c, _ in self.conditions)}))


@dataclass(frozen=True)
class Bucket:
    """One step: the arrays that hold a variable are joined, and the variable leaves.

    Attributes:
        scope: of the joined array, the variable included.
        inputs: which arrays are joined: factors by their number, and behind them what was left by
            earlier buckets, by theirs.
    """

    variable: int
    scope: Scope
    inputs: tuple[int, ...]

    @property
    def rest(self) -> Scope:
        """The scope of what is left."""
        return tuple(v for v in self.scope if v != self.variable)


def buckets(
    scopes: Sequence[Collection[int]],
    sizes: Sequence[int],
    first: Collection[int] = (),
    what: str = "the factors",
) -> list[Bucket]:
    """The steps that eliminate all variables of the factors' scopes.

    Each time, the variable goes whose neighbours need the fewest new links (min-fill); of equal
    ones those of `first`, then the lowest. Variables of every factor go last, as they are linked to
    all others anyway; the lowest of these is the very last.

    Raises:
        InputError: an array of more than LARGEST entries would be needed.
    """
    waiting = {i: frozenset(scope) for i, scope in enumerate(scopes) if scope}
    links: dict[int, set[int]] = {}
    for scope in waiting.values():
        for v in scope:
            links.setdefault(v, set()).update(scope - {v})
    everywhere = frozenset.intersection(*waiting.values()) if waiting else frozenset()
    found: list[Bucket] = []

    def fill(v: int) -> int:
        near = links[v] - everywhere
        return sum(len(near - links[n]) - 1 for n in near)

    left = set(links) - everywhere
    while links:
        if left:
            variable = min(left, key=lambda v: (fill(v), v not in first, v))
            left.remove(variable)
        else:
            variable = max(links)
        inputs = tuple(i for i, scope in waiting.items() if variable in scope)
        scope = frozenset({variable}).union(*(waiting.pop(i) for i in inputs))
        if math.prod(sizes[v] for v in scope) > LARGEST:
            raise InputError(
                f"{what}: {len(scope)} genes depend on each other at once; an exact answer would"
                f" need an array of {math.prod(sizes[v] for v in scope)} entries"
            )
        bucket = Bucket(variable, tuple(sorted(scope)), inputs)
        if bucket.rest:
            waiting[len(scopes) + len(found)] = frozenset(bucket.rest)
        found.append(bucket)
        for v in links.pop(variable):
            links[v] |= set(bucket.rest) - {v}
            links[v].discard(variable)
    return found


def spread(values: NDArray[Any], scope: Sequence[int], wanted: Scope) -> NDArray[Any]:
    """An array over `scope`, after any other axes, ready to be joined with one over `wanted`."""
    lead = values.ndim - len(scope)
    order = sorted(range(len(scope)), key=lambda i: scope[i])
    values = values.transpose(*range(lead), *(lead + i for i in order))
    at = tuple(slice(None) if v in scope else None for v in wanted)
    return values[(..., *at)] if at else values


def counted(factors: Sequence[tuple[Scope, NDArray[Any]]], sizes: Sequence[int]) -> int:
    """The sum over all values of the variables of the product of factors: whole numbers, exact."""
    scopes = [scope for scope, _ in factors]
    arrays = {i: values.astype(object) for i, (_, values) in enumerate(factors)}
    scope_of = dict(enumerate(scopes))
    total = 1
    for b, bucket in enumerate(buckets(scopes, sizes)):
        joined: Any = np.ones([sizes[v] for v in bucket.scope], object)
        for i in bucket.inputs:
            joined = joined * spread(arrays.pop(i), scope_of[i], bucket.scope)
        rest = joined.sum(bucket.scope.index(bucket.variable))
        if bucket.rest:
            scope_of[len(scopes) + b] = bucket.rest
            arrays[len(scopes) + b] = rest
        else:
            total *= int(rest)
    return total


def holds(conditions: Sequence[Condition], scope: Scope, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Whether conditions hold, over all values of the variables of a scope that has theirs."""
    least = dict(conditions)
    made = np.ones((1,) * len(scope), bool)
    for axis, v in enumerate(scope):
        at = np.arange(sizes[v]) >= least.get(v, 0)
        made = made & at.reshape([-1 if a == axis else 1 for a in range(len(scope))])
    return made


class Plan:
    """How the best values of all variables are found under a sum, or another join, of parts.

    The numbers of all parts lie in one array of `size` cells: the parts one after the other, an
    axis a variable. Behind them is `size`, the cell of an absent part, which adds nothing.

    Variables that one part alone depends on, its own, are chosen within it, together; the others,
    which parts share, one by one, each for all values of those it meets.

    Attributes:
        own, shared: of each part.
        starts: (parts + 1,) where their cells begin, and `size`.
        buckets: the steps in which shared variables are chosen, over each part's `reach`: what it
            shares and what its presence depends on.
    """

    def __init__(self, parts: Sequence[Part], sizes: Sequence[int], what: str = "the factors"):
        self.parts, self.sizes = tuple(parts), tuple(sizes)
        depend = Counter(c for part in self.parts for c in part.scope)
        controls = {c for part in self.parts for c, _ in part.conditions}
        self.own: list[Scope] = []
        self.shared: list[Scope] = []
        self.reach: list[Scope] = []
        members: list[NDArray[np.intp]] = []
        starts, groups = [0], [0]
        for part in self.parts:
            own = [g for g in part.genes if sizes[g] == 1 or (depend[g] == 1 and g not in controls)]
            self.own.append(tuple(own))
            self.shared.append(tuple(g for g in part.genes if g not in own))
            self.reach.append(tuple(c for c in part.scope if c not in own))
            shape = [sizes[g] for g in part.genes]
            cells = np.arange(starts[-1], starts[-1] + math.prod(shape)).reshape(shape)
            order = [part.genes.index(g) for g in (*self.shared[-1], *own)]
            many = math.prod(sizes[g] for g in own)
            members.append(cells.transpose(order).reshape(-1, many))
            starts.append(starts[-1] + cells.size)
            groups.append(groups[-1] + len(members[-1]))
        self.starts, self._groups = np.array(starts), groups
        self.size = starts[-1]
        most = max(m.shape[1] for m in members)
        self._members = np.full((groups[-1], most), self.size + 1)
        for start, m in zip(groups, members, strict=False):
            self._members[start : start + len(m), : m.shape[1]] = m
        self._masks = [
            holds(part.conditions, reach, sizes) if part.conditions else None
            for part, reach in zip(self.parts, self.reach, strict=True)
        ]
        self.buckets = buckets(self.reach, sizes, controls, what)
        strides = np.zeros((len(sizes), len(self.parts)))
        for p, part in enumerate(self.parts):
            stride = 1
            for g in reversed(part.genes):
                strides[g, p] = stride
                stride *= sizes[g]
        self._strides = strides

    def places(self, population: NDArray[Any]) -> NDArray[np.intp]:
        """(n, variables) -> (n, parts): the cell of each part; `size` where it is absent."""
        at = (population.astype(np.float64) @ self._strides).astype(np.intp) + self.starts[:-1]
        for p, part in enumerate(self.parts):
            for column, least in part.conditions:
                at[population[:, column] < least, p] = self.size
        return at

    def best(
        self,
        cells: NDArray[np.float64],
        join: Any = np.add,
        absent: float = 0.0,
        floor: float = -np.inf,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The values under which the joined cells are largest; of equal ones the first.

        Args:
            cells: (..., size).
            floor: what parts reach below it counts as if they were absent.

        Returns:
            (..., variables), the parts' own variables left at 0, and (..., parts) the cell of each
            part, `size` where it is absent; for `rows`.
        """
        batch = cells.shape[:-1]
        edge = np.broadcast_to([absent, -np.inf], (*batch, 2))
        gain = np.concatenate([cells, edge], -1)[..., self._members]  # (..., groups, members)
        option = gain.argmax(-1)
        gain = gain.max(-1)
        if floor > -np.inf:
            gain = np.where(gain < floor, absent, gain)
        arrays: dict[int, NDArray[np.float64]] = {}
        for p, (shared, reach, mask) in enumerate(
            zip(self.shared, self.reach, self._masks, strict=True)
        ):
            if not reach:
                continue
            here = gain[..., self._groups[p] : self._groups[p + 1]]
            here = here.reshape((*batch, *(self.sizes[v] for v in shared)))
            if mask is not None:
                here = np.where(mask, spread(here, shared, reach), absent)
            arrays[p] = here
        scopes = dict(enumerate(self.reach))
        picked = []
        for b, bucket in enumerate(self.buckets):
            joined: Any = None
            for i in bucket.inputs:
                more = spread(arrays.pop(i), scopes[i], bucket.scope)
                joined = more if joined is None else join(joined, more)
            wanted = tuple(self.sizes[v] for v in bucket.scope)
            joined = np.broadcast_to(joined, (*batch, *wanted))
            axis = len(batch) + bucket.scope.index(bucket.variable)
            picked.append(joined.argmax(axis))
            arrays[len(self.parts) + b] = joined.max(axis)
            scopes[len(self.parts) + b] = bucket.rest
        chosen = np.zeros((*batch, len(self.sizes)), np.intp)
        at: tuple[NDArray[np.intp], ...] = tuple(np.indices(batch, sparse=True))
        for bucket, pick in zip(reversed(self.buckets), reversed(picked), strict=True):
            given = tuple(chosen[..., v] for v in bucket.rest)
            chosen[..., bucket.variable] = pick[(*at, *given)]
        places = np.empty((*batch, len(self.parts)), np.intp)
        for p, (part, shared) in enumerate(zip(self.parts, self.shared, strict=True)):
            group = np.full(batch, self._groups[p])
            stride = 1
            for v in reversed(shared):
                group = group + stride * chosen[..., v]
                stride *= self.sizes[v]
            place = self._members[group, option[(*at, group)]]
            for column, least in part.conditions:
                place = np.where(chosen[..., column] < least, self.size, place)
            places[..., p] = place
        return chosen, places

    def rows(self, chosen: NDArray[np.intp], places: NDArray[np.intp]) -> NDArray[np.intp]:
        """(..., variables) what `best` chose, with the parts' own variables."""
        rows = chosen.copy()
        for p, (part, own) in enumerate(zip(self.parts, self.own, strict=True)):
            if not own:
                continue
            there = places[..., p] < self.size
            shape = [self.sizes[g] for g in part.genes]
            found = np.unravel_index(np.where(there, places[..., p] - self.starts[p], 0), shape)
            for g, index in zip(part.genes, found, strict=True):
                if g in own:
                    rows[..., g] = index
        return rows
