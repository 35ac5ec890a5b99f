"""What a sub-network is, and which sub-networks there are: `Arch`, `Stage`, `Space`.

Everything here is a value. A `Space` is declared once, as data; sampling,
mutation, validation, the exact size and the integer arrays that search works on
all derive from it. This file knows no weights, no layers and no torch.

A population is an integer array of shape (n, genes): one row an arch, one column
a gene, each entry an index into that gene's choices. Genes of blocks beyond a
stage's depth are 0, so that two rows are equal exactly when their archs are.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError, choices

GENE = np.int16  # what an entry of a population is,
MOST_CHOICES = np.iinfo(GENE).max  # so that a gene has at most so many choices
Population = NDArray[GENE]  # (n, genes), see the top of this file


class ResolutionError(InputError):
    """Something is not known at a resolution of a space; `known` are those it is known at."""

    def __init__(self, message: str, known: Sequence[int]) -> None:
        super().__init__(message)
        self.known = tuple(known)


@dataclass(frozen=True, order=True)
class Block:
    """One block: depthwise kernel size, ratio of hidden to input channels, output channels."""

    kernel: int
    expand: float
    width: int

    def __post_init__(self) -> None:
        if isinstance(self.expand, float) and self.expand.is_integer():
            object.__setattr__(self, "expand", int(self.expand))  # 6.0 and 6 are one value


@dataclass(frozen=True, order=True)
class Arch:
    """A sub-network as a value.

    A stage holds only the blocks that are there (its depth is its length), so equal
    values are the same network.
    """

    family: str
    resolution: int  # height and width of the input image, pixels
    stages: tuple[tuple[Block, ...], ...]

    def __post_init__(self) -> None:
        if not _is_int(self.resolution) or self.resolution < 1:
            raise InputError(f"resolution: {self.resolution!r} is not a positive whole number")
        for s, stage in enumerate(self.stages):
            if not stage:
                raise InputError(f"stage {s + 1} has no blocks")
            for b, block in enumerate(stage):
                where = f"stage {s + 1} block {b + 1}"
                if not (_is_int(block.kernel) and block.kernel > 0 and block.kernel % 2):
                    raise InputError(f"{where}: kernel {block.kernel!r} is not an odd number")
                if not (_is_int(block.width) and block.width > 0):
                    raise InputError(f"{where}: width {block.width!r} is not a positive number")
                if isinstance(block.expand, bool) or not isinstance(block.expand, int | float):
                    raise InputError(f"{where}: expand {block.expand!r} is not a number")
                if not 0 < block.expand < math.inf:
                    raise InputError(f"{where}: expand {block.expand!r} is not positive")
            if len({block.width for block in stage}) > 1:
                raise InputError(f"stage {s + 1}: its blocks have different widths")

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages)

    def __str__(self) -> str:
        """`family@resolution/width:kernelxexpand,.../...`, one part a stage; `parse` reads it."""
        stages = (
            f"{stage[0].width}:" + ",".join(f"{b.kernel}x{b.expand:g}" for b in stage)
            for stage in self.stages
        )
        return f"{self.family}@{self.resolution}/" + "/".join(stages)

    @classmethod
    def parse(cls, text: str) -> Arch:
        """The arch that `str` wrote.

        Raises:
            InputError: where the text is not of that form.
        """
        try:
            head, *parts = text.strip().split("/")
            family, resolution = head.rsplit("@", 1)
            stages = []
            for part in parts:
                width, blocks = part.split(":")
                pairs = [block.split("x") for block in blocks.split(",")]
                stages.append(tuple(Block(int(k), _number(e), int(width)) for k, e in pairs))
            if not family or not stages:
                raise ValueError
            return cls(family, int(resolution), tuple(stages))
        except InputError:
            raise
        except ValueError:
            raise InputError(
                f"{text!r} is not an arch; one looks like mbv3_mini@28/16:3x4,5x2/24:3x4"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return {
            "family": self.family,
            "resolution": self.resolution,
            "stages": [
                {
                    "width": stage[0].width,
                    "kernel": [b.kernel for b in stage],
                    "expand": [b.expand for b in stage],
                }
                for stage in self.stages
            ],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Arch:
        """The arch that `to_dict` wrote.

        Raises:
            InputError: names the first field that is missing, unknown or of a wrong type.
        """
        given = _fields(data, ("family", "resolution", "stages"), "arch")
        if not isinstance(given["family"], str):
            raise InputError(f"arch: family: {given['family']!r} is not a text")
        if not isinstance(given["stages"], list) or not given["stages"]:
            raise InputError(f"arch: stages: {given['stages']!r} is not a list of stages")
        stages = []
        for s, stage in enumerate(given["stages"]):
            where = f"arch: stages[{s}]"
            row = _fields(stage, ("width", "kernel", "expand"), where)
            for key in ("kernel", "expand"):
                if not isinstance(row[key], list):
                    raise InputError(f"{where}: {key}: {row[key]!r} is not a list")
            if len(row["kernel"]) != len(row["expand"]):
                raise InputError(
                    f"{where}: {len(row['kernel'])} kernels but {len(row['expand'])} expand ratios"
                )
            pairs = zip(row["kernel"], row["expand"], strict=True)
            stages.append(tuple(Block(k, e, row["width"]) for k, e in pairs))
        return cls(given["family"], given["resolution"], tuple(stages))

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Arch:
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"arch: not JSON: {error}") from None


@dataclass(frozen=True)
class Stage:
    """The choices of one stage, each ascending.

    Depth and width are chosen once a stage, kernel and expand once a block.
    """

    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    width: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("depth", "kernel", "expand", "width"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or list(values) != sorted(set(values)) or values[0] <= 0:
                raise InputError(f"stage: {name}: {values} is not an ascending list of choices")

    @property
    def blocks(self) -> int:
        """Blocks at full depth."""
        return self.depth[-1]


@dataclass(frozen=True)
class Gene:
    """One column of a population: which choice it holds."""

    kind: str  # "resolution", "width", "depth", "kernel" or "expand"
    values: tuple[float, ...]
    stage: int = -1  # -1: of the whole arch
    position: int = -1  # -1: of the whole stage


@dataclass(frozen=True)
class Space:
    """All sub-networks of a family: resolutions, and the choices of each stage."""

    family: str
    resolution: tuple[int, ...]
    stages: tuple[Stage, ...]
    genes: tuple[Gene, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", tuple(self.resolution))
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.resolution or list(self.resolution) != sorted(set(self.resolution)):
            raise InputError(f"space: resolution: {self.resolution} is not an ascending list")
        genes = [Gene("resolution", self.resolution)]
        for s, stage in enumerate(self.stages):
            genes += [Gene("width", stage.width, s), Gene("depth", stage.depth, s)]
            for b in range(stage.blocks):
                genes += [Gene("kernel", stage.kernel, s, b), Gene("expand", stage.expand, s, b)]
        for gene in genes:
            if len(gene.values) > MOST_CHOICES:
                where = f"stage {gene.stage + 1}: " if gene.stage >= 0 else ""
                raise InputError(
                    f"space: {where}{gene.kind}: {len(gene.values)} choices;"
                    f" at most {MOST_CHOICES} are possible"
                )
        object.__setattr__(self, "genes", tuple(genes))

    # --- the space as a whole

    @cached_property
    def size(self) -> int:
        """The exact number of archs. Paper, section 3.1: ((3*3)^2 + (3*3)^3 + (3*3)^4)^5 = 2*10^19
        for the MobileNetV3 space at one resolution."""
        size = len(self.resolution)
        for stage in self.stages:
            per_block = len(stage.kernel) * len(stage.expand)
            size *= len(stage.width) * sum(per_block**depth for depth in stage.depth)
        return size

    def restrict(self, **allowed: Sequence[float]) -> Space:
        """The part of this space that has only the allowed choices, by name: resolution, depth,
        kernel, expand, width. A stage that has none of the allowed choices is an error."""

        def keep(name: str, values: tuple[Any, ...], where: str) -> tuple[Any, ...]:
            kept = tuple(v for v in values if v in allowed[name])
            if not kept:
                raise InputError(
                    f"{where}: {name} {choices(allowed[name])} is not in the space;"
                    f" it has {choices(values)}"
                )
            return kept

        names = set(allowed)
        unknown = names - {"resolution", "depth", "kernel", "expand", "width"}
        if unknown:
            raise InputError(f"restrict: unknown choice {choices(sorted(unknown))}")
        resolution = self.resolution
        if "resolution" in names:
            resolution = keep("resolution", resolution, "space")
        stages = []
        for s, stage in enumerate(self.stages):
            where = f"stage {s + 1}"
            kept = {n: keep(n, getattr(stage, n), where) for n in names - {"resolution"}}
            stages.append(replace(stage, **kept))
        return Space(self.family, resolution, tuple(stages))

    def top(self, **counts: int) -> Space:
        """The space with only the n largest choices of what is named: `top(depth=1, expand=2)`.
        The phases of progressive shrinking are such spaces."""
        stages = tuple(
            replace(stage, **{n: getattr(stage, n)[-c:] for n, c in counts.items()})
            for stage in self.stages
        )
        return Space(self.family, self.resolution, stages)

    def largest(self) -> Arch:
        return self._uniform(-1)

    def smallest(self) -> Arch:
        return self._uniform(0)

    def _uniform(self, index: int) -> Arch:
        return Arch(
            self.family,
            self.resolution[index],
            tuple(
                (Block(s.kernel[index], s.expand[index], s.width[index]),) * s.depth[index]
                for s in self.stages
            ),
        )

    def check(self, arch: Arch, *, resolution: bool = True) -> None:
        """Refuses an arch that is not in the space; with `resolution=False`, of any resolution.

        Raises:
            InputError: names the stage, the block, the value and the allowed ones.
        """
        if arch.family != self.family:
            raise InputError(f"arch is of family {arch.family!r}, not {self.family!r}")
        if resolution and arch.resolution not in self.resolution:
            raise InputError(
                f"resolution {arch.resolution} is not in the space of {self.family};"
                f" it has {choices(self.resolution)}"
            )
        if len(arch.stages) != len(self.stages):
            raise InputError(
                f"arch has {len(arch.stages)} stages; {self.family} has {len(self.stages)}"
            )
        for s, (blocks, stage) in enumerate(zip(arch.stages, self.stages, strict=True)):
            found: list[tuple[str, float, tuple[float, ...]]] = [
                (f"stage {s + 1}: depth", len(blocks), stage.depth)
            ]
            for b, block in enumerate(blocks):
                where = f"stage {s + 1} block {b + 1}: "
                found += [
                    (where + "kernel", block.kernel, stage.kernel),
                    (where + "expand", block.expand, stage.expand),
                    (where + "width", block.width, stage.width),
                ]
            for where, value, allowed in found:
                if value not in allowed:
                    raise InputError(
                        f"{where} {value} is not in the space of {self.family};"
                        f" it has {choices(allowed)}"
                    )

    def __contains__(self, arch: Arch) -> bool:
        try:
            self.check(arch)
        except InputError:
            return False
        return True

    def __iter__(self) -> Iterator[Arch]:
        """Every arch, once. Only for small spaces: see `size`."""
        per_stage = [list(self._stage_choices(stage)) for stage in self.stages]
        for resolution in self.resolution:
            for stages in itertools.product(*per_stage):
                yield Arch(self.family, resolution, stages)

    @staticmethod
    def _stage_choices(stage: Stage) -> Iterator[tuple[Block, ...]]:
        for width, depth in itertools.product(stage.width, stage.depth):
            block = [Block(k, e, width) for k in stage.kernel for e in stage.expand]
            yield from itertools.product(block, repeat=depth)

    # --- populations

    @cached_property
    def gene_sizes(self) -> NDArray[np.int64]:
        """Number of choices of each gene."""
        return np.array([len(g.values) for g in self.genes])

    @cached_property
    def _columns(self) -> tuple[tuple[int, int, int], ...]:
        """For each stage the columns of its width and depth, and the first of its blocks."""
        starts = [i for i, g in enumerate(self.genes) if g.kind == "width"]
        return tuple((i, i + 1, i + 2) for i in starts)

    def depth(self, population: Population, stage: int) -> NDArray[np.int64]:
        """(n,) number of blocks of a stage."""
        return np.array(self.stages[stage].depth)[population[:, self._columns[stage][1]]]

    def width(self, population: Population, stage: int) -> NDArray[GENE]:
        """(n,) index of the width of a stage."""
        return population[:, self._columns[stage][0]]

    def block(
        self, population: Population, stage: int, position: int
    ) -> tuple[NDArray[GENE], NDArray[GENE]]:
        """(n,) indices of kernel and expand of a block."""
        column = self._columns[stage][2] + 2 * position
        return population[:, column], population[:, column + 1]

    def active(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes): which genes are of blocks that are there."""
        active = np.ones(population.shape, bool)
        for s, (_, _, first) in enumerate(self._columns):
            depth = self.depth(population, s)
            for b in range(self.stages[s].depth[0], self.stages[s].blocks):
                active[:, first + 2 * b : first + 2 * b + 2] = (depth > b)[:, None]
        return active

    def canonical(self, population: Population) -> Population:
        """The same archs with the genes of absent blocks set to 0."""
        return np.where(self.active(population), population, 0).astype(GENE)

    def sample(self, rng: np.random.Generator, n: int) -> Population:
        """n random archs: every gene uniform (as the paper samples), so depths are equally likely
        although there are more deep archs than shallow ones."""
        drawn = rng.integers(0, self.gene_sizes, (n, len(self.genes)), dtype=np.int64)
        return self.canonical(drawn.astype(GENE))

    def random(self, rng: np.random.Generator) -> Arch:
        return self.decode(self.sample(rng, 1))[0]

    def mutate(self, population: Population, rng: np.random.Generator, rate: float) -> Population:
        """Each gene drawn anew with probability `rate`. Genes that wake up with a greater depth
        are random, not 0."""
        drawn = rng.integers(0, self.gene_sizes, population.shape, dtype=np.int64)
        change = (rng.random(population.shape) < rate) | ~self.active(population)
        return self.canonical(np.where(change, drawn, population).astype(GENE))

    def cross(self, a: Population, b: Population, rng: np.random.Generator) -> Population:
        """Uniform cross-over: each gene from either parent. A block that only one parent has is
        taken from that parent."""
        take_a = rng.random(a.shape) < 0.5
        in_a, in_b = self.active(a), self.active(b)
        take_a = (take_a | ~in_b) & in_a
        return self.canonical(np.where(take_a, a, b).astype(GENE))

    def encode(self, archs: Sequence[Arch]) -> Population:
        """The population of these archs.

        Raises:
            InputError: names the first arch (counted from 1) that is not in the space, and why.
        """
        population = np.zeros((len(archs), len(self.genes)), GENE)
        for row, arch in enumerate(archs):
            try:
                self.check(arch)
            except InputError as error:
                raise InputError(f"arch {row + 1}: {error}") from None
            population[row, 0] = self.resolution.index(arch.resolution)
            for blocks, stage, (width, depth, first) in zip(
                arch.stages, self.stages, self._columns, strict=True
            ):
                population[row, width] = stage.width.index(blocks[0].width)
                population[row, depth] = stage.depth.index(len(blocks))
                for b, block in enumerate(blocks):
                    population[row, first + 2 * b] = stage.kernel.index(block.kernel)
                    population[row, first + 2 * b + 1] = stage.expand.index(block.expand)
        return population

    def decode(self, population: Population) -> list[Arch]:
        """The archs of a population."""
        return [self._decode_row(row) for row in population.tolist()]

    def _decode_row(self, row: list[int]) -> Arch:
        stages = []
        for stage, (width, depth, first) in zip(self.stages, self._columns, strict=True):
            w = stage.width[row[width]]
            stages.append(
                tuple(
                    Block(stage.kernel[row[i]], stage.expand[row[i + 1]], w)
                    for i in range(first, first + 2 * stage.depth[row[depth]], 2)
                )
            )
        return Arch(self.family, self.resolution[row[0]], tuple(stages))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _fields(data: Any, names: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{where}: {type(data).__name__} given, an object was expected")
    for name in names:
        if name not in data:
            raise InputError(f"{where}: {name!r} is missing")
    for name in data:
        if name not in names:
            raise InputError(f"{where}: unknown key {name!r}; it has {choices(names)}")
    return data
