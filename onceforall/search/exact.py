"""Exact answers where objective and limits are tables: a mixed-integer program, by HiGHS.

One program a resolution. Its variables are the blocks (position, widths, kernel, expand),
the depth of each stage and the path of widths through the stages; everything else is
linear in these. A maximum that must stay below a bound forbids the blocks above it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array

from onceforall.search.problem import Limit
from onceforall.space import GENE, Population, Space
from onceforall.tables import Table

Floats = NDArray[np.float64]

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

    Resolutions are tried in the order of their linear relaxation's bound, and left out when it
    is below the best arch found. The bound may stay above the arch by the share `gap`.
    """
    program = _Program(space)
    deadline = time.perf_counter() + seconds
    tables = [(limit, limit.value) for limit in limits]
    relaxed: list[tuple[float, int]] = []
    for r in range(len(space.resolution)):
        bound = program.solve(r, objective, tables, False)[1]
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
        row, bound, done = program.solve(r, objective, tables, True, left, gap)
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
    """The variables and the structure that makes them an arch; the same for every resolution."""

    def __init__(self, space: Space) -> None:
        self._space = space
        count = 0

        def variables(*shape: int) -> NDArray[np.intp]:
            nonlocal count
            start, count = count, count + math.prod(shape)
            return np.arange(start, count).reshape(shape)

        self._path: list[NDArray[np.intp]] = []  # a stage: (widths before, widths)
        self._depth: list[NDArray[np.intp]] = []  # a stage: (widths, depths)
        self._block: list[list[NDArray[np.intp]]] = []  # (widths before or 1, widths, k, e)
        before = 1
        for stage in space.stages:
            w = len(stage.width)
            self._path.append(variables(before, w))
            self._depth.append(variables(w, len(stage.depth)))
            choices = (len(stage.kernel), len(stage.expand))
            self._block.append(
                [variables(before if b == 0 else 1, w, *choices) for b in range(stage.blocks)]
            )
            before = w
        self._n = count
        self._structure = self._equations()

    def _equations(self) -> LinearConstraint:
        rows: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = [(self._path[0].ravel(), _NONE)]
        for leaves, enters in pairwise(self._path):
            rows += [(leaves[:, w], enters[w]) for w in range(enters.shape[0])]
        for path, depth, blocks, stage in zip(
            self._path, self._depth, self._block, self._space.stages, strict=True
        ):
            for w in range(path.shape[1]):
                rows.append((depth[w], path[:, w]))
                for before in range(path.shape[0]):
                    rows.append((blocks[0][before, w].ravel(), path[before : before + 1, w]))
                for b in range(1, stage.blocks):
                    deep = [i for i, d in enumerate(stage.depth) if d > b]
                    rows.append((blocks[b][0, w].ravel(), depth[w, deep]))
        at = [np.full(len(p) + len(m), i) for i, (p, m) in enumerate(rows)]
        signs = [np.r_[np.ones(len(p)), -np.ones(len(m))] for p, m in rows]
        columns = [np.r_[p, m] for p, m in rows]
        matrix = csr_array(
            (np.concatenate(signs), (np.concatenate(at), np.concatenate(columns))),
            shape=(len(rows), self._n),
        )
        right = np.zeros(len(rows))
        right[0] = 1
        return LinearConstraint(matrix, right, right)

    def _numbers(self, table: Table, r: int) -> Floats:
        """(variables,) what each variable adds to the table's value at a resolution."""
        numbers = np.zeros(self._n)
        for variables, values in zip(self._block, table.blocks, strict=True):
            for index, value in zip(variables, values, strict=True):
                numbers[index] = value[r]
        numbers[self._path[-1]] = table.fixed[r]
        return numbers

    def solve(
        self,
        r: int,
        objective: Table | None,
        limits: Sequence[tuple[Limit, object]],
        integral: bool,
        seconds: float = math.inf,
        gap: float = 0.0,
    ) -> tuple[Population | None, float, bool]:
        """(an arch, the bound, whether the solver finished); -inf as bound: nothing feasible."""
        wanted = np.zeros(self._n) if objective is None else self._numbers(objective, r)
        allowed = np.ones(self._n)
        constraints = [self._structure]
        parts = np.zeros(self._n, bool)
        for stage in self._block:
            for index in stage:
                parts[index] = True
        parts[self._path[-1]] = True
        for limit, table in limits:
            assert isinstance(table, Table)
            numbers = self._numbers(table, r)
            low = limit.low + _INSIDE * abs(limit.low) if limit.at_least is not None else -np.inf
            high = limit.high - _INSIDE * abs(limit.high) if limit.at_most is not None else np.inf
            if limit.low == limit.high:
                low = high = limit.low
            if table.reduce == "sum":
                constraints.append(LinearConstraint(numbers[None], low, high))
                continue
            allowed[parts & (numbers > limit.high)] = 0
            if limit.at_least is not None:
                reaches = parts & (numbers >= limit.low)
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
        row[0, 0] = r
        column = 1
        for stage, path, depth, blocks in zip(
            self._space.stages, self._path, self._depth, self._block, strict=True
        ):
            before, w = np.unravel_index(x[path].argmax(), path.shape)
            row[0, column] = w
            row[0, column + 1] = x[depth[w]].argmax()
            for b in range(stage.depth[row[0, column + 1]]):
                cell = x[blocks[b][before if b == 0 else 0, w]]
                row[0, column + 2 + 2 * b : column + 4 + 2 * b] = np.unravel_index(
                    cell.argmax(), cell.shape
                )
            column += 2 + 2 * stage.blocks
        return row


_NONE = np.zeros(0, np.intp)
