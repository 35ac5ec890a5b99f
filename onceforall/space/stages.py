"""Stages of convolutional blocks: `Stage` is shorthand for genes, and a view of genes named so.

A stage `n` has the genes `stage<n>.width` and `stage<n>.depth`, and for each block `b` that it
can have `stage<n>.block<b>.kernel` and `stage<n>.block<b>.expand`, present while the depth reaches
them; before all stages there is `resolution`. The short texts and the plain data of archs of
such spaces are written and read here. Nothing else knows these names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onceforall.errors import InputError, choices
from onceforall.space.genes import RESOLUTION, Gene, Presence, Value

KINDS = ("depth", "kernel", "expand", "width")
Values = tuple[tuple[str, Value], ...]  # of an arch: name and value of each gene that is present


@dataclass(frozen=True, order=True)
class Block:
    """One block: depthwise kernel size, ratio of hidden to input channels, output channels."""

    kernel: int
    expand: float
    width: int

    def __post_init__(self) -> None:
        if isinstance(self.expand, float) and self.expand.is_integer():
            object.__setattr__(self, "expand", int(self.expand))  # 6.0 and 6 are one value


Stages = tuple[tuple[Block, ...], ...]


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
        for name in KINDS:
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or list(values) != sorted(set(values)) or values[0] <= 0:
                raise InputError(f"stage: {name}: {values} is not an ascending list of choices")

    @property
    def blocks(self) -> int:
        """Blocks at full depth."""
        return self.depth[-1]


def stage_gene(stage: int, kind: str) -> str:
    """The name of a stage's width or depth; stages are counted from 0."""
    return f"stage{stage + 1}.{kind}"


def block_gene(stage: int, position: int, kind: str) -> str:
    """The name of a block's kernel or expand; stages and blocks are counted from 0."""
    return f"stage{stage + 1}.block{position + 1}.{kind}"


# --- of a space


def genes_of(resolution: Sequence[int], stages: Sequence[Stage]) -> tuple[Gene, ...]:
    """The genes that stages are shorthand for."""
    if not resolution or list(resolution) != sorted(set(resolution)):
        raise InputError(f"space: resolution: {tuple(resolution)} is not an ascending list")
    genes = [Gene(RESOLUTION, tuple(resolution))]
    for s, stage in enumerate(stages):
        depth = stage_gene(s, "depth")
        genes += [Gene(stage_gene(s, "width"), stage.width), Gene(depth, stage.depth)]
        for b in range(stage.blocks):
            present = (Presence(depth, b + 1),) if b >= stage.depth[0] else ()
            genes += [
                Gene(block_gene(s, b, "kernel"), stage.kernel, present),
                Gene(block_gene(s, b, "expand"), stage.expand, present),
            ]
    return tuple(genes)


def stages_of(genes: Sequence[Gene]) -> tuple[Stage, ...] | None:
    """The stages that these genes are written by; None where they are others."""
    known = {gene.name: gene.values for gene in genes}
    stages: list[Stage] = []
    try:
        while stage_gene(len(stages), "depth") in known:
            s = len(stages)
            names = [stage_gene(s, "depth")]
            names += [block_gene(s, 0, "kernel"), block_gene(s, 0, "expand")]
            stages.append(Stage(*(known[n] for n in [*names, stage_gene(s, "width")])))  # type: ignore[arg-type]
        written = genes_of(known[RESOLUTION], stages)  # type: ignore[arg-type]
    except (KeyError, InputError, TypeError):
        return None
    return tuple(stages) if stages and written == tuple(genes) else None


def chain(stages: Sequence[Stage]) -> list[tuple[str, ...]]:
    """The genes that act together in a chain of stages, for each block that there can be: its
    kernel and expand, the width of its stage and, for a stage's first, that of the stage before."""
    found = []
    for s, stage in enumerate(stages):
        for b in range(stage.blocks):
            before = (stage_gene(s - 1, "width"),) if b == 0 and s > 0 else ()
            own = (block_gene(s, b, "kernel"), block_gene(s, b, "expand"))
            found.append((*before, stage_gene(s, "width"), *own))
    return found


# --- of an arch


