"""The best arch within limits, or a front of them: `search`.

Feasibility is decided first; then the method that fits the problem runs. Everything works
on a `Space` and functions of populations; networks and torch are unknown here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from onceforall.blas import on_one_thread
from onceforall.errors import InputError, choices, suggestion
from onceforall.search import evolution, exact, feasibility, guided
from onceforall.search.archive import Archive, Objective
from onceforall.search.fronts import nondominated, pareto
from onceforall.search.limits import Infeasible, Limit
from onceforall.search.problem import Candidate, Certificate, Problem, Result, check_seed
from onceforall.space import Space, Table

__all__ = [
    "search",
    "pareto",
    "nondominated",
    "Candidate",
    "Certificate",
    "Infeasible",
    "Limit",
    "Objective",
    "Result",
]

EVALUATIONS = 20_000  # where neither evaluations nor seconds are given
METHODS = {"evolution": evolution.run, "guided": guided.run}


@on_one_thread
def search(
    space: Space,
    objective: Objective,
    limits: Sequence[Limit] = (),
    *,
    evaluations: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    method: str = "auto",
    top: int = 10,
) -> Result:
    """The arch of the space with the largest objective within the limits.

    Args:
        objective: (n, genes) -> (n,); more is better. A `Table` can be maximised exactly.
        evaluations: how many archs the objective may be asked for; 20,000 where neither this nor
            `seconds` is given.
        seconds: stop after this time. Without it, the result depends on the seed alone.
        method: "guided", "evolution", "exact", or "auto": exact where objective and limits are
            tables, otherwise guided, which is better than evolution for the same evaluations.
        top: how many candidates to return.

    Raises:
        Infeasible: no arch meets the limits.
        InputError: settings that make no sense.
    """
    started = time.perf_counter()
    limits = tuple(limit.restrict(space) for limit in limits)
    _check(limits, evaluations, seconds, method)
    check_seed(seed)
    if isinstance(objective, Table):
        objective = objective.restrict(space)
    rng = np.random.default_rng(seed)
    anchors = feasibility.decide(space, limits, rng)
    if evaluations is None:
        evaluations = EVALUATIONS if seconds is None else None
    deadline = math.inf if seconds is None else started + seconds
    archive = Archive(space, objective)
    problem = Problem(
        archive, limits, anchors, math.inf if evaluations is None else evaluations, deadline
    )
    additive = exact.applies(objective, limits)
    if method == "exact" and not additive:
        raise InputError("method exact: the objective must be a summed table, the limits tables")
    certificate = None
    if method == "exact" or (method == "auto" and additive):
        method = "exact"
        certificate = _exactly(problem, objective, deadline)
    else:
        method = "guided" if method == "auto" else method
        problem.first()
        METHODS[method](problem, rng)
    candidates = problem.delivered(top)
    best = candidates[0]
    return Result(
        best.arch,
        best.value,
        best.limits,
        len(archive),
        time.perf_counter() - started,
        method,
        seed,
        certificate,
        tuple(candidates[:top]),
        tuple(problem.curve),
    )


def _exactly(problem: Problem, objective: Objective, deadline: float) -> Certificate:
    assert isinstance(objective, Table)
    left = deadline - time.perf_counter() if deadline < math.inf else math.inf
    solution = exact.solve(problem.space, objective, problem.limits, left)
    rows = problem.anchors[:1]
    if solution.row is not None:
        rows = np.concatenate([solution.row, rows])
    problem.archive.add(rows)
    problem.note()
    value = float(problem.archive.values[problem.best])
    return Certificate(solution.bound, max(0.0, solution.bound - value))


def _check(
    limits: Sequence[Limit], evaluations: int | None, seconds: float | None, method: str
) -> None:
    names = [limit.name for limit in limits]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"limit {twice[0]}: given twice; a range has both bounds in one limit")
    if evaluations is not None and evaluations < 1:
        raise InputError(f"evaluations: {evaluations} is not a positive number")
    if seconds is not None and not seconds > 0:
        raise InputError(f"seconds: {seconds} is not a positive number")
    if method not in ("auto", "exact", *METHODS):
        raise InputError(
            f"method: {method!r} is not known; there are {choices(['auto', 'exact', *METHODS])}"
            + suggestion(method, ["auto", "exact", *METHODS])
        )
