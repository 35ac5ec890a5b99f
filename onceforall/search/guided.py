"""Guided search: an additive model proposes, local search refines.

First an additive model of the objective is fitted to the archs evaluated so far, and the
best archs under several plausible models (Thompson sampling) are evaluated, over all
resolutions. Then, from the best arch: all single changes are evaluated, and of all pairs of
changes those with the largest sum of gains. What each change gained is remembered: from the
next arch, the changes and pairs that it promises most for are tried first, and all single
changes evaluated again only where none of these is better; until nothing is. After that, local
search starts again from children of the archs where it ended, and now and then from random ones.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.search import evolution
from onceforall.search.additive import Cells, Costs, Regression, best_archs, cells
from onceforall.search.problem import Problem
from onceforall.space import GENE, Population, Space, Table

Floats = NDArray[np.float64]

START = 160  # random archs
SHARE = 0.45  # of the evaluations go to archs that the model proposes,
ROUNDS = 20  # in so many rounds at most,
BATCH = 25  # of so many archs each,
DRAWS = 8  # the best under so many models
LEARN = 1200  # archs that a model is fitted to, at most
RIDGE = 0.02  # prior precision of the model's numbers, in archs
TRIED = 40  # changes and pairs of changes evaluated in a step of local search
FIRST = 3  # resolutions whose best archs are where local search starts
ELITE = 30  # ends of local search that become parents
CHILDREN = 24  # of two of them; local search starts again from the best
KICK = 0.05  # share of their genes that change
FRESH = 0.1  # share of starts from random archs instead
IDLE = 12  # starts in a row without a new arch, then the end


def run(problem: Problem, rng: np.random.Generator) -> None:
    """Evaluates archs until the problem's evaluations or time are used up, or nothing new is
    found."""
    Guided(problem, rng).run()


class Guided:
    """One guided search; what it learns is kept between its steps."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._rng = problem, rng
        self._archive, self._space = problem.archive, problem.space
        self._cells = cells(self._space)
        self._costs = _costs(problem)
        self._prices: Floats | None = None  # (limits, 1, resolutions)
        self._resolutions = np.arange(len(self._cells.resolutions))
        self._design = np.zeros((0, self._cells.size))
        self._ends: list[int] = []  # of local search, in the archive
        self._promised = _Gains(self._cells)

    def run(self) -> None:
        problem = self._problem
        problem.note()
        allowed = problem.left
        problem.add(problem.anchors[:20])
        missing = START - int(problem.feasible.sum())
        if missing > 0:
            problem.add(evolution.start(problem, self._rng, missing))
        for _ in range(ROUNDS):
            if allowed - problem.left > SHARE * allowed or not problem.left:
                break
            self._propose()
        for start in self._firsts():
            self._ends.append(self._descend(start))
        if not problem.left:
            return
        idle, start = 0, self._restart()
        while problem.left and idle < IDLE:
            known = len(self._archive)
            self._ends.append(self._descend(start))
            start = self._restart(fresh=idle > 0)
            idle = idle + 1 if len(self._archive) == known else 0

    def _fit(self) -> Regression:
        """The model of what was evaluated so far; the better an arch, the more it counts."""
        archive = self._archive
        new = self._cells.design(archive.population[len(self._design) :])
        self._design = np.concatenate([self._design, new])
        order = np.argsort(-archive.values, kind="stable")[:LEARN]
        weights = 1 / (1 + np.arange(len(order)) / (0.25 * len(order)))
        return Regression(self._design[order], archive.values[order], weights, RIDGE)

    def _propose(self) -> None:
        """Evaluates the best archs under models that are plausible so far."""
        rows, scores, self._prices = best_archs(
            self._space,
            self._fit().draws(self._rng, DRAWS),
            self._costs,
            self._resolutions,
            self._prices,
        )
        rows = self._archive.unseen(rows[np.argsort(-scores, kind="stable")])
        self._problem.add(rows[self._problem.within(rows)][:BATCH])

    def _descend(self, at: int) -> int:
        """Local search from an arch of the archive, as long as it gets better; where it
        ends."""
        problem, archive = self._problem, self._archive
        promised = self._promised
        while problem.left:
            row, value = archive.population[at], archive.values[at]
            step = _Step(self._problem, row)
            if promised.known:
                gain = promised.of(step)
                better = self._better(value, step.best(gain, singles=True))
                if better is not None:
                    at = better
                    continue
            found = problem.add(step.near)
            if len(found) < len(step.near):
                return at
            gain = archive.values[found] - value
            promised.learn(step, gain)
            better = self._better(value, np.concatenate([step.near, step.best(gain)]))
            if better is None:
                return at
            at = better
        return at

    def _better(self, value: float, rows: Population) -> int | None:
        """The best of these archs, evaluated, where in the archive; None: none exceeds `value`."""
        found = self._problem.add(rows)
        found = found[self._problem.feasible[found]]
        values = self._archive.values[found]
        return int(found[values.argmax()]) if len(found) and values.max() > value else None

    def _firsts(self) -> list[int]:
        """The best arch of each of the best resolutions, of which the model is least sure."""
        ranked = self._problem.ranked()
        first = np.unique(self._sizes(ranked), return_index=True)[1]
        return [int(i) for i in ranked[np.sort(first)[:FIRST]]]

    def _restart(self, fresh: bool = False) -> int:
        """Where local search starts again: the best of some random archs, or, the more ends it has
        found, of children of two of these."""
        problem, archive, rng = self._problem, self._archive, self._rng
        ends = np.unique(np.array(self._ends, np.intp))
        ends = ends[np.argsort(-archive.values[ends], kind="stable")][:ELITE]
        if fresh or len(ends) < 2 or rng.random() < FRESH:
            rows = self._space.sample(rng, CHILDREN)
            if self._space.scaled:
                rows[:, 0] = self._resolution()
                rows = self._space.canonical(rows)
        else:
            a, b = archive.population[rng.choice(ends, 2, replace=False)]
            several = np.repeat([a, b], CHILDREN, axis=0).reshape(2, CHILDREN, -1)
            rows = self._space.cross(several[0], several[1], rng)
            rows = self._space.mutate(rows, rng, KICK)
        rows = archive.unseen(evolution.repaired(problem, rows, rng))
        found = problem.add(rows)
        found = found[problem.feasible[found]]
        return int(found[archive.values[found].argmax()]) if len(found) else problem.best

    def _sizes(self, archs: NDArray[np.intp]) -> Population:
        """(n,) the resolution of archs of the archive; where it is no gene, they are of one."""
        population = self._archive.population[archs]
        return population[:, 0] if self._space.scaled else np.zeros(len(archs), GENE)

    def _resolution(self) -> int:
        """One drawn at random: the n-th by its best arch so far with a chance of 1/n."""
        first = np.unique(self._sizes(self._problem.ranked()), return_index=True)
        found: Population = first[0][np.argsort(first[1])]  # the best first
        chance = 1 / np.arange(1, len(found) + 1)
        return int(self._rng.choice(found, p=chance / chance.sum()))


