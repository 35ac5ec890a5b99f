"""Exact tables over a space of networks that are given by `build` alone: `discover`.

An operation of a network depends on few genes: one in the third block on the resolution, the
width, and what is chosen for that block. Which, is found by changing one gene at a time of the
largest and of the smallest arch. Then archs are counted until every combination of the genes that
an operation depends on has occurred; one arch shows a combination for each operation, so that
about as many archs are needed as the operation of most genes has combinations. Their numbers are
the factors of a table. That it is exact is tested, on all archs that were counted and on random
ones; one that it is wrong about is a further arch to change genes of. Knows archs and the numbers
of operations; no networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onceforall import progress
from onceforall.costs.built import Built, Floats, Key, Numbers
from onceforall.costs.quantities import QUANTITIES
from onceforall.space import GENE, Space, Table
from onceforall.space.tables import Factor

MOST_ARCHS = 1000  # no more are counted for a table
TESTED = 16  # random archs that a table must be right about
_ROUNDS = 3

Row = tuple[int, ...]  # an arch as indices of genes


class Scope(NamedTuple):
    """The genes that an operation depends on, by column, ascending. Some of them may be absent
    where the operation is there; then `always`, and what they are present by is among them."""

    columns: tuple[int, ...]
    always: bool


def discover(built: Built, space: Space) -> dict[str, Table] | None:
    """A table of each of QUANTITIES; None where they are no sums over operations of few genes.

    Raises:
        InputError: a network cannot be built or counted.
    """
    archs = _Archs(built, space)
    anchors = archs.rows([*space.encode([space.largest(), space.smallest()])])
    rng = np.random.default_rng(0)
    with progress.busy(f"counting networks of {space.family}"):
        for _ in range(_ROUNDS):
            scopes = _scopes(archs, anchors)
            if not _cover(archs, sorted(set(scopes.values()))):
                return None
            tables = _tables(archs, scopes)
            fresh = archs.rows([*space.sample(rng, TESTED)])
            wrong = archs.wrong(tables, [*archs.known, *fresh])
            if not wrong:
                return tables
            anchors.append(wrong[0])
    return None


class _Archs:
    """The archs of a space that were counted."""

    def __init__(self, built: Built, space: Space) -> None:
        self.built, self.space = built, space
        self.known: dict[Row, dict[Key, Numbers]] = {}
        self.sizes = space.gene_sizes.tolist()

    def rows(self, population: Sequence[Iterable[int]]) -> list[Row]:
        """Archs, canonical."""
        rows = self.space.canonical(np.array([tuple(row) for row in population], GENE))
        return [tuple(row) for row in rows.tolist()]

    def __call__(self, row: Row) -> dict[Key, Numbers]:
        """The numbers of its operations."""
        if row not in self.known:
            arch = self.space.decode(np.array([row], GENE))[0]
            self.known[row] = self.built.rows(arch).numbers
        return self.known[row]

    def there(self, row: Row, column: int) -> bool:
        """Whether a gene is."""
        return all(row[c] >= least for c, least in self.space.conditions[column])

    def wrong(self, tables: dict[str, Table], rows: Sequence[Row]) -> list[Row]:
        """The archs of which a table does not say what was counted."""
        population = np.array(rows, GENE)
        counted = [self.built.rows(arch) for arch in self.space.decode(population)]
        right = np.ones(len(rows), bool)
        for name, table in tables.items():
            right &= table(population) == [each.total(name) for each in counted]
        return [row for row, is_right in zip(rows, right, strict=True) if not is_right]


# --- what operations depend on


def _scopes(archs: _Archs, anchors: Sequence[Row]) -> dict[Key, Scope]:
    """For each operation, by archs that differ from an anchor in one gene."""
    found: dict[Key, set[int]] = {}
    gone: list[tuple[Key, int, Row]] = []  # an operation, the gene by which it is not in an arch
    for anchor, column, other in _changes(archs, anchors):
        before, after = archs(anchor), archs(other)
        for key in before.keys() | after.keys():
            own = found.setdefault(key, set())
            if key in before and key in after:
                if before[key] != after[key]:
                    own.add(column)
            else:
                gone.append((key, column, anchor if key in after else other))
    for key, column, without in gone:
        explained = any(not archs.there(without, c) for c in found[key] if c != column)
        if not explained:
            found[key].add(column)
    return {key: _scope(archs, key, columns) for key, columns in found.items()}


def _changes(archs: _Archs, anchors: Sequence[Row]) -> Iterator[tuple[Row, int, Row]]:
    """An anchor, a gene, and the arch with the gene's value that is farthest away."""
    for anchor in anchors:
        for column, size in enumerate(archs.sizes):
            if size > 1 and archs.there(anchor, column):
                value = 0 if 2 * anchor[column] >= size - 1 else size - 1
                changed = (*anchor[:column], value, *anchor[column + 1 :])
                yield anchor, column, archs.rows([changed])[0]


def _scope(archs: _Archs, key: Key, columns: set[int]) -> Scope:
    conditions = archs.space.conditions
    always = any(
        key in numbers and not all(archs.there(row, c) for c in columns)
        for row, numbers in archs.known.items()
    )
    if always:
        columns = columns | {control for c in columns for control, _ in conditions[c]}
    return Scope(tuple(sorted(columns)), always)


# --- every combination


