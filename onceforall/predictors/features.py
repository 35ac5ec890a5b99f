"""Numbers about archs that predictors are fitted on: `Features`.

Computed for whole populations, from the space alone, and where the family can be built also from
its cost tables. Each group is scaled by its spread over random archs of the space, so that the
scale does not depend on which few records there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.predictors.base import Floats, Groups
from onceforall.predictors.physics import Terms
from onceforall.predictors.work import Unknown, Work, amounts, work_of
from onceforall.space import GENE, Population, Space
from onceforall.space.genes import RESOLUTION
from onceforall.space.stages import KINDS, block_gene, stage_gene

UNSCALED = ("blocks",)  # indicators: a block that is rare has no greater effect than another
_SPREAD_SAMPLE = 1000  # random archs that the scales are taken from
_SPREAD_COUNTED = 100  # where each of them has to be built


UNRANGED = ("blocks", "stage_macs")  # do not say whether an arch is far from all others
OTHERS = "genes"  # the group of all kinds but those of convolutional blocks
LOGS = ("width",)  # kinds of genes whose logarithm counts; of all resolutions it does
Range = dict[str, Floats]  # group -> (2, features): least and greatest of the training archs


def range_of(groups: Groups) -> Range:
    """The range of the groups that say whether an arch is far from all others."""
    ranged = [k for k in groups if k not in UNRANGED]
    return {k: np.stack([groups[k].min(0), groups[k].max(0)]) for k in ranged}


def outside(groups: Groups, known: Range) -> NDArray[np.bool_]:
    """(n,) whether an arch is outside the range in any feature."""
    out = np.zeros(len(next(iter(groups.values()))), bool)
    for name, (low, high) in known.items():
        out |= ((groups[name] < low - 1e-6) | (groups[name] > high + 1e-6)).any(1)
    return out


@dataclass(frozen=True, eq=False)
class Features:
    """Groups of features of the archs of a space.

    `whole` is the space that fixes what the features are; `space`, whose populations are given,
    is it or a part of it, at any resolutions. `resolutions` are those of the training archs,
    `settings` those of the family that are not its own: its networks are counted with them.
    """

    whole: Space
    space: Space
    resolutions: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, population: Population) -> dict[str, Floats]:
        """The groups, centred and scaled; (n, features) each."""
        raw = _raw(self.whole, self._work, self.translate(population), self._resolution)
        return {
            name: (values - self._scales[name][0]) / self._scales[name][1]
            for name, values in raw.items()
        }

    def translate(self, population: Population) -> Population:
        """The population as one of `whole`; its resolution genes are those of `space`."""
        if self._same:
            return population
        out = np.zeros((len(population), len(self.whole.genes)), GENE)
        for source, gene in enumerate(self.space.genes):
            column = self.whole.column(gene.name)
            values = self.whole.genes[column].values
            if gene.name == RESOLUTION:
                out[:, column] = population[:, source]
            else:
                index = np.array([values.index(v) for v in gene.values], GENE)
                out[:, column] = index[population[:, source]]
        return out

    def physics(self, population: Population) -> Terms:
        """What takes time on a device: things to be started (a constant, operations, and once
        more poolings, which many devices are slow at), and things to be computed (MACs of dense
        and of depthwise convolutions, elements written). Where the family cannot be built, blocks
        stand for operations, and width^2 * expand * pixels for MACs."""
        inner = self.translate(population)
        one = np.ones(len(population))
        work = self._work
        if isinstance(work, Unknown):
            places, product = _stand_in(self.whole, inner)
            pixels = _sizes(self.whole, self._resolution, inner) ** 2
            return _terms([one, places], (0.1, 0.9), [product * pixels, pixels], (0.8, 0.2))
        operations, pools, macs, depthwise, written = amounts(
            [work.operations, work.pools, work.macs, work.depthwise, work.written], inner
        )
        return _terms(
            [one, operations, pools],
            (0.05, 0.7, 0.25),
            [macs - depthwise, depthwise, written],
            (0.4, 0.2, 0.4),
        )

    @classmethod
    def of(cls, space: Space, population: Population, settings: Mapping[str, Any]) -> Features:
        """The features for a predictor that is fitted on these archs of the space."""
        there = np.unique(population[:, 0]) if space.scaled else ()
        return cls(space, space, tuple(space.resolution[i] for i in there), settings)

    def on(self, space: Space) -> Features:
        """The same features for populations of a part of the space, at any resolutions."""
        return replace(self, space=space)

    @cached_property
    def _same(self) -> bool:
        own, whole = (s.genes[1:] if s.scaled else s.genes for s in (self.space, self.whole))
        return own == whole

    @cached_property
    def _resolution(self) -> Floats:
        return np.array(self.space.resolution, float)

    @cached_property
    def _work(self) -> Work | Unknown:
        return work_of(self.whole, self.space.resolution, self.settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """That physics is missing, and why, where it is."""
        if not isinstance(self._work, Unknown):
            return ()
        return (
            "fitted without physics: MACs, parameters and operations of these archs are not known"
            f" ({self._work.reason}); sums and products of choices stand for them",
        )

    @cached_property
    def _scales(self) -> dict[str, tuple[Floats, Floats]]:
        """Mean and spread of each feature over random archs at the training archs' resolutions."""
        rng = np.random.default_rng(0)
        work = work_of(self.whole, self.resolutions, self.settings)
        n = _SPREAD_SAMPLE if isinstance(work, Unknown) or work.quick else _SPREAD_COUNTED
        population = self.whole.sample(rng, n)
        if self.whole.scaled:
            population[:, 0] = rng.integers(0, len(self.resolutions), n)
        raw = _raw(self.whole, work, population, np.array(self.resolutions, float))
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