def _costs(problem: Problem) -> Costs | None:
    """What prices can steer: the limits that are sums, where they are of few genes each. The
    others are only checked."""
    limits, tables = [], []
    for limit in problem.limits:
        if isinstance(limit.value, Table) and limit.value.reduce == "sum":
            limits.append(limit)
            tables.append(limit.value)
    if not tables:
        return None
    try:
        return Costs(problem.space, tables, [x.low for x in limits], [x.high for x in limits])
    except InputError:  # too many genes depend on each other
        return None


class _Step:
    """The neighbourhood of an arch: what one change makes of it, and of two at once the best.

    Attributes:
        row: (genes,) the arch.
        near, places: as `changes` gives them.
    """

    def __init__(self, problem: Problem, row: Population) -> None:
        self._problem, self.row = problem, row
        self.near, self.places = changes(problem.space, row)
        both = np.concatenate([row[None], self.near])
        self._limited = [problem.archive.limited(limit, both) for limit in problem.limits]

    def best(self, gain: Floats, singles: bool = False) -> Population:
        """The pairs of changes, and on request single ones, with the largest sums of gains among
        those that the limits seem to leave; TRIED of them at most, all within the limits.

        Args:
            gain: (n,) of each change.
        """
        n = len(self.near)
        score = gain[:, None] + gain
        once = np.tri(n, k=-1, dtype=bool) & (self.places[:, None] != self.places)
        score[~once] = -np.inf
        if singles:
            score[np.diag_indices(n)] = gain
        for limit, values in zip(self._problem.limits, self._limited, strict=True):
            change = values[1:] - values[0]
            total = values[0] + change[:, None] + change
            total[np.diag_indices(n)] = values[1:]
            score[(total > limit.high) | (total < limit.low)] = -np.inf
        flat = score.ravel()
        top = np.arange(len(flat))
        if len(flat) > TRIED:
            top = np.argpartition(-flat, TRIED)[:TRIED]
        top = top[flat[top] > -np.inf]
        i, j = np.unravel_index(top, score.shape)
        rows = np.where(self.near[i] != self.row, self.near[i], self.near[j])
        rows = self._problem.space.canonical(rows)
        return rows[self._problem.within(rows)]


