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
from onceforall.space import GENE, Presence, Space, Table
from onceforall.space.genes import Condition
from onceforall.space.tables import Factor

MOST_ARCHS = 1000  # no more are counted for a table
TESTED = 16  # random archs that a table must be right about
_ROUNDS = 3

Row = tuple[int, ...]  # an arch as indices of genes


class Scope(NamedTuple):
    """What an operation depends on.

    Attributes:
        columns: of the genes that its numbers depend on, ascending.
        present: it is there while these genes, such as a depth, have at least these indices.
        always: some of the columns' genes may be absent where the operation is there; then what
            they are present by is among the columns.
    """

    columns: tuple[int, ...]
    present: tuple[Condition, ...]
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
    numbers: dict[Key, set[int]] = {}  # an operation -> the genes by which its numbers change
    states: dict[tuple[Key, int], dict[int, bool]] = {}  # and for a gene: index -> is it there
    without: dict[tuple[Key, int], Row] = {}  # an arch in which it is not
    for anchor, column, others in _changes(archs, anchors):
        rows = {row[column]: row for row in (anchor, *others)}
        for key in dict.fromkeys(key for row in rows.values() for key in archs(row)):
            changed = numbers.setdefault(key, set())
            found = {index: archs(row)[key] for index, row in rows.items() if key in archs(row)}
            if len(set(found.values())) > 1:
                changed.add(column)
            if len(found) < len(rows):
                state = states.setdefault((key, column), {})
                for index in rows:
                    if state.setdefault(index, index in found) != (index in found):
                        changed.add(column)  # it also depends on what the anchors differ in
                without[key, column] = next(r for i, r in rows.items() if i not in found)
    genes = archs.space.genes
    present: dict[Key, list[Condition]] = {}
    for (key, column), state in states.items():
        columns = numbers[key]
        if column in columns or not all(archs.there(without[key, column], c) for c in columns):
            continue  # as it depends on a gene that is absent there, too
        least = next(index for index in sorted(state) if state[index])
        ordered = all(state[i] == (i >= least) for i in state) and not genes[column].is_text
        if ordered and len(state) == archs.sizes[column]:
            present.setdefault(key, []).append((column, least))
        else:
            columns.add(column)
    return {key: _scope(archs, key, numbers[key], present.get(key, ())) for key in numbers}


def _changes(archs: _Archs, anchors: Sequence[Row]) -> Iterator[tuple[Row, int, list[Row]]]:
    """An anchor, a gene, and archs with other values of it: the one that is farthest away; and
    all, where operations come and go with the gene."""
    for anchor in anchors:
        for column, size in enumerate(archs.sizes):
            if size == 1 or not archs.there(anchor, column):
                continue
            rows = [(*anchor[:column], value, *anchor[column + 1 :]) for value in range(size)]
            far = rows[0] if 2 * anchor[column] >= size - 1 else rows[-1]
            (other,) = archs.rows([far])
            same = archs(anchor).keys() == archs(other).keys()
            yield anchor, column, [other] if same else archs.rows(rows)


def _scope(archs: _Archs, key: Key, columns: set[int], present: Sequence[Condition]) -> Scope:
    conditions = archs.space.conditions
    always = any(
        key in numbers and not all(archs.there(row, c) for c in columns)
        for row, numbers in archs.known.items()
    )
    if always:
        columns = columns | {control for c in columns for control, _ in conditions[c]}
    kept = tuple((c, least) for c, least in present if c not in columns)
    return Scope(tuple(sorted(columns)), kept, always)


# --- every combination


def _combinations(archs: _Archs, scope: Scope) -> Iterator[Row]:
    """All combinations of the scope's genes that occur; absent genes are 0."""
    for values in itertools.product(*(range(archs.sizes[c]) for c in scope.columns)):
        row = dict(zip(scope.columns, values, strict=True))
        absent = {c for c in row if not _possible(archs, row, [c])}
        if not absent or (scope.always and not any(row[c] for c in absent)):
            yield values


