"""Evolution on arrays: whole generations at a time, no arch evaluated twice, with restarts.

As in the paper (section 4.1): the best quarter are parents; half the children are mutated,
half crossed. Unlike there, children outside the limits are drawn towards an arch within
them, gene by gene, instead of drawn again without end; and when the parents stop getting
better, all but the best are replaced.
"""

from __future__ import annotations

import numpy as np

from onceforall.search.problem import Problem
from onceforall.space import Population

SIZE = 200  # archs a generation
PARENTS = 0.25
MUTATION = 0.1  # share of genes that change
PATIENCE = 8  # generations without a better arch, then a restart
IDLE = 3  # restarts in a row without a new arch, then the end


def run(problem: Problem, rng: np.random.Generator) -> None:
    """Evaluates archs until the problem's evaluations or time are used up, or nothing new is found:
    the limits may leave fewer archs than may be evaluated."""
    problem.add(problem.anchors[:SIZE])
    idle = 0
    while problem.left and idle < IDLE:
        known = len(problem.archive)
        members = problem.add(start(problem, rng, SIZE))
        stale = 0
        while problem.left and stale < PATIENCE:
            members = members[problem.feasible[members]]
            order = np.argsort(-problem.archive.values[members], kind="stable")
            members = members[order[: int(PARENTS * SIZE)]]
            top = problem.archive.values[members[0]]
            parents = problem.archive.population[members]
            children = repaired(problem, breed(problem, parents, rng, SIZE), rng)
            found = problem.add(problem.archive.unseen(children))
            members = np.concatenate([members, found])
            better = len(found) and problem.archive.values[found].max() > top
            stale = 0 if better else stale + 1
        idle = idle + 1 if len(problem.archive) == known else 0


def start(problem: Problem, rng: np.random.Generator, n: int) -> Population:
    """n random archs within the limits."""
    return repaired(problem, problem.space.sample(rng, n), rng)


def breed(problem: Problem, parents: Population, rng: np.random.Generator, n: int) -> Population:
    """n children, half mutated, half crossed."""
    a, b = parents[rng.integers(0, len(parents), (2, n))]
    half = n // 2
    mutated = problem.space.mutate(a[:half], rng, MUTATION)
    return np.concatenate([mutated, problem.space.cross(a[half:], b[half:], rng)])


def repaired(problem: Problem, population: Population, rng: np.random.Generator) -> Population:
    """The population with archs outside the limits drawn towards one within them.

    More and more genes are taken from an anchor; at last all: it always ends within the limits.
    """
    population = population.copy()
    outside = np.flatnonzero(~problem.within(population))
    for share in (0.15, 0.3, 0.5, 0.7, 1.0):
        if not len(outside):
            break
        anchors = problem.anchors[rng.integers(0, len(problem.anchors), len(outside))]
        take = rng.random(anchors.shape) < share
        rows = np.where(take, anchors, population[outside])
        population[outside] = problem.space.canonical(rows)
        outside = outside[~problem.within(population[outside])]
    return population