def values_of(resolution: int, stages: Stages) -> Values:
    """The genes' values of an arch of these blocks.

    Raises:
        InputError: names the stage, the block and the value that no arch can have.
    """
    _check(resolution, stages)
    values: list[tuple[str, Value]] = [(RESOLUTION, resolution)]
    for s, stage in enumerate(stages):
        values += [(stage_gene(s, "width"), stage[0].width), (stage_gene(s, "depth"), len(stage))]
        for b, block in enumerate(stage):
            values += [
                (block_gene(s, b, "kernel"), block.kernel),
                (block_gene(s, b, "expand"), block.expand),
            ]
    return tuple(values)


def _check(resolution: int, stages: Stages) -> None:
    if not _is_int(resolution) or resolution < 1:
        raise InputError(f"resolution: {resolution!r} is not a positive whole number")
    for s, stage in enumerate(stages):
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


def blocks_of(values: Values) -> Stages | None:
    """The blocks of an arch's stages; None where its genes are others."""
    names = iter(values)
    if next(names, ("",))[0] != RESOLUTION:
        return None
    stages: list[tuple[Block, ...]] = []
    for name, width in names:
        s = len(stages)
        depth = next(names, ("", 0))
        if name != stage_gene(s, "width") or depth[0] != stage_gene(s, "depth"):
            return None
        if not _is_int(depth[1]) or depth[1] < 1:  # type: ignore[operator]
            return None
        blocks = []
        for b in range(depth[1]):  # type: ignore[arg-type]
            kernel, expand = next(names, ("", 0)), next(names, ("", 0))
            wanted = (block_gene(s, b, "kernel"), block_gene(s, b, "expand"))
            if (kernel[0], expand[0]) != wanted:
                return None
            blocks.append(Block(kernel[1], expand[1], width))  # type: ignore[arg-type]
        stages.append(tuple(blocks))
    made = tuple(stages)
    try:
        _check(values[0][1], made)  # type: ignore[arg-type]
    except InputError:
        return None
    return made or None


def text_of(stages: Stages) -> str:
    """`width:kernelxexpand,.../...`, one part a stage."""
    return "/".join(
        f"{stage[0].width}:" + ",".join(f"{b.kernel}x{b.expand:g}" for b in stage)
        for stage in stages
    )


def parse(text: str) -> Stages:
    """What `text_of` wrote.

    Raises:
        ValueError: the text is not of that form.
    """
    stages = []
    for part in text.split("/"):
        width, blocks = part.split(":")
        pairs = [block.split("x") for block in blocks.split(",")]
        stages.append(tuple(Block(int(k), _number(e), int(width)) for k, e in pairs))
    return tuple(stages)


def to_list(stages: Stages) -> list[dict[str, Any]]:
    """Plain data for JSON."""
    return [
        {
            "width": stage[0].width,
            "kernel": [b.kernel for b in stage],
            "expand": [b.expand for b in stage],
        }
        for stage in stages
    ]


def from_list(data: Any) -> Stages:
    """What `to_list` wrote.

    Raises:
        InputError: names the first field that is missing, unknown or of a wrong type.
    """
    if not isinstance(data, list) or not data:
        raise InputError(f"arch: stages: {data!r} is not a list of stages")
    stages = []
    for s, stage in enumerate(data):
        where = f"arch: stages[{s}]"
        row = fields(stage, ("width", "kernel", "expand"), where)
        for key in ("kernel", "expand"):
            if not isinstance(row[key], list):
                raise InputError(f"{where}: {key}: {row[key]!r} is not a list")
        if len(row["kernel"]) != len(row["expand"]):
            raise InputError(
                f"{where}: {len(row['kernel'])} kernels but {len(row['expand'])} expand ratios"
            )
        pairs = zip(row["kernel"], row["expand"], strict=True)
        stages.append(tuple(Block(k, e, row["width"]) for k, e in pairs))
    return tuple(stages)


def fields(data: Any, names: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """A map of exactly these fields.

    Raises:
        InputError: it is none, or a field is missing or unknown.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: {type(data).__name__} given, an object was expected")
    for name in names:
        if name not in data:
            raise InputError(f"{where}: {name!r} is missing")
    for name in data:
        if name not in names:
            raise InputError(f"{where}: unknown key {name!r}; it has {choices(names)}")
    return data


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)
