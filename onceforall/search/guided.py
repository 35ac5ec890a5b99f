"""Guided search: an additive model proposes, local search refines.

First an additive model of the objective is learnt from the archs evaluated so far, and the
best archs under several plausible models (Thompson sampling) are evaluated, over all
resolutions. Then, from the best arch: all single changes are evaluated; pairs of changes and
larger jumps are ranked by the sum of their parts, and the best of them evaluated; until
nothing gets better. After that, local search starts again from children of the
archs where it ended, and now and then from random ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onceforall.search import evolution
from onceforall.search.additive import Costs, Regression, best_archs, cells
from onceforall.search.problem import Problem
from onceforall.space import Population, Space
from onceforall.tables import Table

Floats = NDArray[np.float64]

START = 160  # random archs
SHARE = 0.45  # of the evaluations go to archs that the model proposes,
ROUNDS = 30  # in so many rounds at most,
BATCH = 25  # of so many archs each,
DRAWS = 8  # the best under so many models
LEARN = 1200  # archs that a model is learnt from, at most
RIDGE = 0.02  # prior precision of the model's numbers, in archs
PAIRS = 30  # evaluated in a step of local search
JUMPS = 20  # likewise
ELITE = 12  # ends of local search that become parents
CHILDREN = 24  # of two of them; local search starts again from the best
KICK = 0.05  # share of their genes that change
FRESH = 0.3  # share of starts from random archs instead
IDLE = 5  # starts in a row without a new arch, then the end


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
        self._resolutions = np.arange(len(self._space.resolution))
        self._design = np.zeros((0, self._cells.size))
        self._model: Regression | None = None
        self._ends: list[int] = []  # of local search, in the archive
        self._learnt = 0  # archs that the model has seen

    def run(self) -> None:
        problem = self._problem
        problem.note()
        allowed = problem.left
        problem.evaluate(problem.anchors[:20])
        missing = START - int(problem.feasible.sum())
        if missing > 0:
            problem.evaluate(evolution.start(problem, self._rng, missing))
        for _ in range(ROUNDS):
            if allowed - problem.left > SHARE * allowed or not problem.left:
                break
            self._propose()
        idle, start = 0, problem.best
        while problem.left and idle < IDLE:
            known = len(self._archive)
            self._ends.append(self._descend(start))
            start = self._restart()
            idle = idle + 1 if len(self._archive) == known else 0

    def _fit(self) -> Regression:
        """The model of what was evaluated so far; the better an arch, the more it counts."""
        archive = self._archive
        n = len(archive)
        new = self._cells.design(archive.population[len(self._design) :])
        self._design = np.concatenate([self._design, new])
        order = np.argsort(-archive.values, kind="stable")[:LEARN]
        weights = 1 / (1 + np.arange(len(order)) / (0.25 * len(order)))
        self._model = Regression(self._design[order], archive.values[order], weights, RIDGE)
        self._learnt = n
        return self._model

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
        self._problem.evaluate(rows[self._problem.within(rows)][:BATCH])

    def _descend(self, at: int) -> int:
        """Local search from an arch of the archive, as long as it gets better; where it
        ends."""
        problem, archive = self._problem, self._archive
        while problem.left:
            row, value = archive.population[at], archive.values[at]
            near, place = changes(self._space, row)
            found = problem.evaluate(near)
            if len(found) < len(near):
                return at
            gain = archive.values[found] - value
            for several in (self._pairs(row, near, place, gain), self._jumps(row, near, gain)):
                found = np.concatenate([found, problem.evaluate(several)])
            found = found[problem.feasible[found]]
            if not len(found) or archive.values[found].max() <= value:
                return at
            at = int(found[archive.values[found].argmax()])
        return at

    def _pairs(
        self, row: Population, near: Population, place: NDArray[np.intp], gain: Floats
    ) -> Population:
        """Two changes at once: the best within the limits by the sum of what each does alone."""
        i, j = np.triu_indices(len(near), 1)
        good = (place[i] != place[j]) & (gain[i] + gain[j] > 0)
        i, j = i[good], j[good]
        for limit in self._problem.limits:
            values = np.asarray(limit.value(np.concatenate([row[None], near])), float)
            change = values[1:] - values[0]
            good = limit.excess(values[0] + change[i] + change[j]) == 0
            i, j = i[good], j[good]
        top = np.argsort(-(gain[i] + gain[j]), kind="stable")[:PAIRS]
        i, j = i[top], j[top]
        both = self._space.canonical(np.where(near[i] != row, near[i], near[j]))
        return both[self._problem.within(both)]

    def _jumps(self, row: Population, near: Population, gain: Floats) -> Population:
        """Many changes at once: the best archs of a model that is exact about single changes,
        held back to `row` more and less."""
        stale = self._model is None or len(self._archive) > 1.2 * self._learnt
        fitted = self._fit() if stale or self._model is None else self._model
        model = np.append(fitted.mean, 0.0)  # an absent block adds nothing
        here, there = self._cells.places(row[None])[0], self._cells.places(near)
        alone = (there != here).sum(1) == 1
        for old, new in zip(here, there.T, strict=True):
            moved = alone & (new != old)
            model[new[moved]] = model[old] + gain[moved]
            model[-1] = 0.0  # where the change took the block away
        stay = np.zeros(len(model))  # all blocks of `row` are worth more
        stay[here] = 1.0
        pull = np.geomspace(0.03, 2.0, JUMPS)[:, None] * np.abs(gain).mean()
        r = row[:1].astype(np.intp)
        prices = None if self._prices is None else self._prices[:, :, r]
        models = (model + pull * stay)[:, :-1]
        rows, _, _ = best_archs(self._space, models, self._costs, r, prices)
        return rows[self._problem.within(rows)]

    def _restart(self) -> int:
        """Where local search starts again: the best of some random archs, or, the more ends it has
        found, of children of two of these."""
        problem, archive, rng = self._problem, self._archive, self._rng
        ends = np.unique(self._ends)
        ends = ends[np.argsort(-archive.values[ends], kind="stable")][:ELITE]
        if len(ends) < 2 or rng.random() < FRESH:
            rows = self._space.sample(rng, CHILDREN)
            rows[:, 0] = self._resolution()
        else:
            a, b = archive.population[rng.choice(ends, 2, replace=False)]
            several = np.repeat([a, b], CHILDREN, axis=0).reshape(2, CHILDREN, -1)
            rows = self._space.cross(several[0], several[1], rng)
            rows = self._space.mutate(rows, rng, KICK)
        rows = archive.unseen(evolution.repaired(problem, rows, rng))
        found = problem.evaluate(rows)
        found = found[problem.feasible[found]]
        return int(found[archive.values[found].argmax()]) if len(found) else problem.best

    def _resolution(self) -> int:
        """One drawn at random: the n-th by its best arch so far with a chance of 1/n."""
        ranked = self._archive.population[self._problem.ranked(), 0]
        first = np.unique(ranked, return_index=True)
        found: NDArray[np.int8] = first[0][np.argsort(first[1])]  # the best first
        chance = 1 / np.arange(1, len(found) + 1)
        return int(self._rng.choice(found, p=chance / chance.sum()))


def _costs(problem: Problem) -> Costs | None:
    """What prices can steer: the limits that are sums. The others are only checked."""
    limits, tables = [], []
    for limit in problem.limits:
        if isinstance(limit.value, Table) and limit.value.reduce == "sum":
            limits.append(limit)
            tables.append(limit.value)
    if not tables:
        return None
    return Costs(problem.space, tables, [x.low for x in limits], [x.high for x in limits])


def changes(space: Space, row: Population) -> tuple[Population, NDArray[np.intp]]:
    """All archs that differ from `row` (genes,) in one place: a block, a stage's depth or width,
    the resolution. A block that a greater depth adds comes in all its choices.

    Returns:
        (n, genes) archs and (n,) the number of the place; depth and the block it adds are one.
    """
    rows: list[NDArray[np.int8]] = []
    places: list[int] = []

    def add(place: int, *genes: tuple[int, int]) -> None:
        changed = row.copy()
        for column, choice in genes:
            changed[column] = choice
        rows.append(changed)
        places.append(place)

    for choice in range(len(space.resolution)):
        if choice != row[0]:
            add(0, (0, choice))
    column = 1
    for stage in space.stages:
        for choice in range(len(stage.width)):
            if choice != row[column]:
                add(column, (column, choice))
        deep = int(row[column + 1])
        if deep > 0:
            add(column + 1, (column + 1, deep - 1))
        deeper = min(deep + 1, len(stage.depth) - 1)
        for b in range(stage.depth[deeper]):
            first = column + 2 + 2 * b
            for k in range(len(stage.kernel)):
                for e in range(len(stage.expand)):
                    genes = (first, k), (first + 1, e)
                    if b >= stage.depth[deep]:
                        add(column + 1, (column + 1, deeper), *genes)
                    elif (k, e) != (row[first], row[first + 1]):
                        add(first, *genes)
        column += 2 + 2 * stage.blocks
    if not rows:
        return np.zeros((0, len(row)), np.int8), np.zeros(0, np.intp)
    return space.canonical(np.array(rows)), np.array(places)
