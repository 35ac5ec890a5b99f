"""An additive model of any function of archs, and the archs that are best under it.

The model is what a table is, a number for every block an arch can have and one for every
resolution, but learnt by Bayesian linear regression. Its best archs within limits are found
by Lagrangian relaxation: each limit gets a price, and for given prices the best arch follows
by dynamic programming over the stages, for many models and all resolutions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from onceforall.space import GENE, Population, Space
from onceforall.tables import Table

Floats = NDArray[np.float64]

_STEPS = 16  # of the prices,
_FEWER = 7  # where the prices are roughly known,
_SHRINK = 0.72  # each so much smaller than the one before


class Cells:
    """Where the model's numbers for a space lie in one array: blocks, then resolutions.

    Behind them, `size` is the place of an absent block, which adds nothing, and `size + 1` of
    one that cannot be.

    Attributes:
        size: how many numbers there are.
        resolutions: (resolutions,) their places.
        members: (groups, kernels * expands) the places of all choices of a group, which is a
            position with given widths.
        groups: for each stage and position, (widths before or 1, widths) groups.
        kernel, expand: (size + 2,) the choice that a place stands for.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        column = {(g.kind, g.stage, g.position): i for i, g in enumerate(space.genes)}
        self.groups: list[list[NDArray[np.intp]]] = []
        self._parts: list[tuple[int, int, int]] = []  # stage, position, start
        strides, members = [], []
        kernel, expand = [], []
        start = count = 0
        before = 1
        most = max(len(stage.kernel) * len(stage.expand) for stage in space.stages)
        for s, stage in enumerate(space.stages):
            k, e, w = len(stage.kernel), len(stage.expand), len(stage.width)
            self.groups.append([])
            for b in range(stage.blocks):
                stride = np.zeros(len(space.genes))
                stride[column["kernel", s, b]], stride[column["expand", s, b]] = e, 1
                stride[column["width", s, -1]] = k * e
                rows = before if b == 0 else 1
                if rows > 1:
                    stride[column["width", s - 1, -1]] = w * k * e
                strides.append(stride)
                self._parts.append((s, b, start))
                here = np.full((rows * w, most), -1)
                here[:, : k * e] = np.arange(start, start + rows * w * k * e).reshape(-1, k * e)
                members.append(here)
                self.groups[s].append(np.arange(count, count + rows * w).reshape(rows, w))
                kernel.append(np.tile(np.repeat(np.arange(k), e), rows * w))
                expand.append(np.tile(np.arange(e), rows * w * k))
                start, count = start + rows * w * k * e, count + rows * w
            before = w
        self.resolutions = np.arange(start, start + len(space.resolution))
        self.size = start + len(space.resolution)
        self.members = np.concatenate(members)
        self.members[self.members < 0] = self.size + 1
        rest = np.zeros(len(space.resolution) + 2, int)
        self.kernel = np.concatenate([*kernel, rest]).astype(GENE)
        self.expand = np.concatenate([*expand, rest]).astype(GENE)
        self._strides = np.array(strides).T

    def places(self, population: Population) -> NDArray[np.intp]:
        """(n, parts): the model's number for each block and, last, the resolution; `size` where
        a block is absent."""
        at = (population.astype(np.float64) @ self._strides).astype(np.intp)
        for part, (s, b, start) in enumerate(self._parts):
            at[:, part] += start
            if b >= self.space.stages[s].depth[0]:
                at[self.space.depth(population, s) <= b, part] = self.size
        return np.column_stack([at, self.resolutions[population[:, 0]]])

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
    """The limited quantities over the cells, and their bounds.

    Attributes:
        cells: (limits, resolutions, size + 2).
        fixed: (limits, resolutions, last widths).
        low, high: (limits, 1, 1).
    """

    def __init__(
        self, space: Space, tables: Sequence[Table], low: Sequence[float], high: Sequence[float]
    ) -> None:
        where = cells(space)
        self.cells = np.zeros((len(tables), len(space.resolution), where.size + 2))
        for values, table in zip(self.cells, tables, strict=True):
            flat = [b.reshape(len(space.resolution), -1) for stage in table.blocks for b in stage]
            values[:, : where.resolutions[0]] = np.concatenate(flat, axis=1)
        self.fixed = np.array([t.fixed for t in tables])
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
    edge = np.broadcast_to([0.0, -np.inf], (len(models), 2))
    models = np.concatenate([models, edge], axis=1)
    rest = models[:, where.resolutions[resolutions]]  # (models, resolutions)
    of = np.broadcast_to(resolutions, rest.shape)
    if costs is None:
        chosen, gains, _ = _priced(space, models, None, None, resolutions)
        none = np.zeros((0, 1, len(resolutions)))
        return _rows(space, chosen, of).reshape(-1, len(space.genes)), (gains + rest).ravel(), none
    shape = (len(costs.low), *rest.shape)  # (limits, models, resolutions)
    given = costs.cells[:, resolutions], costs.fixed[:, resolutions]
    # a price's scale: the spread of the models' numbers over the spread of the cost's
    blocks = slice(0, where.resolutions[0])
    spread = given[0][..., blocks].std(-1)[:, None]  # (limits, 1, resolutions)
    scale = models[:, blocks].std(-1)[:, None] / np.maximum(spread, 1e-300)
    known = prices is not None
    step = np.broadcast_to(scale, shape) * (2 * _SHRINK ** (_STEPS - _FEWER) if known else 2)
    prices = np.zeros(shape) if prices is None else np.broadcast_to(prices, shape)
    best = np.zeros((*rest.shape, sum(stage.blocks + 2 for stage in space.stages)), np.intp)
    score = np.full(rest.shape, -np.inf)
    for _ in range(_FEWER if known else _STEPS):
        chosen, gains, values = _priced(space, models, given, prices, resolutions)
        over, under = values > costs.high, values < costs.low
        better = ~(over | under).any(0) & (gains + rest > score)
        best[better], score[better] = chosen[better], (gains + rest)[better]
        # prices follow what they are there for: up where there is too much, down to 0 otherwise
        way = np.where(over, 1.0, np.where(under, -1.0, -np.sign(prices)))
        moved = prices + step * way
        prices = np.where(~(over | under) & (moved * prices < 0), 0.0, moved)
        step = step * _SHRINK
    met = score > -np.inf
    return _rows(space, best[met], of[met]), score[met], prices[:, :1]


