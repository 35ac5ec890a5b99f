"""The blocks of a space of stages, for tables of them: `Place`, `places`.

A table of such a space has a factor for each block, over the resolution and the genes that the
block depends on, and one for the rest of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onceforall.space.genes import RESOLUTION
from onceforall.space.spaces import Space
from onceforall.space.stages import chain, stage_gene

Floats = NDArray[np.float64]


class Place(NamedTuple):
    """A block that an arch can have: where it is and what it is."""

    resolution: int  # of the input image, pixels
    stage: int  # from 0
    position: int  # in its stage, from 0
    kernel: int
    expand: float
    width_in: int  # channels that enter; 0 for the first block of all: a space does not know them
    width: int  # channels that leave


def places(space: Space) -> Iterator[tuple[int, tuple[int, ...], Place]]:
    """Every block an arch of the space can have: the number of its factor, its index there."""
    genes = iter(enumerate(stage_genes(space)))
    for s, stage in enumerate(space.stages):
        for b in range(stage.blocks):
            factor, names = next(genes)
            values = [space.gene(name).values for name in names]
            for index in np.ndindex(*map(len, values)):
                r, *before, width, kernel, expand = (
                    v[i] for v, i in zip(values, index, strict=True)
                )
                entering = 0 if s == 0 else before[0] if before else width
                if b > 0:
                    entering = width
                found: Any = (r, s, b, kernel, expand, entering, width)
                yield factor, index, Place(*found)


def stage_genes(space: Space) -> list[tuple[str, ...]]:
    """The genes of each factor: of the blocks, and of the rest."""
    last = stage_gene(len(space.stages) - 1, "width")
    return [*((RESOLUTION, *genes) for genes in chain(space.stages)), (RESOLUTION, last)]


def first_version(data: dict[str, Any]) -> list[Floats]:
    """The arrays of a file of version 1, in which each block's had an axis for widths before."""
    arrays = [np.array(block, float) for stage in data["blocks"] for block in stage]
    first = {sum(len(stage) for stage in data["blocks"][:s]) for s in range(1, len(data["blocks"]))}
    return [
        *(block if i in first else block.squeeze(1) for i, block in enumerate(arrays)),
        np.array(data["fixed"], float),
    ]