class _Gains:
    """What single changes gained where all were evaluated last: a guess for archs near there."""

    def __init__(self, where: Cells) -> None:
        self._where = where
        self._gain = np.zeros((0, where.size + 1))  # (parts, cells), absent blocks last

    @property
    def known(self) -> bool:
        return len(self._gain) > 0

    def learn(self, step: _Step, gain: Floats) -> None:
        """Changes of more than one block or the resolution are not kept."""
        here, there = self._where.places(step.row[None]), self._where.places(step.near)
        moved = there != here
        alone = np.flatnonzero(moved.sum(1) == 1)
        part = moved[alone].argmax(1)
        self._gain = np.zeros((here.shape[1], self._where.size + 1))
        self._gain[part, there[alone, part]] = gain[alone]

    def of(self, step: _Step) -> Floats:
        """(n,) the gains that single changes promise."""
        part = np.arange(len(self._gain))
        here, there = self._where.places(step.row[None]), self._where.places(step.near)
        gains: Floats = (self._gain[part, there] - self._gain[part, here]).sum(1)
        return gains


def changes(space: Space, row: Population) -> tuple[Population, NDArray[np.intp]]:
    """All archs that differ from `row` (genes,) in one place: the genes that belong together, a
    depth by one step, any other gene. A place that a greater depth adds comes in all its choices.

    Returns:
        (n, genes) archs and (n,) the number of the place; depth and the places it adds are one.
    """
    changed, values, places = _templates(space, tuple(int(row[c]) for c in space.controls))
    rows = np.where(changed, values, row)
    different = (rows != row).any(1)
    return rows[different], places[different]


@lru_cache(maxsize=1024)
def _templates(
    space: Space, controls: tuple[int, ...]
) -> tuple[NDArray[np.bool_], Population, NDArray[np.intp]]:
    """(n, genes) which genes each change of an arch with these depths sets, to what, and (n,) the
    places; changes to what an arch already has are among them."""
    row = np.zeros((1, len(space.genes)), GENE)
    row[0, list(space.controls)] = controls

    def moved(column: int, to: int) -> Population:
        """(genes,) which genes are there with another depth."""
        other = row.copy()
        other[0, column] = to
        there: Population = space.active(other)[0]
        return there

    active = space.active(row)[0]
    deeper = {}  # a depth that can be greater: what is there then
    for column in space.controls:
        if active[column] and row[0, column] + 1 < space.gene_sizes[column]:
            deeper[column] = moved(column, row[0, column] + 1)
    found: list[tuple[int, dict[int, int]]] = []
    for columns in space.places:
        first = columns[0]
        depth = first in space.controls
        if active[first] and depth:
            here = int(row[0, first])
            if here > 0:
                gone = np.flatnonzero(active & ~moved(first, here - 1)).tolist()
                found.append((first, {first: here - 1} | dict.fromkeys(gone, 0)))
            if first in deeper and not (deeper[first] & ~active).any():
                found.append((first, {first: here + 1}))
            continue
        sets: list[tuple[int, dict[int, int]]] = []
        if active[first]:
            sets.append((first, {}))
        else:
            sets += [(c, {c: int(row[0, c]) + 1}) for c, there in deeper.items() if there[first]]
        shape = [int(space.gene_sizes[c]) for c in columns]
        for place, more in sets:
            found += [
                (place, dict(zip(columns, index, strict=True)) | more)
                for index in np.ndindex(*shape)
            ]
    values = np.full((len(found), len(space.genes)), -1, GENE)
    for line, (_, genes) in zip(values, found, strict=True):
        line[list(genes)] = list(genes.values())
    return values >= 0, values, np.array([place for place, _ in found], np.intp)