def _possible(archs: _Archs, row: dict[int, int], columns: Iterable[int]) -> bool:
    """Whether genes can be there, where some genes have these indices."""
    return all(
        row.get(control, least) >= least
        for c in columns
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
        if _shows(archs, scope, row):
            left.pop(tuple(row[c] for c in scope.columns), None)


def _shows(archs: _Archs, scope: Scope, row: Row) -> bool:
    """Whether an arch has operations of the scope."""
    return all(row[c] >= least for c, least in scope.present) and (
        scope.always or all(archs.there(row, c) for c in scope.columns)
    )


def _next(archs: _Archs, waiting: dict[Scope, dict[Row, None]]) -> Row:
    """An arch with a combination that is waited for, of as many scopes as fit together; in all
    else the largest."""
    largest = [size - 1 for size in archs.sizes]
    chosen: dict[int, int] = {}
    for scope, left in sorted(waiting.items(), key=lambda pair: -len(pair[1])):
        for values in left:
            wanted = _wanted(archs, scope, values)
            needed = {c: max(chosen.get(c, largest[c]), least) for c, least in scope.present}
            joined = {**chosen, **needed, **wanted}
            if all(joined[c] == index for c, index in chosen.items()) and _possible(
                archs, joined, joined
            ):
                chosen = joined
                break
    return archs.rows([[chosen.get(c, index) for c, index in enumerate(largest)]])[0]


def _wanted(archs: _Archs, scope: Scope, values: Row) -> dict[int, int]:
    """The genes that must have these indices: those that are there."""
    row = dict(zip(scope.columns, values, strict=True))
    return {c: index for c, index in row.items() if _possible(archs, row, [c])}


# --- tables


Place = tuple[tuple[int, ...], tuple[Condition, ...]]  # of a factor: columns, and when present


def _tables(archs: _Archs, scopes: dict[Key, Scope]) -> dict[str, Table]:
    together: dict[Scope, list[Key]] = {}
    for key, scope in scopes.items():
        together.setdefault(scope, []).append(key)
    maximum = np.array([quantity.reduce == "max" for quantity in QUANTITIES.values()])
    factors: dict[Place, Floats] = {}  # (quantities, indices of each column)
    for scope, keys in together.items():
        for place, values in _factors(archs, scope, keys, maximum).items():
            if place in factors:
                pick = maximum.reshape(-1, *[1] * (values.ndim - 1))
                both = np.maximum(values, factors[place]), values + factors[place]
                values = np.where(pick, *both)
            factors[place] = values
    tables = {}
    for at, (name, quantity) in enumerate(QUANTITIES.items()):
        found = [_factor(archs.space, place, values[at]) for place, values in factors.items()]
        kept = [factor for factor in found if factor.values.any()] or found[:1]
        tables[name] = Table(archs.space, tuple(kept), quantity.reduce, name, quantity.unit)
    return tables


def _factor(space: Space, place: Place, values: Floats) -> Factor:
    columns, conditions = place
    if not columns:  # the same for all archs; over a gene that is always there
        columns, values = (0,), np.full(len(space.genes[0].values), float(values))
    genes = space.genes
    present = tuple(Presence(genes[c].name, float(genes[c].values[i])) for c, i in conditions)
    return Factor(tuple(genes[c].name for c in columns), values, present)


def _factors(
    archs: _Archs, scope: Scope, keys: Sequence[Key], maximum: NDArray[np.bool_]
) -> dict[Place, Floats]:
    """The operations of a scope: a factor for each set of its genes that are there at once, whose
    numbers are 0 where others are."""
    shown: dict[Row, dict[Key, Numbers]] = {}
    for row, numbers in archs.known.items():
        if _shows(archs, scope, row):
            shown.setdefault(tuple(row[c] for c in scope.columns), numbers)
    made: dict[Place, Floats] = {}
    for combination, numbers in shown.items():
        there = _wanted(archs, scope, combination)
        place = (tuple(there), scope.present)
        if place not in made:
            made[place] = np.zeros((len(maximum), *(archs.sizes[c] for c in there)))
        values = np.array([numbers[key] for key in keys if key in numbers])
        if len(values):
            total = np.where(maximum, values.max(0), values.sum(0))
            at: tuple[Any, ...] = (slice(None), *there.values())
            made[place][at] = total
    return made
