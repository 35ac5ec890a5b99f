"""Fronts: the best arch for every budget of every cost, from one pool of evaluated archs.

An arch that is evaluated for one budget of one device is a candidate for all others, and the
model that guides the search learns from all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onceforall.blas import on_one_thread
from onceforall.errors import InputError, MissingExtraError
from onceforall.search import evolution, feasibility, guided
from onceforall.search.archive import Archive, Objective
from onceforall.search.limits import Floats, Limit
from onceforall.search.problem import Candidate, Problem, Result, check_seed
from onceforall.space import GENE, Population, Space, Table

EVALUATIONS = 1200  # a budget, where nothing else is said
POINTS = 8  # budgets a cost, likewise
TOP = 5  # candidates of each result
METHODS = {"evolution": evolution.run, "guided": guided.run}


@on_one_thread
def pareto(
    space: Space,
    objective: Objective,
    costs: Mapping[str, Objective],
    *,
    budgets: Mapping[str, Sequence[float]] | None = None,
    limits: Sequence[Limit] = (),
    evaluations: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    method: str = "auto",
) -> list[Result]:
    """The best arch for each budget of each cost.

    Args:
        objective: (n, genes) -> (n,); more is better.
        costs: functions of populations, less is better; tables for exact decisions.
        budgets: for each cost the largest values allowed; 8 over its range where None.
        limits: that every arch must meet as well.
        evaluations, seconds: for all budgets together; 1200 evaluations a budget where None.
        method: "guided" (also "auto"), "evolution", or "nsga2": one run of NSGA-II (Deb et al.,
            2002, by pymoo) over objective and all costs, whose front takes the place of budgets.

    Returns:
        A result for each budget, costs in order, budgets ascending; its `limits` hold all costs.
        For "nsga2", one for each arch of the front, by the first cost.

    Raises:
        Infeasible: a budget cannot be met.
    """
    started = time.perf_counter()
    if not costs:
        raise InputError("pareto: no cost is given to trade the objective against")
    if method not in ("auto", "nsga2", *METHODS):
        raise InputError(f"pareto: method: {method!r} is not auto, guided, evolution or nsga2")
    check_seed(seed)
    limits = [limit.restrict(space) for limit in limits]
    costs = {n: c.restrict(space) if isinstance(c, Table) else c for n, c in costs.items()}
    rng = np.random.default_rng(seed)
    archive = Archive(space, objective)
    if method == "nsga2":
        anchors = feasibility.decide(space, limits, rng)
        count = evaluations or EVALUATIONS * POINTS
        _nsga2(Problem(archive, tuple(limits), anchors, count), costs, seed, seconds)
        return _front(archive, costs, limits, started, seed)
    wanted = _budgets(space, costs, budgets, rng)
    runs = []
    for name, budget in wanted:
        own = [*limits, Limit(name, costs[name], at_most=budget)]
        anchors = feasibility.decide(space, own, rng)
        runs.append(Problem(archive, tuple(own), anchors))
        runs[-1].first()
    run = METHODS["guided" if method == "auto" else method]
    total = evaluations if evaluations is not None else EVALUATIONS * len(runs)
    for i, problem in enumerate(runs):
        left = len(runs) - i
        if evaluations is not None or seconds is None:
            problem.evaluations = len(archive) + (total - len(archive)) / left
        if seconds is not None:
            now = time.perf_counter()
            problem.deadline = now + max(0.0, started + seconds - now) / left
        run(problem, rng)
    spent = time.perf_counter() - started
    found = []
    for problem in runs:
        problem.note()  # what the others evaluated counts as well
        top = problem.delivered(TOP)
        best = top[0]
        found.append(
            Result(
                best.arch,
                best.value,
                best.limits | _values(space, best, costs),
                len(archive),
                spent,
                "guided" if method == "auto" else method,
                seed,
                None,
                tuple(top),
                tuple(problem.curve),
            )
        )
    return found


def nondominated(points: Floats) -> NDArray[np.bool_]:
    """(n, goals), less is better -> (n,): no other point is as good in all goals and better in
    one. Of equal points the first is kept."""
    order = np.lexsort(points.T[::-1])
    keep = np.zeros(len(points), bool)
    front = np.zeros((0, points.shape[1]))
    for i in order:  # whatever could dominate a point comes before it
        if not (front <= points[i]).all(1).any():
            keep[i] = True
            front = np.concatenate([front, points[i : i + 1]])
    return keep


def _values(space: Space, found: Candidate, costs: Mapping[str, Objective]) -> dict[str, float]:
    row = space.encode([found.arch])
    return {name: float(cost(row)[0]) for name, cost in costs.items()}


def _budgets(
    space: Space,
    costs: Mapping[str, Objective],
    budgets: Mapping[str, Sequence[float]] | None,
    rng: np.random.Generator,
) -> list[tuple[str, float]]:
    if budgets is not None:
        unknown = sorted(set(budgets) - set(costs))
        if unknown:
            raise InputError(f"pareto: budgets: {unknown[0]!r} is not one of the costs")
        return [(name, b) for name in costs for b in sorted(budgets.get(name, ()))]
    wanted = []
    for name, cost in costs.items():
        if isinstance(cost, Table):
            low, high = cost.minimum()[0], cost.maximum()[0]
        else:
            values = cost(space.sample(rng, 2000))
            low, high = float(values.min()), float(values.max())
        steps = np.linspace(0.05, 0.9, POINTS)
        wanted += [(name, float(low + (high - low) * step)) for step in steps]
    return wanted


def _front(
    archive: Archive,
    costs: Mapping[str, Objective],
    limits: Sequence[Limit],
    started: float,
    seed: int,
) -> list[Result]:
    """The archs of an archive within the limits that no other is better than in every way."""
    problem = Problem(archive, tuple(limits), archive.population[:0])
    inside = problem.ranked()
    rows = archive.population[inside]
    points = np.column_stack([*(cost(rows) for cost in costs.values()), -archive.values[inside]])
    front = np.flatnonzero(nondominated(points))
    front = front[np.lexsort(points[front].T[::-1])]
    spent = time.perf_counter() - started
    results = []
    for i in front:
        found = problem.candidate(int(inside[i]))
        values = found.limits | _values(archive.space, found, costs)
        found = replace(found, limits=values)
        results.append(
            Result(
                found.arch, found.value, values, len(archive), spent, "nsga2", seed, None, (found,)
            )
        )
    return results


def _nsga2(
    problem: Problem, costs: Mapping[str, Objective], seed: int, seconds: float | None
) -> None:
    """Fills the problem's archive by NSGA-II on the genes."""
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem as Goals
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
    except ImportError:
        raise MissingExtraError("pymoo", "search", "NSGA-II") from None
    space, archive = problem.space, problem.archive
    size = 100
    deadline = math.inf if seconds is None else time.perf_counter() + seconds
    generations = max(1, int(problem.evaluations) // size)

    class Trade(Goals):
        def _evaluate(self, x: Population, out: dict[str, Floats], *args: object) -> None:
            rows = space.canonical(x.astype(GENE))
            at = archive.add(rows)
            out["F"] = np.column_stack(
                [-archive.values[at], *(cost(rows) for cost in costs.values())]
            )
            out["G"] = problem.violation(rows)[:, None]

    genes = len(space.genes)
    start = evolution.start(problem, np.random.default_rng(seed), size)
    goals = Trade(
        n_var=genes, n_obj=1 + len(costs), n_ieq_constr=1, xl=0, xu=space.gene_sizes - 1, vtype=int
    )
    algorithm = NSGA2(
        size,
        sampling=start.astype(int),
        crossover=SBX(prob=0.9, eta=3, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, prob_var=2 / genes, eta=3, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    algorithm.setup(goals, termination=("n_gen", generations), seed=seed, verbose=False)
    while algorithm.has_next() and time.perf_counter() < deadline:
        algorithm.next()
