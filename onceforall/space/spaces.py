"""All sub-networks of a family, as data: `Space`. Everything here derives from its genes; what is
done with whole populations of archs is in `populations`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onceforall.errors import InputError, choices
from onceforall.space import stages as staged
from onceforall.space.arch import Arch
from onceforall.space.elimination import Part, counted, holds
from onceforall.space.genes import (
    GENE,
    RESOLUTION,
    Gene,
    Population,
    Presence,
    Value,
    check_text,
    closures,
    normal,
)
from onceforall.space.populations import Populations
from onceforall.space.stages import Stage, Values

ROUND = 10**9  # a space of more archs is shown by the power of ten


class ResolutionError(InputError):
    """Something is not known at a resolution of a space; `known` are those it is known at."""

    def __init__(self, message: str, known: Sequence[int]) -> None:
        super().__init__(message)
        self.known = tuple(known)


@dataclass(frozen=True, eq=False)
class Space(Populations):
    """All sub-networks of a family: the genes they choose by.

    A gene comes after those that its presence depends on; `resolution`, where there is one, is the
    first: networks can run at other sizes than they were made for.
    """

    def __post_init__(self) -> None:
        names = [gene.name for gene in self.genes]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if not names or twice or RESOLUTION in names[1:]:
            wrong = f"{twice[0]} is there twice" if twice else f"{RESOLUTION} must be the first"
            raise InputError(f"space {self.family}: genes: {wrong if names else 'none given'}")
        object.__setattr__(self, "genes", normal(self.family, tuple(self.genes)))
        for size in self.resolution:
            if not isinstance(size, int) or size < 1:
                raise InputError(
                    f"space {self.family}: resolution: {size!r} is not a positive whole number"
                )
        if not self.staged:
            check_text(self.family, "space: family")

    @classmethod
    def of_stages(cls, family: str, resolution: Sequence[int], stages: Sequence[Stage]) -> Space:
        """The space of stages of convolutional blocks, after one another."""
        return cls(family, staged.genes_of(resolution, tuple(stages)))

    def __repr__(self) -> str:
        size = f"{self.size:,}" if self.size < ROUND else f"10^{math.log10(self.size):.1f}"
        pixels = f", {min(self.resolution)} to {max(self.resolution)} px" if self.resolution else ""
        return f"Space({self.family!r}: {size} archs of {len(self.genes)} genes{pixels})"

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Space):
            return self is other
        return self.family == other.family and self.genes == other.genes

    @cached_property
    def _hash(self) -> int:
        return hash((self.family, self.genes))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Space, (self.family, self.genes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        if self.staged:
            stages = [{k: getattr(x, k) for k in staged.KINDS} for x in self.stages]
            return {"family": self.family, "resolution": list(self.resolution), "stages": stages}
        return {"family": self.family, "genes": [gene.to_dict() for gene in self.genes]}

    @classmethod
    def from_dict(cls, data: Any) -> Space:
        """The space that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the data is of another form; an InputError (which is a
                ValueError) where it makes no sense as a space.
        """
        if "genes" in data:
            return cls(data["family"], tuple(Gene.from_dict(row) for row in data["genes"]))
        stages = tuple(Stage(**{n: tuple(v) for n, v in s.items()}) for s in data["stages"])
        return cls.of_stages(data["family"], tuple(data["resolution"]), stages)

    # --- views

    @cached_property
    def _stages(self) -> tuple[Stage, ...] | None:
        return staged.stages_of(self.genes)

    @property
    def staged(self) -> bool:
        """Whether the space is one of stages of convolutional blocks."""
        return self._stages is not None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that its genes are written by.

        Raises:
            InputError: the space is another.
        """
        if self._stages is None:
            raise InputError(
                f"{self.family}: its space is not made of stages of blocks, each with a depth,"
                " kernels, expand ratios and a width"
            )
        return self._stages

    @property
    def resolution(self) -> tuple[int, ...]:
        """The sizes of input images, pixels; none where that is no gene."""
        return self.genes[0].values if self.scaled else ()  # type: ignore[return-value]

    @property
    def scaled(self) -> bool:
        """Whether the resolution is a gene; it is the first column then."""
        return self.genes[0].name == RESOLUTION

    def gene(self, name: str) -> Gene:
        return self.genes[self.column(name)]

    @cached_property
    def controls(self) -> tuple[int, ...]:
        """The columns of the genes that others' presence depends on."""
        return tuple(sorted({c for conditions in self.conditions for c, _ in conditions}))

    @cached_property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The columns of genes that belong together, in order: those of one place that are there
        under the same conditions; any other is by itself."""
        found: dict[Any, list[int]] = {}
        for column, gene in enumerate(self.genes):
            alone = not gene.place or column in self.controls
            key = column if alone else (gene.place, self.conditions[column])
            found.setdefault(key, []).append(column)
        return tuple(tuple(columns) for columns in found.values())

    def part(self, genes: Sequence[str], present: Sequence[Presence] = ()) -> Part:
        """What something that depends on these genes depends on, in columns; it is there while all
        its genes are, and by its own conditions."""
        columns = tuple(sorted(self.column(name) for name in genes))
        least: dict[int, int] = {}
        for conditions in (
            *(self.conditions[c] for c in columns),
            closures(self.family, (*self.genes, Gene("?", (0,), tuple(present))))[-1],
        ):
            for column, at in conditions:
                least[column] = max(least.get(column, 0), at)
        return Part(columns, tuple(sorted(least.items())))

    # --- the space as a whole

    @cached_property
    def size(self) -> int:
        """The exact number of archs. Paper, section 3.1: ((3*3)^2 + (3*3)^3 + (3*3)^4)^5 = 2*10^19
        for the MobileNetV3 space at one resolution."""
        factors = []
        free = 1
        sizes = self.gene_sizes.tolist()
        for column, (n, conditions) in enumerate(zip(sizes, self.conditions, strict=True)):
            if not conditions:
                if column not in self.controls:
                    free *= n
                continue
            # a gene that is absent has one way to be so: at 0
            scope = tuple(c for c, _ in conditions)
            there = holds(conditions, scope, sizes)[..., None] | (np.arange(n) == 0)
            factors.append(((*scope, column), there))
        counted_in = {c for scope, _ in factors for c in scope}
        free *= math.prod(sizes[c] for c in self.controls if c not in counted_in)
        return free * counted(factors, sizes)

    def restrict(self, **allowed: Sequence[Value]) -> Space:
        """The part of this space that has only the allowed choices, by a gene's name or by kind:
        `restrict(depth=(2, 3))`. A gene that has none of the allowed choices is an error."""

        def keep(gene: Gene, name: str) -> tuple[Value, ...]:
            kept = tuple(v for v in gene.values if v in allowed[name])
            if not kept:
                raise InputError(
                    f"{gene.spoken} {choices(allowed[name])} is not in the space;"
                    f" it has {choices(gene.values)}"
                )
            return kept

        return self._changed("restrict", allowed, keep)

    def top(self, **counts: int) -> Space:
        """The space with only the n largest choices of what is named, by a gene's name or by kind:
        `top(depth=1, expand=2)`. The phases of progressive shrinking are such spaces."""
        return self._changed("top", counts, lambda gene, name: gene.values[-counts[name] :])

    def _changed(
        self, what: str, named: Any, values: Callable[[Gene, str], tuple[Value, ...]]
    ) -> Space:
        names = {gene.name for gene in self.genes} | {gene.kind for gene in self.genes}
        unknown = sorted(set(named) - names)
        if unknown:
            raise InputError(f"{what}: unknown choice {choices(unknown)}")
        genes: list[Gene] = []
        largest: dict[str, Any] = {}  # of the genes that stay
        for gene in self.genes:
            if any(largest.get(c.gene, -math.inf) < c.least for c in gene.present):
                continue  # never there any more
            name = next((n for n in (gene.name, gene.kind) if n in named), None)
            if name is not None:
                gene = replace(gene, values=values(gene, name))
            genes.append(gene)
            if not gene.is_text:
                largest[gene.name] = gene.values[-1]
        return Space(self.family, tuple(genes))

    def at(self, resolutions: Sequence[int]) -> Space:
        """The same space at other sizes of the input image.

        Raises:
            InputError: the space has no such gene.
        """
        if not self.scaled:
            raise InputError(f"{self.family}: has no resolution to choose")
        return Space(
            self.family, (replace(self.genes[0], values=tuple(resolutions)), *self.genes[1:])
        )

    def check_part(self, whole: Space, where: str, *, resolution: bool = False) -> None:
        """Refuses where this space has an arch that `whole` has not; unless asked for, at any
        resolution.

        Raises:
            InputError: names the gene, the value and the allowed ones, after `where`; a
                `ResolutionError` where the gene is the resolution.
        """
        if self.family != whole.family:
            raise InputError(f"{where}: is for {whole.family}, not for {self.family}")
        another = f"{where}: is for another space of {self.family}"
        known = {gene.name: gene for gene in whole.genes}
        for gene in self.genes:
            if gene.name not in known:
                raise InputError(f"{another}: {gene.spoken} is not in it")
            new = [v for v in gene.values if v not in known[gene.name].values]
            if new and (resolution or gene.name != RESOLUTION):
                error = (
                    f"{another}: {gene.spoken} {new[0]} is not in it;"
                    f" it has {choices(known[gene.name].values)}"
                )
                if gene.name == RESOLUTION:
                    raise ResolutionError(error, whole.resolution)
                raise InputError(error)
        own = {g.name: g.values for g in self.genes if g.name != RESOLUTION}
        if _own(whole.restrict(**own)) != _own(self):
            raise InputError(f"{another}: its genes are there under other conditions")

    def largest(self) -> Arch:
        return self._decode_row([len(gene.values) - 1 for gene in self.genes])

    def smallest(self) -> Arch:
        return self._decode_row([0] * len(self.genes))

    def check(self, arch: Arch, *, resolution: bool = True) -> None:
        """Refuses an arch that is not in the space; with `resolution=False`, of any resolution.

        Raises:
            InputError: names the gene, the value and the allowed ones.
        """
        if arch.family != self.family:
            raise InputError(f"arch is of family {arch.family!r}, not {self.family!r}")
        row: list[int] = []
        for gene, conditions in zip(self.genes, self.conditions, strict=True):
            there = all(row[c] >= least for c, least in conditions)
            if gene.name in arch.genes and not there:
                raise InputError(f"{gene.spoken} is not there in this arch of {self.family}")
            if there and gene.name not in arch.genes:
                raise InputError(f"{gene.spoken} is missing; it can be {choices(gene.values)}")
            value = arch.genes[gene.name] if there else gene.values[0]
            index = gene.index(value)
            if index < 0 and (resolution or gene.name != RESOLUTION):
                raise InputError(
                    f"{gene.spoken} {value} is not in the space of {self.family};"
                    f" it has {choices(gene.values)}"
                )
            row.append(index)
        unknown = [name for name in arch.genes if name not in self.columns]
        if unknown:
            raise InputError(f"arch has a gene {unknown[0]}; {self.family} has none of that name")

    def in_order(self, arch: Arch) -> Arch:
        """The same arch with its genes in the order of the space; files may have another."""
        place, last = self.columns, len(self.genes)
        ordered = sorted(arch.values, key=lambda value: place.get(value[0], last))
        return Arch(arch.family, tuple(ordered))

    def __contains__(self, arch: Arch) -> bool:
        try:
            self.check(arch)
        except InputError:
            return False
        return True

    def __iter__(self) -> Iterator[Arch]:
        """Every arch, once. Only for small spaces: see `size`."""
        sizes = self.gene_sizes.tolist()
        row = [0] * len(sizes)
        while True:
            yield self._decode_row(row)
            for column in reversed(range(len(sizes))):
                if row[column] + 1 < sizes[column] and self._is_there(row, column):
                    row[column] += 1
                    row[column + 1 :] = [0] * (len(sizes) - column - 1)
                    break
            else:
                return

    # --- archs of populations

    def random(self, rng: np.random.Generator) -> Arch:
        return self.decode(self.sample(rng, 1))[0]

    @cached_property
    def _indices(self) -> list[tuple[str, dict[Value, int]]]:
        return [(g.name, {v: i for i, v in enumerate(g.values)}) for g in self.genes]

    def encode(self, archs: Sequence[Arch]) -> Population:
        """The population of these archs.

        Raises:
            InputError: names the first arch (counted from 1) that is not in the space, and why.
        """
        rows = [
            [-1 if n not in arch.genes else at.get(arch.genes[n], -2) for n, at in self._indices]
            for arch in archs
        ]
        found = np.array(rows, GENE).reshape(len(archs), len(self.genes))
        wrong = ((found >= 0) != self.active(found)) | (found < -1)
        known = (found >= 0).sum(1)
        for i, arch in enumerate(archs):
            if wrong[i].any() or arch.family != self.family or known[i] != len(arch.values):
                try:
                    self.check(arch)
                except InputError as error:
                    raise InputError(f"arch {i + 1}: {error}") from None
        return np.maximum(found, 0).astype(GENE)

    def decode(self, population: Population) -> list[Arch]:
        """The archs of a population."""
        active = self.active(population).tolist()
        return [
            Arch(self.family, self._named(row, there))
            for row, there in zip(population.tolist(), active, strict=True)
        ]

    def _named(self, row: list[int], there: list[bool]) -> Values:
        parts = zip(self._pairs, row, there, strict=True)
        return tuple([pairs[i] for pairs, i, active in parts if active])

    @cached_property
    def _pairs(self) -> list[list[tuple[str, Value]]]:
        return [[(gene.name, value) for value in gene.values] for gene in self.genes]

    def _decode_row(self, row: Sequence[int]) -> Arch:
        there = [c for c in range(len(row)) if self._is_there(row, c)]
        return Arch(self.family, tuple(self._pairs[c][row[c]] for c in there))


def _own(space: Space) -> tuple[Gene, ...]:
    """Its genes without the resolution."""
    return space.genes[1:] if space.scaled else space.genes
