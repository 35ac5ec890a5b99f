"""Numbers about archs that predictors learn from: `Features`.

Computed for whole populations, from the space alone, and where the family can be built also from
its cost tables. Each group is scaled by its spread over random archs of the space, so that the
scale does not depend on which few records there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.predictors.base import check_part
from onceforall.predictors.physics import Terms
from onceforall.space import GENE, Population, Space

if TYPE_CHECKING:
    from onceforall.tables import Table

Floats = NDArray[np.float64]
Groups = dict[str, Floats]  # name -> (n, features of that group)

UNSCALED = ("blocks",)  # indicators: a block that is rare has no greater effect than another
_SPREAD_SAMPLE = 1000  # random archs that the scales are taken from


RANGED = ("size", "resolution", "depth", "kernel", "expand", "width")
Range = dict[str, Floats]  # group -> (2, features): least and greatest of the archs learnt from


def range_of(groups: Groups) -> Range:
    """The range of the groups that say whether an arch is far from all others."""
    return {k: np.stack([groups[k].min(0), groups[k].max(0)]) for k in RANGED if k in groups}


def outside(groups: Groups, known: Range) -> NDArray[np.bool_]:
    """(n,) whether an arch is outside the range in any feature."""
    out = np.zeros(len(groups["resolution"]), bool)
    for name, (low, high) in known.items():
        out |= ((groups[name] < low - 1e-6) | (groups[name] > high + 1e-6)).any(1)
    return out


@dataclass(frozen=True, eq=False)
class Features:
    """Groups of features of the archs of a space.

    `whole` is the space that fixes what the features are; `space`, whose populations are given,
    is it or a part of it, at any resolutions. `resolutions` are those that were learnt from.
    """

    whole: Space
    space: Space
    resolutions: tuple[int, ...]

    def __call__(self, population: Population) -> Groups:
        """The groups, centred and scaled; (n, features) each."""
        raw = _raw(self.whole, self._tables, self.translate(population), self._resolution)
        return {
            name: (values - self._scales[name][0]) / self._scales[name][1]
            for name, values in raw.items()
        }

    def translate(self, population: Population) -> Population:
        """The population as one of `whole`; its resolution genes are those of `space`."""
        if self._same:
            return population
        mine = {(g.kind, g.stage, g.position): i for i, g in enumerate(self.space.genes)}
        out = np.zeros((len(population), len(self.whole.genes)), GENE)
        out[:, 0] = population[:, 0]
        for column, gene in enumerate(self.whole.genes[1:], 1):
            source = mine.get((gene.kind, gene.stage, gene.position))
            if source is not None:
                values = self.space.genes[source].values
                index = np.array([gene.values.index(v) for v in values], GENE)
                out[:, column] = index[population[:, source]]
        return out

    def physics(self, population: Population) -> Terms:
        """What takes time on a device: things to be started (a constant, operations, and once
        more poolings, which many devices are slow at), and things to be computed (MACs of dense
        and of depthwise convolutions, elements written). Where the family cannot be built, blocks
        stand for operations, and width^2 * expand * pixels for MACs."""
        inner = self.translate(population)
        one = np.ones(len(population))
        if self._tables is None:
            depths = [self.whole.depth(inner, s) for s in range(len(self.whole.stages))]
            work = np.exp(_raw(self.whole, None, inner, self._resolution)["size"][:, 0])
            pixels = self._resolution[inner[:, 0]] ** 2
            return _terms([one, np.sum(depths, 0)], (0.1, 0.9), [work, pixels], (0.8, 0.2))
        from onceforall.tables import evaluate

        tables = self._tables
        operations, pools, macs, depthwise, written = evaluate(
            [tables.operations, tables.pools, tables.macs, tables.depthwise, tables.activations],
            inner,
        )
        return _terms(
            [one, operations, pools],
            (0.05, 0.7, 0.25),
            [macs - depthwise, depthwise, written],
            (0.4, 0.2, 0.4),
        )

    @classmethod
    def of(cls, space: Space, population: Population) -> Features:
        """The features that are learnt from these archs of the space."""
        learnt = np.unique(population[:, 0])
        return cls(space, space, tuple(space.resolution[i] for i in learnt))

    def on(self, space: Space) -> Features:
        """The same features for populations of a part of the space, at any resolutions."""
        return replace(self, space=space)

    @cached_property
    def _same(self) -> bool:
        return self.whole.stages == self.space.stages

    @cached_property
    def _resolution(self) -> Floats:
        return np.array(self.space.resolution, float)

    @cached_property
    def _tables(self) -> CostTables | None:
        return cost_tables(self.whole, self.space.resolution)

    @cached_property
    def _scales(self) -> dict[str, tuple[Floats, Floats]]:
        """Mean and spread of each feature over random archs at the resolutions learnt from."""
        rng = np.random.default_rng(0)
        population = self.whole.sample(rng, _SPREAD_SAMPLE)
        population[:, 0] = rng.integers(0, len(self.resolutions), _SPREAD_SAMPLE)
        sizes = np.array(self.resolutions, float)
        raw = _raw(self.whole, cost_tables(self.whole, self.resolutions), population, sizes)
        scales = {}
        for name, values in raw.items():
            spread = np.ones(values.shape[1]) if name in UNSCALED else values.std(0)
            scales[name] = values.mean(0), np.where(spread > 1e-9, spread, 1.0)
        return scales


def _terms(
    starts: list[Floats],
    start_shares: tuple[float, ...],
    computes: list[Floats],
    compute_shares: tuple[float, ...],
) -> Terms:
    """The terms that are there: one that is 0 for every arch says nothing."""
    a = [i for i, term in enumerate(starts) if term.any()]
    b = [i for i, term in enumerate(computes) if term.any()]
    return Terms(
        np.stack([starts[i] for i in a], 1),
        np.stack([computes[i] for i in b], 1),
        np.array([start_shares[i] for i in a]),
        np.array([compute_shares[i] for i in b]),
    )


@dataclass(frozen=True, eq=False)
class CostTables:
    """Additive costs of a family: of a whole arch, and MACs of each stage by itself."""

    macs: Table
    params: Table
    activations: Table  # elements that convolutions and linear layers write
    depthwise: Table  # MACs of depthwise convolutions
    pools: Table  # poolings: one for each squeeze-excite block, and the head's
    operations: Table  # of any kind: what a device has to start one by one
    stage_macs: tuple[Table, ...]


@lru_cache(maxsize=16)
def cost_tables(space: Space, resolutions: tuple[int, ...]) -> CostTables | None:
    """The tables of the space's family at these resolutions, in the order given; None where no
    family of that name and space can be built, or its costs are not all known."""
    from onceforall import families
    from onceforall.costs import layer_table, whole_cost

    try:
        family = families.get(space.family)
        check_part(space, family.space, "costs")
        whole = replace(family.space, resolution=tuple(resolutions))

        def table(rows: Callable[[Any], float]) -> Table:
            made = layer_table(
                family, lambda layer, shape: rows(whole_cost(layer, shape)), "sum", resolutions
            )
            return made.restrict(replace(space, resolution=whole.resolution))

        macs = table(lambda cost: cost.macs)
        return CostTables(
            macs=macs,
            params=table(lambda cost: cost.params),
            activations=table(
                lambda cost: sum(math.prod(r.output_shape) for r in cost.rows if r.macs)
            ),
            depthwise=table(lambda cost: sum(r.macs for r in cost.rows if r.depthwise)),
            pools=table(lambda cost: sum("Pool" in r.kind for r in cost.rows)),
            operations=table(lambda cost: len(cost.rows)),
            stage_macs=tuple(_of_stage(macs, s) for s in range(len(space.stages))),
        )
    except InputError:
        return None


def _of_stage(table: Table, stage: int) -> Table:
    """The table with all but one stage set to 0."""
    blocks = tuple(
        tuple(b if s == stage else np.zeros_like(b) for b in of_stage)
        for s, of_stage in enumerate(table.blocks)
    )
    return replace(table, blocks=blocks, fixed=np.zeros_like(table.fixed))


def _raw(space: Space, tables: CostTables | None, population: Population, sizes: Floats) -> Groups:
    """The groups before scaling; `sizes` are the resolutions that the genes name, in pixels."""
    n = len(population)
    active = space.active(population)
    resolution = sizes[population[:, 0]]
    groups: dict[str, list[Floats]] = {
        "resolution": [np.log(resolution)],
        "depth": [],
        "kernel": [],
        "expand": [],
        "width": [],
        "blocks": [],
    }
    work = np.zeros(n)  # stands for MACs where the family cannot be built
    for s, stage in enumerate(space.stages):
        width = np.array(stage.width, float)[space.width(population, s)]
        if len(stage.width) > 1:
            groups["width"].append(np.log(width))
        if len(stage.depth) > 1:
            groups["depth"].append(space.depth(population, s).astype(float))
        kernels, expands = np.zeros(n), np.zeros(n)
        for b in range(stage.blocks):
            there = space.depth(population, s) > b
            kernel, expand = space.block(population, s, b)
            kernels += there * np.array(stage.kernel, float)[kernel]
            expands += there * np.array(stage.expand, float)[expand]
        work += expands * width**2
        if len(stage.kernel) > 1:
            groups["kernel"].append(kernels)
        if len(stage.expand) > 1:
            groups["expand"].append(expands)
    for column, gene in enumerate(space.genes[1:], 1):
        if len(gene.values) > 1:
            for choice in range(len(gene.values)):
                groups["blocks"].append(
                    ((population[:, column] == choice) & active[:, column]).astype(float)
                )
    if tables is None:
        groups["size"] = [np.log(work * resolution**2)]
    else:
        from onceforall.tables import evaluate

        values = evaluate(
            [tables.macs, tables.params, tables.activations, *tables.stage_macs], population
        )
        groups["size"] = list(np.log(values[:3]))
        groups["stage_macs"] = list(np.log(values[3:]))
    return {name: np.stack(columns, 1) for name, columns in groups.items() if columns}
