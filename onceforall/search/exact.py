"""Exact answers where objective and limits are tables: a mixed-integer program, by HiGHS.

Its variables are one for each combination of the genes that must be chosen together (those that a
step of variable elimination joins) and one for each of a factor's cells; everything else is linear
in these. So formulated, the program without limits has whole solutions by itself. A maximum that
must stay below a bound forbids the cells above it. Where all factors depend on one gene, as on the
resolution, there is one program for each of its values.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array

from onceforall.search.limits import Limit
from onceforall.space import GENE, Population, Space, Table
from onceforall.space.elimination import Part, Plan, holds

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_INSIDE = 1e-9  # share of a bound by which the solver must stay inside: beyond its tolerance


@dataclass(frozen=True)
class Solution:
    """The best arch found and the bound that proves it; no arch where nothing is feasible."""

    row: Population | None  # (1, genes)
    value: float
    bound: float  # no feasible arch is better than this
    finished: bool  # False: time ran out


def applies(objective: object, limits: Sequence[Limit]) -> bool:
    """Whether objective and limits are all tables, the objective a sum."""
    tables = [limit.value for limit in limits]
    additive = isinstance(objective, Table) and objective.reduce == "sum"
    return additive and all(isinstance(table, Table) for table in tables)


def solve(
    space: Space,
    objective: Table | None,
    limits: Sequence[Limit],
    seconds: float = math.inf,
    gap: float = 0.0,
) -> Solution:
    """The arch within the limits with the largest sum `objective` (any arch where None).

    Programs are tried in the order of their linear relaxation's bound, and left out when it is
    below the best arch found. The bound may stay above the arch by the share `gap`.

    Raises:
        InputError: too many genes depend on each other for an exact answer.
    """
    tables = [limit.value for limit in limits if isinstance(limit.value, Table)]
    program = _Program(space, [*([objective] if objective else []), *tables])
    deadline = time.perf_counter() + seconds
    relaxed: list[tuple[float, int]] = []
    for r in range(program.cases):
        bound = program.solve(r, objective, limits, False)[1]
        if bound > -math.inf:
            relaxed.append((bound, r))
    best: Population | None = None
    value, proven = -math.inf, -math.inf
    finished = True
    for bound, r in sorted(relaxed, reverse=True):
        if bound <= value:
            break
        left = deadline - time.perf_counter()
        if left <= 0:
            finished, proven = False, max(proven, bound)
            continue
        row, bound, done = program.solve(r, objective, limits, True, left, gap)
        finished = finished and done
        proven = max(proven, bound)
        if row is not None:
            reached = 0.0 if objective is None else float(objective(row)[0])
            if reached > value:
                best, value = row, reached
            if objective is None:
                break
    return Solution(best, value, max(value, proven), finished)


class _Program:
    """The variables and the structure that makes them an arch; the same for every case, which is a
    value of the gene that all factors depend on, if there is one."""

    def __init__(self, space: Space, tables: Sequence[Table]) -> None:
        self._space = space
        parts = [part for table in tables for part in table.parts]
        common = set.intersection(*(set(part.genes) for part in parts)) if parts else set()
        common -= {c for part in parts for c, _ in part.conditions}
        self._case = min(common) if common else None
        self.cases = 1 if self._case is None else int(space.gene_sizes[self._case])
        self._parts = list(dict.fromkeys(self._of_case(part) for part in parts)) or [Part(())]
        self._plan = Plan(self._parts, space.gene_sizes.tolist(), f"limits on {space.family}")
        self._n = 0
        self._joint = [self._variables(b.scope) for b in self._plan.buckets]
        self._cells: list[Indices | None] = []  # a part: its own variables, an axis a gene
        self._carrier: list[int] = []  # a part: the bucket that it is joined in; -1: none
        for p, part in enumerate(self._parts):
            own = self._plan.own[p] or not self._plan.reach[p]
            self._cells.append(self._variables(part.genes) if own else None)
            inputs = (i for i, b in enumerate(self._plan.buckets) if p in b.inputs)
            self._carrier.append(next(inputs, -1))
        self._structure = self._equations()

    def _of_case(self, part: Part) -> Part:
        return Part(tuple(g for g in part.genes if g != self._case), part.conditions)

    def _variables(self, genes: Sequence[int]) -> Indices:
        shape = [int(self._space.gene_sizes[g]) for g in genes]
        start, self._n = self._n, self._n + math.prod(shape)
        return np.arange(start, self._n).reshape(shape)

    def _equations(self) -> LinearConstraint:
        """What makes the variables one arch: sums of some are equal to sums of others, or to 1."""
        plan, sizes = self._plan, self._plan.sizes
        rows: list[tuple[Indices, Indices]] = []  # the second empty: equal to 1
        for b, (bucket, joint) in enumerate(zip(plan.buckets, self._joint, strict=True)):
            inside = _grouped(joint, bucket.scope, bucket.rest)
            after = len(plan.parts) + b
            user = next((i for i, u in enumerate(plan.buckets) if after in u.inputs), None)
            if user is None:
                rows.append((inside[0], _NONE))
            else:
                outside = _grouped(self._joint[user], plan.buckets[user].scope, bucket.rest)
                rows += list(zip(inside, outside, strict=True))
        for p, cells in enumerate(self._cells):
            if cells is None:
                continue
            part, shared = plan.parts[p], plan.shared[p]
            inside = _grouped(cells, part.genes, shared)
            if self._carrier[p] < 0:
                rows.append((inside[0], _NONE))
                continue
            scope = plan.buckets[self._carrier[p]].scope
            joint = np.where(
                holds(part.conditions, scope, sizes), self._joint[self._carrier[p]], -1
            )
            rows += list(zip(inside, _grouped(joint, scope, shared), strict=True))
        at, signs, columns = [], [], []
        right = np.zeros(len(rows))
        for i, (plus, minus) in enumerate(rows):
            right[i] = len(minus) == 0
            minus = minus[minus >= 0]
            at.append(np.full(len(plus) + len(minus), i))
            signs.append(np.r_[np.ones(len(plus)), -np.ones(len(minus))])
            columns.append(np.r_[plus, minus])
        matrix = csr_array(
            (np.concatenate(signs), (np.concatenate(at), np.concatenate(columns))),
            shape=(len(rows), self._n),
        )
        return LinearConstraint(matrix, right, right)

    def _numbers(self, table: Table, r: int) -> Floats:
        """(variables,) what each variable adds to the table's value in a case."""
        numbers = np.full(self._n, 0.0 if table.reduce == "sum" else -np.inf)
        join = np.add if table.reduce == "sum" else np.maximum
        for whole, values in zip(table.parts, table.arrays, strict=True):
            part = self._of_case(whole)
            if self._case is not None:
                values = np.asarray(values.take(r, axis=whole.genes.index(self._case)))
            p = self._parts.index(part)
            cells = self._cells[p]
            if cells is not None:
                numbers[cells] = join(numbers[cells], values)
                continue
            scope = self._plan.buckets[self._carrier[p]].scope
            there = holds(part.conditions, scope, self._plan.sizes)
            joint = self._joint[self._carrier[p]]
            axes = tuple(slice(None) if g in part.genes else None for g in scope)
            kept = [g for g in part.genes if g in scope]  # others have one choice
            values = values.reshape([self._plan.sizes[g] for g in kept])[axes]
            there, values = (
                np.broadcast_to(there, joint.shape),
                np.broadcast_to(values, joint.shape),
            )
            numbers[joint[there]] = join(numbers[joint[there]], values[there])
        return numbers

    def solve(
        self,
        r: int,
        objective: Table | None,
        limits: Sequence[Limit],
        integral: bool,
        seconds: float = math.inf,
        gap: float = 0.0,
    ) -> tuple[Population | None, float, bool]:
        """(an arch, the bound, whether the solver finished); -inf as bound: nothing feasible."""
        wanted = np.zeros(self._n) if objective is None else self._numbers(objective, r)
        allowed = np.ones(self._n)
        constraints = [self._structure]
        for limit in limits:
            table = limit.value
            assert isinstance(table, Table)
            numbers = self._numbers(table, r)
            low = limit.low + _INSIDE * abs(limit.low) if limit.at_least is not None else -np.inf
            high = limit.high - _INSIDE * abs(limit.high) if limit.at_most is not None else np.inf
            if limit.low == limit.high:
                low = high = limit.low
            if table.reduce == "sum":
                constraints.append(LinearConstraint(numbers[None], low, high))
                continue
            allowed[numbers > limit.high] = 0
            if limit.at_least is not None:
                reaches = numbers >= limit.low
                constraints.append(LinearConstraint(reaches[None].astype(float), 1, np.inf))
        options = {"mip_rel_gap": gap}
        if seconds < math.inf:
            options["time_limit"] = max(seconds, 0.01)
        found = milp(
            -wanted,
            integrality=np.full(self._n, int(integral)),
            bounds=(np.zeros(self._n), allowed),
            constraints=constraints,
            options=options,
        )
        if found.status == 2:  # proven infeasible
            return None, -math.inf, True
        if not integral:
            return None, -found.fun if found.fun is not None else math.inf, found.status == 0
        bound = math.inf
        if found.mip_dual_bound is not None:
            bound = -found.mip_dual_bound
        row = None if found.x is None else self._row(r, found.x)
        return row, bound, found.status == 0

    def _row(self, r: int, x: Floats) -> Population:
        """(1, genes) the arch that the variables describe."""
        row = np.zeros((1, len(self._space.genes)), GENE)
        if self._case is not None:
            row[0, self._case] = r
        for bucket, joint in zip(self._plan.buckets, self._joint, strict=True):
            row[0, list(bucket.scope)] = np.unravel_index(x[joint].argmax(), joint.shape)
        for p, cells in enumerate(self._cells):
            if cells is not None and x[cells].max() > 0.5:
                index = np.unravel_index(x[cells].argmax(), cells.shape)
                for gene, at in zip(self._parts[p].genes, index, strict=True):
                    if gene in self._plan.own[p]:
                        row[0, gene] = at
        return self._space.canonical(row)


def _grouped(variables: Indices, scope: Sequence[int], by: Sequence[int]) -> Indices:
    """(values of `by`, others): variables over a scope, those that agree in `by` together."""
    order = [scope.index(g) for g in by]
    order += [axis for axis in range(len(scope)) if axis not in order]
    return variables.transpose(order).reshape(
        math.prod(variables.shape[a] for a in order[: len(by)]), -1
    )


_NONE = np.zeros(0, np.intp)