def _raw(
    space: Space, work: Work | Unknown, population: Population, sizes: Floats
) -> dict[str, Floats]:
    """The groups before scaling: one for each kind of gene, of how much there is of it, one of
    indicators of all choices, and of sizes. `sizes` are the resolutions that the genes name, in
    pixels."""
    active = space.active(population)
    resolution = _sizes(space, sizes, population)
    groups: dict[str, list[Floats]] = {RESOLUTION: [np.log(resolution)]} if space.scaled else {}
    groups |= {kind: [] for kind in KINDS}
    for kind, numbers in _siblings(space):
        total = np.zeros(len(population))
        for column, values in numbers.items():
            total += active[:, column] * values[population[:, column]]
        name = kind if kind in KINDS else OTHERS
        groups.setdefault(name, []).append(np.log(total) if kind in LOGS else total)
    columns, choices = _choices(space)
    chosen = (population[:, columns] == choices) & active[:, columns]
    groups["blocks"] = list(chosen.T.astype(float))
    if isinstance(work, Unknown):
        groups["size"] = [np.log(_stand_in(space, population)[1] * resolution**2)]
    else:
        sums = [work.macs, work.params, work.written, *work.stage_macs]
        found = np.log(amounts(sums, population))
        groups["size"] = list(found[:3])
        groups["stage_macs"] = list(found[3:])
    return {name: np.stack(parts, 1) for name, parts in groups.items() if parts}


def _own(space: Space) -> range:
    """The columns of all genes but the resolution."""
    return range(1 if space.scaled else 0, len(space.genes))


@lru_cache(maxsize=64)
def _siblings(space: Space) -> list[tuple[str, dict[int, Floats]]]:
    """Genes that are one feature, the sum over those that are there: of one kind, in places side
    by side, such as the kernels of a stage's blocks, or all that come and go with a depth. Of those
    that are numbers and can differ: the kind, and by column the values."""
    found: dict[tuple[str, ...], list[int]] = {}
    for column in _own(space):
        gene = space.genes[column]
        outer, inside, _ = gene.place.rpartition(".")
        beside = inside or gene.present
        found.setdefault((gene.kind, outer) if beside else (gene.name,), []).append(column)
    numbers = []
    for columns in found.values():
        first = space.genes[columns[0]]
        if len(first.values) > 1 and not first.is_text:
            values = {column: np.array(space.genes[column].values, float) for column in columns}
            numbers.append((first.kind, values))
    return numbers


@lru_cache(maxsize=64)
def _choices(space: Space) -> tuple[NDArray[np.intp], Population]:
    """(indicators,) columns and choices, of all choices of all genes that have several."""
    several = [
        (column, choice)
        for column in _own(space)
        if len(space.genes[column].values) > 1
        for choice in range(len(space.genes[column].values))
    ]
    pairs = np.array(several, np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1].astype(GENE)


def _sizes(space: Space, sizes: Floats, population: Population) -> Floats:
    """(n,) the resolutions, pixels; 1 where they are no gene."""
    return sizes[population[:, 0]] if space.scaled else np.ones(len(population))


def _stand_in(space: Space, population: Population) -> tuple[Floats, Floats]:
    """(n,) places that are there, and (n,) what stands for their MACs a pixel where the family
    cannot be built: of convolutional blocks expand * width^2, of others the product of numbers."""
    active = space.active(population)
    number, work = np.zeros(len(population)), np.zeros(len(population))
    if space.staged:
        for s, stage in enumerate(space.stages):
            expands = np.zeros(len(population))
            for b in range(stage.blocks):
                name = block_gene(s, b, "expand")
                there = active[:, space.column(name)]
                expands += there * space.values(name, population)
                number += there
            work += expands * space.values(stage_gene(s, "width"), population).astype(float) ** 2
        return number, work
    for columns in space.places[1 if space.scaled else 0 :]:
        numbers = [c for c in columns if not space.genes[c].is_text]
        part = active[:, columns[0]].astype(float)
        number += part
        for c in numbers:
            part = part * np.abs(space.values(space.genes[c].name, population).astype(float))
        work += part if numbers else 0.0
    return number, np.maximum(work, 1e-9)
