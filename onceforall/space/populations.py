"""Archs of a tuple of genes as integer arrays: `Populations`, which a `Space` is.

One row an arch and one column a gene, the index of its choice; genes that are absent are 0, so that
rows are equal exactly when archs are. Knows genes and arrays, no archs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError, choices
from onceforall.space.genes import GENE, Condition, Gene, Population, closures


@dataclass(frozen=True, eq=False)
class Populations:
    """What can be done with whole populations of the archs of a family, by its genes alone."""

    family: str
    genes: tuple[Gene, ...]

    @cached_property
    def columns(self) -> dict[str, int]:
        return {gene.name: column for column, gene in enumerate(self.genes)}

    def column(self, name: str) -> int:
        """The column of a gene in populations."""
        if name not in self.columns:
            raise InputError(f"{self.family}: has no gene {name!r}; it has {choices(self.columns)}")
        return self.columns[name]

    @cached_property
    def conditions(self) -> tuple[tuple[Condition, ...], ...]:
        """For each gene all that must hold for it to be there: (column, least index) pairs."""
        return closures(self.family, self.genes)

    def _is_there(self, row: Sequence[int], column: int) -> bool:
        return all(row[c] >= least for c, least in self.conditions[column])

    @cached_property
    def gene_sizes(self) -> NDArray[np.int64]:
        """Number of choices of each gene."""
        return np.array([len(g.values) for g in self.genes])

    def values(self, name: str, population: Population) -> NDArray[Any]:
        """(n,) the values of a gene; where it is absent, its first."""
        column = self.column(name)
        return np.array(self.genes[column].values)[population[:, column]]

    @cached_property
    def _conditional(self) -> list[tuple[tuple[Condition, ...], list[int]]]:
        """The columns that share conditions."""
        found: dict[tuple[Condition, ...], list[int]] = {}
        for column, conditions in enumerate(self.conditions):
            if conditions:
                found.setdefault(conditions, []).append(column)
        return list(found.items())

    def active(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes): which genes are there."""
        active = np.ones(population.shape, bool)
        for conditions, columns in self._conditional:
            active[:, columns] = met(conditions, population)[:, None]
        return active

    def canonical(self, population: Population) -> Population:
        """The same archs with absent genes set to 0."""
        return np.where(self.active(population), population, 0).astype(GENE)

    def sample(self, rng: np.random.Generator, n: int) -> Population:
        """n random archs: every gene uniform (as the paper samples), so depths are equally likely
        although there are more deep archs than shallow ones."""
        drawn = rng.integers(0, self.gene_sizes, (n, len(self.genes)), dtype=np.int64)
        return self.canonical(drawn.astype(GENE))

    def mutate(self, population: Population, rng: np.random.Generator, rate: float) -> Population:
        """Each gene drawn anew with probability `rate`. Genes that wake up with a greater depth
        are random, not 0."""
        drawn = rng.integers(0, self.gene_sizes, population.shape, dtype=np.int64)
        change = (rng.random(population.shape) < rate) | ~self.active(population)
        return self.canonical(np.where(change, drawn, population).astype(GENE))

    def cross(self, a: Population, b: Population, rng: np.random.Generator) -> Population:
        """Uniform cross-over: each gene from either parent. A gene that only one parent has is
        taken from that parent."""
        take_a = rng.random(a.shape) < 0.5
        in_a, in_b = self.active(a), self.active(b)
        take_a = (take_a | ~in_b) & in_a
        return self.canonical(np.where(take_a, a, b).astype(GENE))


def met(conditions: Sequence[Condition], population: Population) -> NDArray[np.bool_]:
    """(n,) whether all conditions hold."""
    (column, least), *others = conditions
    there: NDArray[np.bool_] = population[:, column] >= least
    for column, least in others:
        there = there & (population[:, column] >= least)
    return there