def _combinations(archs: _Archs, scope: Scope) -> Iterator[Row]:
    """All combinations of the scope's genes that occur; absent genes are 0."""
    for values in itertools.product(*(range(archs.sizes[c]) for c in scope.columns)):
        row = dict(zip(scope.columns, values, strict=True))
        if all(
            value == 0 or row.get(control, least) >= least
            for c, value in row.items()
            for control, least in archs.space.conditions[c]
        ) and (scope.always or _possible(archs, row)):
            yield values


def _possible(archs: _Archs, row: dict[int, int]) -> bool:
    """Whether all these genes can be there at once."""
    return all(
        row.get(control, least) >= least
        for c in row
        for control, least in archs.space.conditions[c]
    )


def _cover(archs: _Archs, scopes: Sequence[Scope]) -> bool:
    """Counts archs until each combination of each scope has occurred; False: too many."""
    cells = [math.prod(archs.sizes[c] for c in scope.columns) for scope in scopes]
    if max(cells) > MOST_ARCHS:
        return False
    waiting = {scope: dict.fromkeys(_combinations(archs, scope)) for scope in scopes}
    for row in archs.known:
        _cross_off(archs, waiting, row)
    while any(waiting.values()):
        if len(archs.known) >= MOST_ARCHS:
            return False
        row = _next(archs, waiting)
        archs(row)
        _cross_off(archs, waiting, row)
    return True


def _cross_off(archs: _Archs, waiting: dict[Scope, dict[Row, None]], row: Row) -> None:
    for scope, left in waiting.items():
        if scope.always or all(archs.there(row, c) for c in scope.columns):
            left.pop(tuple(row[c] for c in scope.columns), None)


def _next(archs: _Archs, waiting: dict[Scope, dict[Row, None]]) -> Row:
    """An arch with a combination that is waited for, of as many scopes as fit together; in all
    else the largest."""
    chosen: dict[int, int] = {}
    for scope, left in sorted(waiting.items(), key=lambda pair: -len(pair[1])):
        for values in left:
            wanted = _wanted(archs, scope, values)
            if all(chosen.get(c, value) == value for c, value in wanted.items()):
                joined = chosen | wanted
                if _possible(archs, joined):
                    chosen = joined
                    break
    largest = [size - 1 for size in archs.sizes]
    return archs.rows([[chosen.get(c, value) for c, value in enumerate(largest)]])[0]


def _wanted(archs: _Archs, scope: Scope, values: Row) -> dict[int, int]:
    """The genes that must have these values: those that are there."""
    row = dict(zip(scope.columns, values, strict=True))
    if not scope.always:
        return row
    conditions = archs.space.conditions
    return {c: v for c, v in row.items() if all(row[g] >= least for g, least in conditions[c])}


# --- tables


def _tables(archs: _Archs, scopes: dict[Key, Scope]) -> dict[str, Table]:
    together: dict[Scope, list[Key]] = {}
    for key, scope in scopes.items():
        together.setdefault(scope, []).append(key)
    factors: dict[tuple[int, ...], Floats] = {}  # columns -> values of each quantity
    maximum = np.array([quantity.reduce == "max" for quantity in QUANTITIES.values()])
    for scope, keys in together.items():
        for columns, values in _factors(archs, scope, keys, maximum):
            if columns in factors:
                other = factors[columns]
                pick = maximum.reshape(-1, *[1] * len(columns))
                values = np.where(pick, np.maximum(values, other), values + other)
            factors[columns] = values
    space, tables = archs.space, {}
    for at, (name, quantity) in enumerate(QUANTITIES.items()):
        found = [_factor(space, columns, values[at]) for columns, values in factors.items()]
        kept = [f for f in found if f.values.any() or not f.genes] or found[:1]
        tables[name] = Table(space, tuple(kept), quantity.reduce, name, quantity.unit)
    return tables


def _factor(space: Space, columns: tuple[int, ...], values: Floats) -> Factor:
    if not columns:  # the same for all archs; over a gene that is always there
        return Factor((space.genes[0].name,), np.full(len(space.genes[0].values), float(values)))
    return Factor(tuple(space.genes[c].name for c in columns), values)


def _factors(
    archs: _Archs, scope: Scope, keys: Sequence[Key], maximum: NDArray[np.bool_]
) -> Iterator[tuple[tuple[int, ...], Floats]]:
    """The operations of a scope as factors, (quantities, values of each column): one for each set
    of genes that are there at once; where others are, its numbers are 0."""
    seen: dict[Row, dict[Key, Numbers]] = {}
    for row, numbers in archs.known.items():
        if scope.always or all(archs.there(row, c) for c in scope.columns):
            seen.setdefault(tuple(row[c] for c in scope.columns), numbers)
    made: dict[tuple[int, ...], Floats] = {}
    for combination, numbers in seen.items():
        columns = tuple(_wanted(archs, scope, combination)) if scope.always else scope.columns
        if columns not in made:
            made[columns] = np.zeros((len(maximum), *(archs.sizes[c] for c in columns)))
        values = np.array([numbers[key] for key in keys if key in numbers])
        if len(values):
            total = np.where(maximum, values.max(0), values.sum(0))
            at = dict(zip(scope.columns, combination, strict=True))
            place: tuple[Any, ...] = (slice(None), *(at[c] for c in columns))
            made[columns][place] = total
    yield from made.items()