def _priced(
    space: Space,
    models: Floats,
    costs: tuple[Floats, Floats] | None,
    prices: Floats | None,  # (limits, models, resolutions)
    resolutions: NDArray[np.intp],
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """The best arch for each model and resolution when costs have a price.

    Dynamic programming over the stages, with the width of the last as the state.

    Returns:
        what was chosen (models, resolutions, choices), for `_rows`; the blocks' gains under the
        model (models, resolutions), without prices; the costs (limits, models, resolutions).
    """
    m, r = len(models), len(resolutions)
    where = cells(space)
    gain = models[:, None]
    total = np.zeros((m, r, 1))
    if costs is not None and prices is not None:
        gain = gain - np.einsum("lmr,lrc->mrc", prices, costs[0])
    gain = np.broadcast_to(gain, (m, r, where.size + 2))[:, :, where.members]
    option = gain.argmax(-1)  # (models, resolutions, groups)
    gain = gain.max(-1)
    option = where.members[np.arange(len(where.members)), option]  # the places chosen
    back = []  # for each stage (width before, depth) by (models, resolutions, width)
    for stage, groups in zip(space.stages, where.groups, strict=True):
        reached = gain[:, :, groups[0]]  # (models, resolutions, widths before, widths)
        value, depth = np.full(reached.shape, -np.inf), np.zeros(reached.shape, int)
        for b, group in enumerate(groups):
            if b > 0:
                reached = reached + gain[:, :, group]
            if b + 1 in stage.depth:
                deeper = reached > value
                value = np.where(deeper, reached, value)
                depth[deeper] = stage.depth.index(b + 1)
        value = value + total[..., None]
        before = value.argmax(2)
        total = value.max(2)
        back.append((before, depth))
    if costs is not None and prices is not None:
        total = total - np.einsum("lmr,lrw->mrw", prices, costs[1])
    width = total.argmax(-1)  # (models, resolutions)
    i, j = np.indices((m, r))
    fixed = 0.0 if costs is None else costs[1][:, j, width]
    places, choices = [], []
    for stage, groups, (before, depth) in zip(
        reversed(space.stages), reversed(where.groups), reversed(back), strict=True
    ):
        came = before[i, j, width]
        deep = depth[i, j, came, width]
        group = np.stack([g[came if b == 0 else 0, width] for b, g in enumerate(groups)], -1)
        place = option[i[..., None], j[..., None], group]  # (models, resolutions, blocks)
        place[np.arange(stage.blocks) >= np.array(stage.depth)[deep][..., None]] = where.size
        places.append(place)
        choices += [width[..., None], deep[..., None], place]
        width = came
    chosen = np.concatenate(choices, axis=-1)
    place = np.concatenate(places, axis=-1)
    gains = models[i[..., None], place].sum(-1)
    if costs is None:
        return chosen, gains, np.zeros((0, m, r))
    return chosen, gains, fixed + costs[0][:, j[..., None], place].sum(-1)


def _rows(space: Space, chosen: NDArray[np.intp], resolutions: NDArray[np.intp]) -> Population:
    """The archs that `_priced` chose: for each stage, the last first, width, depth and blocks."""
    where = cells(space)
    rows = np.zeros((*chosen.shape[:-1], len(space.genes)), GENE)
    rows[..., 0] = resolutions
    at, column = 0, len(space.genes)
    for stage in reversed(space.stages):
        column -= 2 + 2 * stage.blocks
        rows[..., column : column + 2] = chosen[..., at : at + 2]
        place = chosen[..., at + 2 : at + 2 + stage.blocks]
        end = column + 2 + 2 * stage.blocks
        rows[..., column + 2 : end : 2] = where.kernel[place]
        rows[..., column + 3 : end : 2] = where.expand[place]
        at += 2 + stage.blocks
    return rows
