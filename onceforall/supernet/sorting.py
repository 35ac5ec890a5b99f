"""Channels that can change places: which they are, and sorting them by importance.

Our blocks declare their groups of channels. Those of any other network are inferred from what
reaches what, and then proved: see `inference`. A group's channels lie along one dimension of
several tensors and change places in all of them at once, in pieces: single channels, or whole
heads. Knows no training and no files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from onceforall.families import Family, block_name
from onceforall.families.base import Planned
from onceforall.families.layers import Elastic
from onceforall.progress import say
from onceforall.supernet import inference
from onceforall.supernet.inference import Axis

Edges = Callable[[Mapping[str, int]], set[int]]


@dataclass(frozen=True)
class Sortable:
    """Pieces that may change places.

    Attributes:
        axes: where they lie.
        importance: of these, the ones whose entries' L1 norm says how much each piece matters.
        edges: how many pieces the sub-networks have that are in use so far, by how many choices
            of each kind of gene are.
    """

    axes: tuple[Axis, ...]
    importance: tuple[Axis, ...]
    pieces: int
    edges: Edges


@torch.no_grad()
def sort(network: nn.Module, groups: Sequence[Sortable], formed: Mapping[str, int]) -> None:
    """Sorts the pieces of every group in place, by importance, each band within itself."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for group in groups:
        importance = torch.stack(
            [inference.pieces_of(tensors[a.tensor], a, group.pieces) for a in group.importance]
        ).sum(0)
        order = importance_order(importance, group.edges(formed))
        for axis in group.axes:
            inference.permute(tensors[axis.tensor], axis, order)


def importance_order(importance: Tensor, edges: Collection[int]) -> Tensor:
    """Indices that sort `importance` descending, each band between `edges` within itself."""
    bounds = sorted({0, len(importance), *edges})
    return torch.cat(
        [
            low + torch.argsort(importance[low:high], descending=True, stable=True)
            for low, high in itertools.pairwise(bounds)
        ]
    )


@lru_cache(maxsize=16)
def groups_of(family: Family) -> tuple[Sortable, ...]:
    """The groups of channels of a family's largest network, in the order to sort them."""
    if isinstance(family, Planned):
        return tuple(_declared(family))
    found = inference.infer(family)
    for text in found.unsorted:
        say(f"{family.name}: {text}")
    return tuple(
        Sortable(g.axes, g.readers or g.axes, g.pieces, partial(inference.sizes, family, g))
        for g in found.groups
    )


def _declared(family: Planned) -> list[Sortable]:
    """Hidden channels of every block, and those inside a squeeze-excite, which have no bands."""
    groups = []
    largest = family.blank(family.space.largest())
    for s, stage in enumerate(family.space.stages):
        for b in range(stage.blocks):
            name = block_name(s, b)
            block = largest.get_submodule(name)
            if not isinstance(block, Elastic):
                continue
            for group in block.channel_groups():
                axes = tuple(Axis(f"{name}.{n}", dim) for n, dim in group.members)
                weight = Axis(f"{name}.{group.importance[0]}", group.importance[1])
                pieces = largest.get_parameter(weight.tensor).shape[weight.dim]
                edges = partial(_formed, family, s, b) if group.elastic else _none
                groups.append(Sortable(axes, (weight,), pieces, edges))
    return groups


def _none(formed: Mapping[str, int]) -> set[int]:
    return set()


def _formed(family: Planned, s: int, b: int, formed: Mapping[str, int]) -> set[int]:
    """Numbers of hidden channels that a block has at the expand ratios and widths in use. They are
    counted from a block's width, so each width has bands of its own."""
    ratios, widths = formed.get("expand", 1), formed.get("width", 1)
    stage, before = family.space.stages[s], family.space.stages[s - 1]
    entering = before.width[-widths:] if s else (family.stem_width,)
    found = set()
    for width in stage.width[-widths:]:
        for width_in in (width,) if b else entering:
            at = family.block(s, b, stage.kernel[-1], stage.expand[-1], width_in, width)
            with torch.device("meta"):
                block = at.build()
            assert isinstance(block, Elastic)
            found |= {block.hidden_channels(ratio) for ratio in stage.expand[-ratios:]}
    return found
