"""Quantities that add up, or take the largest, over an arch's blocks: `Table`.

MACs, parameters, a latency look-up table, peak memory: each is a number for every
block an arch can have (by stage, position, kernel, expand, widths, resolution) and a
fixed rest. A table answers for whole populations at once, and knows its exact minimum
and maximum over the space. It knows no network and no torch; `costs` and `predictors`
make tables.

How a population is evaluated: all numbers of a table lie in one flat array, the blocks'
one after the other, absent blocks with a number of their own (0, or -inf for a maximum).
The position of an arch's numbers is linear in its genes, so that one matrix product
gives all positions, and one look-up and one sum the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.files import read_json, write_json
from onceforall.space import Arch, Block, Population, ResolutionError, Space, Stage

Floats = NDArray[np.float64]
Reduce = Literal["sum", "max"]

FORMAT = "onceforall.table"
VERSION = 1
_CHUNK = 8192  # archs at a time: what is computed between stays in the processor's cache


class Place(NamedTuple):
    """A block that an arch can have: where it is and what it is."""

    resolution: int  # of the input image, pixels
    stage: int  # from 0
    position: int  # in its stage, from 0
    kernel: int
    expand: float
    width_in: int  # channels that enter; 0 for the first block of all: a space does not know them
    width: int  # channels that leave


@dataclass(frozen=True, eq=False)
class Table:
    """A number for every block and a fixed rest; an arch's value is their sum or their maximum.

    Attributes:
        space: the archs it is for.
        blocks: for each stage, for each position, (resolutions, widths before, widths, kernels,
            expands). "Widths before" are those of the stage before for the first block of a
            stage, and 1 otherwise, since a stage has one width.
        fixed: (resolutions, widths of the last stage): all that is not a block.
        reduce: "sum" or "max".
        name, unit: for people.
    """

    space: Space
    blocks: tuple[tuple[Floats, ...], ...]
    fixed: Floats
    reduce: Reduce = "sum"
    name: str = "value"
    unit: str = ""

    def __post_init__(self) -> None:
        shapes = _shapes(self.space)
        found = [[np.shape(b) for b in stage] for stage in self.blocks]
        if found != shapes or self.fixed.shape != _fixed_shape(self.space):
            raise InputError(f"table {self.name}: its arrays do not fit the space")
        if self.reduce not in ("sum", "max"):
            raise InputError(f"table {self.name}: reduce: {self.reduce!r} is not sum or max")
        arrays = [self.fixed, *(block for stage in self.blocks for block in stage)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise InputError(f"table {self.name}: it has a value that is not a finite number")

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
        """The table of `block(place)` and `fixed(resolution, last width)`."""
        filled = [[np.zeros(shape) for shape in stage] for stage in _shapes(space)]
        for index, place in places(space):
            filled[place.stage][place.position][index] = block(place)
        rest = [[fixed(r, w) for w in space.stages[-1].width] for r in space.resolution]
        blocks = tuple(tuple(stage) for stage in filled)
        return cls(space, blocks, np.array(rest, float), reduce, name, unit)

    def __call__(self, population: Population) -> Floats:
        """(n, genes) -> (n,)"""
        return evaluate([self], population)[0]

    def of(self, arch: Arch) -> float:
        """The value of one arch."""
        return float(self(self.space.encode([arch]))[0])

    @cached_property
    def cells(self) -> Floats:
        """All numbers in one array, as `_layout` places them."""
        absent = 0.0 if self.reduce == "sum" else -np.inf
        parts = []
        for stage, blocks in zip(self.space.stages, self.blocks, strict=True):
            for position, values in enumerate(blocks):
                there = np.array(stage.depth) > position  # (depths,)
                full = np.where(there[:, None, None], values[:, :, :, None], absent)
                parts.append(full.ravel())
        return np.concatenate([*parts, self.fixed.ravel()])

    def restrict(self, space: Space) -> Table:
        """The same numbers, for a part of the space.

        Raises:
            InputError: `space` has choices that the table does not.
        """
        if space == self.space:
            return self
        if space.family != self.space.family or len(space.stages) != len(self.space.stages):
            raise InputError(
                f"table {self.name} is for {self.space.family}, not for {space.family}"
            )
        held = self.space.resolution
        try:
            r = _positions(space.resolution, held, f"table {self.name}: resolution")
        except InputError as error:
            raise ResolutionError(str(error), held) from None
        before = [0]
        blocks = []
        for s, (small, large) in enumerate(zip(space.stages, self.space.stages, strict=True)):
            where = f"table {self.name}: stage {s + 1}:"
            _positions(small.depth, large.depth, f"{where} depth")
            w, k, e = (
                _positions(getattr(small, n), getattr(large, n), f"{where} {n}")
                for n in ("width", "kernel", "expand")
            )
            blocks.append(
                tuple(
                    self.blocks[s][b][np.ix_(r, before if b == 0 else [0], w, k, e)]
                    for b in range(small.blocks)
                )
            )
            before = w
        return replace(self, space=space, blocks=tuple(blocks), fixed=self.fixed[np.ix_(r, before)])

    def scaled(self, factor: float) -> Table:
        """The table with every number multiplied, for another unit or sign."""
        blocks = tuple(tuple(block * factor for block in stage) for stage in self.blocks)
        return replace(self, blocks=blocks, fixed=self.fixed * factor)

    # --- exact extremes

    def minimum(self) -> tuple[float, Arch]:
        """The smallest value in the space and an arch that has it."""
        return self._extreme(min)

    def maximum(self) -> tuple[float, Arch]:
        """The largest value in the space and an arch that has it."""
        return self._extreme(max)

    def _extreme(self, choose: Any) -> tuple[float, Arch]:
        """Dynamic programming over the stages; its state is the width of the last one. Sum and
        maximum grow with each of their parts, so every block is chosen by itself."""
        join = sum if self.reduce == "sum" else max
        found: list[tuple[float, Arch]] = []
        for r, resolution in enumerate(self.space.resolution):
            states: list[tuple[list[float], tuple[tuple[Block, ...], ...]]] = [([], ())]
            for stage, blocks in zip(self.space.stages, self.blocks, strict=True):
                grown = []
                for w, width in enumerate(stage.width):
                    options = []
                    for before, (values, chosen) in enumerate(states):
                        best = []
                        for b, cells in enumerate(blocks):
                            cell = cells[r, before if b == 0 else 0, w]  # (kernels, expands)
                            at = cell.argmin() if choose is min else cell.argmax()
                            k, e = np.unravel_index(at, cell.shape)
                            block = Block(stage.kernel[k], stage.expand[e], width)
                            best.append((float(cell[k, e]), block))
                        for depth in stage.depth:
                            joined = [join([*values, *(value for value, _ in best[:depth])])]
                            option = tuple(block for _, block in best[:depth])
                            options.append((joined, (*chosen, option)))
                    grown.append(choose(options, key=lambda option: option[0]))
                states = grown
            for w, (values, chosen) in enumerate(states):
                total = join([*values, float(self.fixed[r, w])])
                found.append((total, Arch(self.space.family, resolution, chosen)))
        return choose(found, key=lambda pair: pair[0])

    # --- files

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "unit": self.unit,
            "reduce": self.reduce,
            "family": self.space.family,
            "resolution": list(self.space.resolution),
            "stages": [
                {n: list(getattr(stage, n)) for n in ("depth", "kernel", "expand", "width")}
                for stage in self.space.stages
            ],
            "blocks": [[block.tolist() for block in stage] for stage in self.blocks],
            "fixed": self.fixed.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = "table") -> Table:
        """The table that `to_dict` wrote.

        Raises:
            InputError: the data is not of that form.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{where}: not a table: 'format' is not {FORMAT!r}")
        if data.get("version") != VERSION:
            raise InputError(f"{where}: version: {data.get('version')!r} is not {VERSION}")
        try:
            stages = tuple(Stage(**{n: tuple(v) for n, v in s.items()}) for s in data["stages"])
            space = Space(data["family"], tuple(data["resolution"]), stages)
            blocks = tuple(tuple(np.array(b, float) for b in stage) for stage in data["blocks"])
            fixed = np.array(data["fixed"], float)
            return cls(space, blocks, fixed, data["reduce"], data["name"], data["unit"])
        except KeyError as error:
            raise InputError(f"{where}: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: {error}") from None

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        write_json(path, self.to_dict(), overwrite=overwrite)

    @classmethod
    def load(cls, path: Path) -> Table:
        return cls.from_dict(read_json(path), str(path))


