"""An additive model of any function of archs, and the archs that are best under it.

The model is what a table is, a number for every choice of the genes that act together and one for
every resolution, but fitted by Bayesian linear regression. Its best archs within limits are found
by Lagrangian relaxation: each limit gets a price, and for given prices the best arch follows by
variable elimination, for many models and all resolutions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from onceforall.space import GENE, Population, Space, Table
from onceforall.space.elimination import Part, Plan
from onceforall.space.stages import chain

Floats = NDArray[np.float64]

_STEPS = 16  # of the prices,
_FEWER = 7  # where the prices are roughly known,
_SHRINK = 0.72  # each so much smaller than the one before


class Cells:
    """Where the model's numbers for a space lie in one array: those of its parts, then resolutions.

    A part is what acts together: of stages of blocks, each block with the widths about it; of other
    spaces, the genes of a place. Behind all numbers, `size` is the place of an absent part.

    Attributes:
        size: how many numbers there are.
        plan: of the parts.
        resolutions: (resolutions,) their places; of one number where the resolution is no gene.
        swept: whether the resolution is apart from all parts, so that each has best archs.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.swept = space.scaled and 0 not in space.controls
        if space.staged:
            parts = [space.part(genes) for genes in chain(space.stages)]
        else:
            places = space.places[1:] if self.swept else space.places
            parts = [space.part([space.genes[c].name for c in columns]) for columns in places]
        self.plan = Plan(parts, space.gene_sizes.tolist())
        count = len(space.resolution) if self.swept else 1
        self.resolutions = np.arange(self.plan.size, self.plan.size + count)
        self.size = self.plan.size + count

    def places(self, population: Population) -> NDArray[np.intp]:
        """(n, parts): the model's number for each part and, last, the resolution; `size` where a
        part is absent."""
        at = self.plan.places(population)
        at[at == self.plan.size] = self.size
        which = population[:, 0] if self.swept else np.zeros(len(population), GENE)
        return np.column_stack([at, self.resolutions[which]])

    def design(self, population: Population) -> Floats:
        """(n, size): 1 where an arch has a number."""
        full = np.zeros((len(population), self.size + 1))
        np.put_along_axis(full, self.places(population), 1.0, axis=1)
        return full[:, : self.size]


@lru_cache(maxsize=16)
def cells(space: Space) -> Cells:
    return Cells(space)


class Regression:
    """Bayesian linear regression on the cells; archs with more weight count more."""

    def __init__(self, design: Floats, values: Floats, weights: Floats, ridge: float) -> None:
        self.offset = float(np.average(values, weights=weights))
        weighted = design * weights[:, None]
        matrix = weighted.T @ design
        matrix[np.diag_indices_from(matrix)] += ridge
        self._factor = cho_factor(matrix, lower=True)
        self.mean: Floats = cho_solve(self._factor, weighted.T @ (values - self.offset))
        residual = values - self.offset - design @ self.mean
        self.scatter = float(np.sqrt(np.average(residual**2, weights=weights)))

    def draws(self, rng: np.random.Generator, n: int) -> Floats:
        """(n, cells): models that the values leave plausible, the mean first."""
        noise = rng.standard_normal((len(self.mean), n))
        noise[:, 0] = 0
        spread = solve_triangular(self._factor[0], noise, lower=True, trans="T")
        return self.mean + self.scatter * spread.T


class Costs:
    """The limited quantities over the parts of the model and of their own, and their bounds.

    Attributes:
        plan: of the model's parts and, behind them, the tables' that it has not.
        cells: (limits, resolutions, plan.size + 1); the last is of an absent part.
        low, high: (limits, 1, 1).

    Raises:
        InputError: too many genes depend on each other.
    """

    def __init__(
        self, space: Space, tables: Sequence[Table], low: Sequence[float], high: Sequence[float]
    ) -> None:
        where = cells(space)

        def swept(part: Part) -> Part:
            genes = tuple(g for g in part.genes if not (where.swept and g == 0))
            return Part(genes, part.conditions)

        own = {swept(part): None for table in tables for part in table.parts}
        parts = list(dict.fromkeys([*where.plan.parts, *own]))
        sizes = where.plan.sizes
        self.plan = Plan(parts, sizes)
        count = len(where.resolutions)
        self.cells = np.zeros((len(tables), count, self.plan.size + 1))
        for numbers, table in zip(self.cells, tables, strict=True):
            for part, values in zip(table.parts, table.arrays, strict=True):
                if not (where.swept and 0 in part.genes):
                    values = np.broadcast_to(values, (count, *values.shape))
                start = self.plan.starts[parts.index(swept(part))]
                flat = values.reshape(count, -1)
                numbers[:, start : start + flat.shape[1]] += flat
        self.low, self.high = (np.array(v, float)[:, None, None] for v in (low, high))


