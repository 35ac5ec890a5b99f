"""Which archs to label next, and when to stop: `choose`, `stalled`.

Spread first: archs far from each other, of all sizes alike. Then, once there is a predictor,
archs that it is unsure of, near the budgets that matter. Knows features and predictions; no
networks and no data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.predictors.base import Floats, Predictor
from onceforall.predictors.features import Features
from onceforall.space import GENE, Population, Space

_POOL = 20  # random archs to choose from, for each to be chosen
_STRATA = 8  # of size
_SPREAD_UNTIL = 50  # labels, before a predictor's uncertainty is asked
_KEPT = 4  # of the most uncertain archs, for each to be chosen: spread decides among them
_PATIENCE, _LEAST_GAIN = 3, 0.02


def choose(
    space: Space,
    predictor: Predictor | None,
    labelled: Population,
    n: int,
    rng: np.random.Generator,
    *,
    cost: Callable[[Population], Floats] | None = None,
    budgets: Sequence[float] = (),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Population:
    """(n, genes) distinct archs to label next, none of them in `labelled` (m, genes).

    Without a predictor, or with few labels: evenly over sizes, each as far as possible from those
    there are. Else: the archs that the predictor is most unsure of, likelier the nearer their
    `cost` is to one of `budgets` (in the unit of the cost). `settings` of the family that are not
    its own are what the sizes of archs are counted with.

    Raises:
        InputError: the space has not so many archs left.
    """
    pool = _pool(space, labelled, max(n * _POOL, 200), rng)
    if len(pool) < n:
        raise InputError(
            f"{space.family}: {n} archs asked for, but only {len(pool)} are left unlabelled"
        )
    std = None
    if predictor is not None and len(labelled) >= _SPREAD_UNTIL:
        std = predictor.predict(pool).std
    features = Features.of(space, pool, settings)
    if std is None:
        groups = features(pool)
        size = groups["size"][:, 0]
        strata = np.argsort(np.argsort(size)) * _STRATA // len(pool)
    else:
        worth = std / std.mean()
        if cost is not None and len(budgets):
            costs = cost(pool)
            nearest = np.min([np.abs(np.log(costs / budget)) for budget in budgets], axis=0)
            worth = worth * np.exp(-0.5 * (nearest / 0.25) ** 2)
        pool = pool[np.argsort(-worth, kind="stable")[: _KEPT * n]]
        strata = np.zeros(len(pool), int)
    points = _points(features, pool)
    known = _points(features, labelled) if len(labelled) else points[:0]
    return pool[_farthest(points, known, strata, n)]


def stalled(errors: Sequence[float]) -> bool:
    """Whether a held-out error, one a round, has stopped falling: the best of the last three
    rounds is no more than 2% below the best before them."""
    if len(errors) <= _PATIENCE:
        return False
    before, lately = min(errors[:-_PATIENCE]), min(errors[-_PATIENCE:])
    return lately > (1 - _LEAST_GAIN) * before


def _pool(space: Space, labelled: Population, size: int, rng: np.random.Generator) -> Population:
    """Distinct archs that have no label: all of a small space, else random ones."""
    if space.size <= size:
        pool = space.encode(list(space))
    else:
        pool = np.unique(space.sample(rng, size), axis=0)
    known = {row.tobytes() for row in np.ascontiguousarray(labelled, GENE)}
    fresh = np.array([row.tobytes() not in known for row in pool], bool)
    return rng.permutation(pool[fresh])


def _points(features: Features, population: Population) -> Floats:
    """(n, d) where archs are: sizes and sums count more than a single block."""
    groups = features(population)
    scaled = [values / np.sqrt(values.shape[1]) for values in groups.values()]
    return np.hstack(scaled)


def _farthest(points: Floats, known: Floats, strata: NDArray[np.int64], n: int) -> NDArray[np.intp]:
    """n rows, each the farthest from those before it and from the known ones (the greedy k-centre
    algorithm; Gonzalez, 1985), taking the strata in turn."""
    distance = np.full(len(points), np.inf)
    for row in known:
        distance = np.minimum(distance, ((points - row) ** 2).sum(1))
    chosen: list[int] = []
    left = np.ones(len(points), bool)
    kinds = np.unique(strata)
    while len(chosen) < n:
        allowed = left & (strata == kinds[len(chosen) % len(kinds)])
        if not allowed.any():
            allowed = left
        row = int(np.where(allowed, distance, -1.0).argmax())
        chosen.append(row)
        left[row] = False
        distance = np.minimum(distance, ((points - points[row]) ** 2).sum(1))
    return np.array(chosen, np.intp)