def evaluate(tables: Sequence[Table], population: Population) -> Floats:
    """(tables, n): the values of all tables, which are of one space, in one pass.

    The positions of an arch's numbers are computed once for all tables.
    """
    space = tables[0].space
    if any(table.space != space for table in tables[1:]):
        raise InputError("tables of different spaces cannot be evaluated together")
    strides, starts = _layout(space)
    n = len(population)
    values = np.empty((len(tables), n))
    for start in range(0, n, _CHUNK):
        rows = population[start : start + _CHUNK].astype(strides.dtype)
        at = (rows @ strides).astype(np.intp)  # (chunk, parts); whole numbers: exact
        at += starts
        for t, table in enumerate(tables):
            numbers = table.cells[at]
            values[t, start : start + _CHUNK] = (
                numbers.sum(1) if table.reduce == "sum" else numbers.max(1)
            )
    return values


def places(space: Space) -> Iterator[tuple[tuple[int, ...], Place]]:
    """Every block an arch of the space can have, with its index in `Table.blocks[s][b]`."""
    for s, stage in enumerate(space.stages):
        for b in range(stage.blocks):
            for index in np.ndindex(*_shapes(space)[s][b]):
                r, before, w, k, e = index
                if b > 0:
                    width_in = stage.width[w]
                else:
                    width_in = space.stages[s - 1].width[before] if s > 0 else 0
                yield (
                    index,
                    Place(
                        space.resolution[r],
                        s,
                        b,
                        stage.kernel[k],
                        stage.expand[e],
                        width_in,
                        stage.width[w],
                    ),
                )