def best_archs(
    space: Space,
    models: Floats,  # (models, cells)
    costs: Costs | None,
    resolutions: NDArray[np.intp],
    prices: Floats | None = None,  # (limits, 1, resolutions)
) -> tuple[Population, Floats, Floats]:
    """For each model and resolution the best arch within the limits that prices lead to.

    Args:
        prices: of the limits, where they are roughly known, from an earlier call.

    Returns:
        (n, genes) archs and (n,) their values by the model that they are the best of; pairs for
        which no arch within the limits was met are left out. And the first model's prices.
    """
    where = cells(space)
    plan = where.plan if costs is None else costs.plan
    rest = models[:, where.resolutions[resolutions]]  # (models, resolutions)
    of = np.broadcast_to(resolutions, rest.shape)
    own = where.plan.size
    gain = np.zeros((len(models), plan.size + 1))  # the last is of an absent part
    gain[:, :own] = models[:, :own]
    i = np.arange(len(models))[:, None, None]
    if costs is None:
        shape = (*rest.shape, plan.size)
        chosen, places = plan.best(np.broadcast_to(gain[:, None, : plan.size], shape))
        none = np.zeros((0, 1, len(resolutions)))
        rows = _rows(where, plan, chosen, places, of).reshape(-1, len(space.genes))
        return rows, (gain[i, places].sum(-1) + rest).ravel(), none
    given = costs.cells[:, resolutions]  # (limits, resolutions, cells)
    # a price's scale: the spread of the models' numbers over the spread of the cost's
    spread = given[..., :own].std(-1)[:, None]  # (limits, 1, resolutions)
    scale = models[:, :own].std(-1)[:, None] / np.maximum(spread, 1e-300)
    known = prices is not None
    shape = (len(costs.low), *rest.shape)  # (limits, models, resolutions)
    step = np.broadcast_to(scale, shape) * (2 * _SHRINK ** (_STEPS - _FEWER) if known else 2)
    prices = np.zeros(shape) if prices is None else np.broadcast_to(prices, shape)
    best = np.zeros((*rest.shape, len(space.genes)), np.intp)
    best_places = np.zeros((*rest.shape, len(plan.parts)), np.intp)
    score = np.full(rest.shape, -np.inf)
    j = np.arange(len(resolutions))[:, None]
    for _ in range(_FEWER if known else _STEPS):
        priced = gain[:, None] - np.einsum("lmr,lrc->mrc", prices, given)
        chosen, places = plan.best(priced[..., : plan.size])
        gains = gain[i, places].sum(-1) + rest
        values = given[:, j, places].sum(-1)
        over, under = values > costs.high, values < costs.low
        better = ~(over | under).any(0) & (gains > score)
        best[better], best_places[better] = chosen[better], places[better]
        score[better] = gains[better]
        # prices follow what they are there for: up where there is too much, down to 0 otherwise
        way = np.where(over, 1.0, np.where(under, -1.0, -np.sign(prices)))
        moved = prices + step * way
        prices = np.where(~(over | under) & (moved * prices < 0), 0.0, moved)
        step = step * _SHRINK
    met = score > -np.inf
    return _rows(where, plan, best[met], best_places[met], of[met]), score[met], prices[:, :1]


def _rows(
    where: Cells,
    plan: Plan,
    chosen: NDArray[np.intp],
    places: NDArray[np.intp],
    resolutions: NDArray[np.intp],
) -> Population:
    """The archs that the plan chose; what no part depends on is at its first choice."""
    rows = plan.rows(chosen, places).astype(GENE)
    if where.swept:
        rows[..., 0] = resolutions
    flat = rows.reshape(-1, rows.shape[-1])
    return where.space.canonical(flat).reshape(rows.shape)
