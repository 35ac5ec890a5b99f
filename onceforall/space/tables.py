"""Quantities that add up, or take the largest, over the parts of an arch: `Table`.

MACs, parameters, a latency look-up table, peak memory: each is a list of factors, and a factor has
a number for every combination of a few genes (of a block: its kernel and expand ratio, the widths
that enter and leave, the resolution). A table answers for whole populations at once, and knows its
exact minimum and maximum over the space. It knows no network and no torch; `costs` and
`predictors` make tables.

How a population is evaluated: all numbers of a table lie in one flat array, the factors' one after
the other, absent factors with a number of their own (0, or -inf for a maximum). The position of an
arch's numbers is linear in its genes, so that one matrix product gives all positions, and one
look-up and one sum the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.files import read_json, write_json
from onceforall.space.arch import Arch
from onceforall.space.blocks import Place, first_version, places, stage_genes
from onceforall.space.elimination import Part, Plan, holds, spread
from onceforall.space.genes import GENE, Population, Presence
from onceforall.space.spaces import Space

Floats = NDArray[np.float64]
Reduce = Literal["sum", "max"]

FORMAT = "onceforall.table"
VERSION = 2
_CHUNK = 8192  # archs at a time: what is computed between stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Factor:
    """A number for every combination of a few genes.

    Attributes:
        genes: their names.
        values: an axis a gene.
        present: when it is there, beside the conditions of its genes; absent, it adds nothing.
    """

    genes: tuple[str, ...]
    values: Floats
    present: tuple[Presence, ...] = ()


@dataclass(frozen=True, eq=False)
class Table:
    """Factors over genes; an arch's value is the sum or the maximum of those that are there.

    Attributes:
        space: the archs it is for.
        reduce: "sum" or "max".
        name, unit: for people.
    """

    space: Space
    factors: tuple[Factor, ...]
    reduce: Reduce = "sum"
    name: str = "value"
    unit: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(self.factors))
        if self.reduce not in ("sum", "max"):
            raise InputError(f"table {self.name}: reduce: {self.reduce!r} is not sum or max")
        if not self.factors:
            raise InputError(f"table {self.name}: has no factors")
        for factor in self.factors:
            shape = tuple(len(self.space.gene(name).values) for name in factor.genes)
            if factor.values.shape != shape or len(set(factor.genes)) < len(shape):
                raise InputError(
                    f"table {self.name}: its arrays do not fit the space: {factor.genes} have"
                    f" {shape} choices, {factor.values.shape} numbers are given"
                )
            if not np.isfinite(factor.values).all():
                raise InputError(f"table {self.name}: it has a value that is not a finite number")
        if self.reduce == "max" and not any(not part.conditions for part in self.parts):
            raise InputError(f"table {self.name}: a maximum needs a factor that is always there")

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What each factor depends on, in columns."""
        return tuple(self.space.part(f.genes, f.present) for f in self.factors)

    @cached_property
    def arrays(self) -> tuple[Floats, ...]:
        """The factors' numbers, an axis for each of `parts`' genes."""
        found = []
        for factor in self.factors:
            columns = [self.space.column(name) for name in factor.genes]
            found.append(spread(factor.values, columns, tuple(sorted(columns))))
        return tuple(found)

    @classmethod
    def build(
        cls,
        space: Space,
        block: Callable[[Place], float],
        fixed: Callable[[int, int], float] = lambda resolution, width: 0.0,
        reduce: Reduce = "sum",
        name: str = "value",
        unit: str = "",
    ) -> Table:
        """The table of stages of blocks: `block(place)` and `fixed(resolution, last width)`."""
        genes = stage_genes(space)
        filled = [np.zeros([len(space.gene(name).values) for name in names]) for names in genes]
        for factor, index, place in places(space):
            filled[factor][index] = block(place)
        rest = [[fixed(r, w) for w in space.stages[-1].width] for r in space.resolution]
        return cls.of_blocks(space, [*filled[:-1], np.array(rest, float)], reduce, name, unit)

    @classmethod
    def of_blocks(
        cls,
        space: Space,
        arrays: Sequence[Floats],
        reduce: Reduce = "sum",
        name: str = "value",
        unit: str = "",
    ) -> Table:
        """The table of stages of blocks whose numbers are given: an array for each block, over
        resolutions, widths before (of a stage's first block, but the first's), widths, kernels and
        expand ratios; and one of the rest over resolutions and widths of the last stage."""
        genes = stage_genes(space)
        if len(arrays) != len(genes):
            raise InputError(f"table {name}: its arrays do not fit the space")
        return cls(space, tuple(map(Factor, genes, arrays)), reduce, name, unit)

    def __call__(self, population: Population) -> Floats:
        """(n, genes) -> (n,)"""
        return values_of([self], population)[0]

    def of(self, arch: Arch) -> float:
        """The value of one arch."""
        return float(self(self.space.encode([arch]))[0])

    def with_values(self, values: Sequence[Floats], **changes: Any) -> Table:
        """A table of the same factors with other numbers."""
        factors = [replace(f, values=v) for f, v in zip(self.factors, values, strict=True)]
        return replace(self, factors=tuple(factors), **changes)

    def scaled(self, factor: float) -> Table:
        """The table with every number multiplied, for another unit or sign."""
        return self.with_values([f.values * factor for f in self.factors])

    def restrict(self, space: Space) -> Table:
        """The same numbers, for a part of the space.

        Raises:
            InputError: `space` has choices that the table does not.
        """
        if space == self.space:
            return self
        space.check_part(self.space, f"table {self.name}", resolution=True)
        own = {gene.name: gene for gene in space.genes}
        kept: dict[str, list[int]] = {
            gene.name: [gene.index(v) for v in own[gene.name].values]
            for gene in self.space.genes
            if gene.name in own
        }
        factors = []
        for factor in self.factors:
            if any(name not in kept for name in factor.genes):
                continue  # of a place that is never there in the part
            present = [
                condition
                for condition in factor.present
                if condition.least > own[condition.gene].values[0]  # type: ignore[operator]
            ]
            if any(c.least > own[c.gene].values[-1] for c in present):  # type: ignore[operator]
                continue
            values = factor.values[np.ix_(*(kept[name] for name in factor.genes))]
            factors.append(Factor(factor.genes, values, tuple(present)))
        return replace(self, space=space, factors=tuple(factors))

    # --- how it is evaluated

    @cached_property
    def layout(self) -> Layout:
        """Where its numbers are found; one object for all tables of the same parts."""
        return _layout(self.space, self.parts)

    @cached_property
    def cells(self) -> Floats:
        """All numbers in one array, as `layout` places them."""
        absent = 0.0 if self.reduce == "sum" else -np.inf
        sizes = self.space.gene_sizes.tolist()
        found = []
        for values, part in zip(self.arrays, self.parts, strict=True):
            mask = holds(part.conditions, part.scope, sizes)
            full = np.where(mask, spread(values, part.genes, part.scope), absent)
            found.append(np.broadcast_to(full, [sizes[c] for c in part.scope]).ravel())
        return np.concatenate(found)

    # --- exact extremes

    def minimum(self) -> tuple[float, Arch]:
        """The smallest value in the space and an arch that has it.

        Raises:
            InputError: too many genes depend on each other for an exact answer.
        """
        return self._extreme(-1)

    def maximum(self) -> tuple[float, Arch]:
        """The largest value in the space and an arch that has it; raises as `minimum`."""
        return self._extreme(1)

    def _extreme(self, sign: int) -> tuple[float, Arch]:
        plan = plan_of(self.space, self.parts)
        cells = sign * np.concatenate([values.ravel() for values in self.arrays])
        if self.reduce == "sum":
            found = plan.best(cells)
        elif sign > 0:  # the largest number of all; nothing else matters
            found = plan.best(cells, np.maximum, -np.inf, floor=cells.max())
        else:
            found = plan.best(cells, np.minimum, np.inf)
        row = self.space.canonical(plan.rows(*found)[None].astype(GENE))
        numbers = [float(sign * cells[at]) for at in found[1] if at < plan.size]
        join = sum if self.reduce == "sum" else max
        return float(join(numbers)), self.space.decode(row)[0]

    # --- files

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "unit": self.unit,
            "reduce": self.reduce,
            "space": self.space.to_dict(),
            "factors": [
                {
                    "genes": list(factor.genes),
                    "values": factor.values.tolist(),
                    "present": [[p.gene, p.least] for p in factor.present],
                }
                for factor in self.factors
            ],
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = "table") -> Table:
        """The table that `to_dict` wrote, of this version or the first, whose tables were all of
        stages of blocks.

        Raises:
            InputError: the data is not of that form.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{where}: not a table: 'format' is not {FORMAT!r}")
        if data.get("version") not in (1, VERSION):
            raise InputError(f"{where}: version: {data.get('version')!r} is not 1 or {VERSION}")
        try:
            about = data["reduce"], data["name"], data["unit"]
            if data["version"] == 1:
                return cls.of_blocks(Space.from_dict(data), first_version(data), *about)
            factors = tuple(
                Factor(
                    tuple(row["genes"]),
                    np.array(row["values"], float),
                    tuple(Presence(gene, least) for gene, least in row["present"]),
                )
                for row in data["factors"]
            )
            return cls(Space.from_dict(data["space"]), factors, *about)
        except KeyError as error:
            raise InputError(f"{where}: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: {error}") from None

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        write_json(path, self.to_dict(), overwrite=overwrite)

    @classmethod
    def load(cls, path: Path) -> Table:
        return cls.from_dict(read_json(path), str(path))


def values_of(tables: Sequence[Table], population: Population) -> Floats:
    """(tables, n): the values of all tables, which are of one space, in one pass.

    The positions of an arch's numbers are computed once for all tables of the same parts.
    """
    space = tables[0].space
    if any(table.space != space for table in tables[1:]):
        raise InputError("tables of different spaces cannot be evaluated together")
    alike: dict[int, list[int]] = {}
    for t, table in enumerate(tables):
        alike.setdefault(id(table.layout), []).append(t)
    n = len(population)
    values = np.empty((len(tables), n))
    for start in range(0, n, _CHUNK):
        chunk = population[start : start + _CHUNK]
        for several in alike.values():
            strides, starts = tables[several[0]].layout
            at = (chunk.astype(strides.dtype) @ strides).astype(np.intp)  # (chunk, parts); exact
            at += starts
            for t in several:
                numbers = tables[t].cells[at]
                values[t, start : start + _CHUNK] = (
                    numbers.sum(1) if tables[t].reduce == "sum" else numbers.max(1)
                )
    return values


Layout = tuple[NDArray[np.floating[Any]], NDArray[np.intp]]


@lru_cache(maxsize=64)
def _layout(space: Space, parts: tuple[Part, ...]) -> Layout:
    """How genes become positions in `Table.cells`: (genes, parts) strides and (parts,) starts.
    A part has an axis for each gene that it depends on in any way."""
    sizes = space.gene_sizes.tolist()
    shapes = [[sizes[c] for c in part.scope] for part in parts]
    most = max(math.prod(shape) for shape in shapes)
    kind = np.float32 if most <= 2**24 else np.float64  # exact for whole numbers up to that
    strides = np.zeros((len(sizes), len(parts)), kind)
    starts = np.zeros(len(parts), np.intp)
    start = 0
    for p, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        starts[p] = start
        stride = 1
        for size, column in zip(reversed(shape), reversed(part.scope), strict=True):
            strides[column, p] = stride
            stride *= size
        start += stride
    return strides, starts


@lru_cache(maxsize=64)
def plan_of(space: Space, parts: tuple[Part, ...]) -> Plan:
    """How the extremes of tables of these parts are found."""
    return Plan(parts, space.gene_sizes.tolist(), f"a table of {space.family}")