@lru_cache(maxsize=64)
def _shapes(space: Space) -> list[list[tuple[int, ...]]]:
    """For each stage and position the shape of its array in `Table.blocks`."""
    shapes: list[list[tuple[int, ...]]] = []
    before = 1
    for stage in space.stages:
        widths, choices = len(stage.width), (len(stage.kernel), len(stage.expand))
        shapes.append(
            [
                (len(space.resolution), before if b == 0 else 1, widths, *choices)
                for b in range(stage.blocks)
            ]
        )
        before = widths
    return shapes


def _fixed_shape(space: Space) -> tuple[int, int]:
    return len(space.resolution), len(space.stages[-1].width)


@lru_cache(maxsize=64)
def _layout(space: Space) -> tuple[NDArray[np.floating[Any]], NDArray[np.intp]]:
    """How genes become positions in `Table.cells`: (genes, parts) strides and (parts,) starts.

    The parts are the blocks and, last, the fixed rest.
    """
    column = {(g.kind, g.stage, g.position): i for i, g in enumerate(space.genes)}
    parts: list[tuple[tuple[int, ...], list[int]]] = []  # shape, the gene of each axis
    for s, stage in enumerate(space.stages):
        for b, shape in enumerate(_shapes(space)[s]):
            genes = [
                column["resolution", -1, -1],
                column["width", s - 1, -1] if b == 0 and s > 0 else -1,
                column["width", s, -1],
                column["depth", s, -1],
                column["kernel", s, b],
                column["expand", s, b],
            ]
            parts.append(((*shape[:3], len(stage.depth), *shape[3:]), genes))
    last = column["width", len(space.stages) - 1, -1]
    parts.append((_fixed_shape(space), [column["resolution", -1, -1], last]))
    most = max(math.prod(shape) for shape, _ in parts)
    kind = np.float32 if most <= 2**24 else np.float64  # exact for whole numbers up to that
    strides = np.zeros((len(space.genes), len(parts)), kind)
    starts = np.zeros(len(parts), np.intp)
    start = 0
    for p, (shape, genes) in enumerate(parts):
        starts[p] = start
        stride = 1
        for size, gene in zip(reversed(shape), reversed(genes), strict=True):
            if gene >= 0:
                strides[gene, p] = stride
            stride *= size
        start += stride
    return strides, starts


def _positions(wanted: Sequence[float], held: Sequence[float], where: str) -> list[int]:
    for value in wanted:
        if value not in held:
            raise InputError(f"{where} {value} is not in it; it has {list(held)}")
    return [held.index(value) for value in wanted]
