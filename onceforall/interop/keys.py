"""How other projects name the weights of our layers.

A `Spelling` says, for each tensor of a network or supernet of ours, what it is called in
a file. The authors' files come in four spellings (blocks under `mobile_inverted_conv` or
`conv`; elastic layers with doubled names or not), MMRazor's in two. `translate` finds the
one a file is written in and is strict about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.base import block_name, planned
from onceforall.families.layers import (
    Bottleneck,
    ConvNormAct,
    ConvNormActPool,
    Layer,
    MBConv,
    ResidualConv,
)
from onceforall.space import Arch

TRANSFORMS = "transforms."  # what a supernet's state has beside its network
NETWORK = "network."


class Place(NamedTuple):
    """A layer with weights: its name here, and where it stands in the authors' modules."""

    name: str
    layer: Layer
    official: str  # "first_conv", "blocks.3", "input_stem.0", ...
    elastic: bool  # among those that differ between sub-networks


@dataclass(frozen=True)
class Spelling:
    """One way to name weights."""

    title: str
    residual: str = "mobile_inverted_conv"  # what a block calls its convolutions
    doubled: bool = False  # elastic layers wrap a layer of the same name: `conv.conv`
    matrix: str = "{large}to{small}_matrix"  # what turns a kernel into the next smaller
    prefix: str = ""
    own: Callable[[Place, str, str], str] | None = None  # a project's that is not the authors'


OFFICIAL_NETWORK = (Spelling("official"), Spelling("official", residual="conv"))
OFFICIAL_SUPERNET = (
    Spelling("official", doubled=True),
    Spelling("official", residual="conv", doubled=True),
    *OFFICIAL_NETWORK,
)
_MBCONV = {
    "expand.conv": "inverted_bottleneck.conv",
    "expand.norm": "inverted_bottleneck.bn",
    "depthwise.conv": "depth_conv.conv",
    "depthwise.norm": "depth_conv.bn",
    "se.reduce": "depth_conv.se.fc.reduce",
    "se.expand": "depth_conv.se.fc.expand",
    "project.conv": "point_linear.conv",
    "project.norm": "point_linear.bn",
}
_MMRAZOR_MBCONV = {
    "expand.conv": "expand_conv.conv",
    "expand.norm": "expand_conv.bn",
    "depthwise.conv": "depthwise_conv.conv",
    "depthwise.norm": "depthwise_conv.bn",
    "se.reduce": "se.conv1.conv",
    "se.expand": "se.conv2.conv",
    "project.conv": "linear_conv.conv",
    "project.norm": "linear_conv.bn",
}
_OFFICIAL_NAMES = {
    "stem": "first_conv",
    "final_expand": "final_expand_layer",
    "feature_mix": "feature_mix_layer",
    "classifier": "classifier",
}


def places(family: Family, arch: Arch, numbers: list[int] | None = None) -> list[Place]:
    """The layers of a network that have weights, in order.

    Args:
        numbers: of the blocks in the file, where placeholders without weights leave gaps.
    """
    plan = planned(family).plan(arch)
    resnet = any(layer.make is Bottleneck for layer in plan.values())
    elastic = {block_name(s, b) for s, x in enumerate(arch.stages) for b in range(len(x))}
    found: list[Place] = []
    blocks = stem = 0
    for name, layer in plan.items():
        if layer.make in (MBConv, Bottleneck):
            number = numbers[blocks] if numbers is not None else _number(name, blocks)
            found.append(Place(name, layer, f"blocks.{number}", name in elastic))
            blocks += 1
        elif resnet and layer.make in (ConvNormAct, ConvNormActPool, ResidualConv):
            found.append(Place(name, layer, f"input_stem.{stem}", True))
            stem += 1
        elif name in _OFFICIAL_NAMES:
            found.append(Place(name, layer, _OFFICIAL_NAMES[name], resnet))
        elif _tensors(layer):
            raise InputError(f"{family.name}: layer {name} is in no official network")
    return found


def block_numbers(family: Family, arch: Arch) -> list[int]:
    """The numbers of a network's blocks in the authors' list."""
    found = [place.official.split(".") for place in places(family, arch)]
    return [int(number[1]) for number in found if number[0] == "blocks"]


def _number(name: str, count: int) -> int:
    """A block's number in the authors' list: of a fixed network it is in its name."""
    own = name.removeprefix("block")
    return int(own) if own.isdigit() else count


def spell(place: Place, tensor: str, spelling: Spelling) -> str:
    """What a layer's tensor, such as `expand.conv.weight`, is called in a file."""
    path, _, kind = tensor.rpartition(".")
    if spelling.own is not None:
        return spelling.prefix + spelling.own(place, path, kind)
    if place.layer.make is MBConv:
        named = f"{spelling.residual}.{_MBCONV[path]}"
    elif place.layer.make is ResidualConv:
        named = f"conv.{_plain(path.removeprefix('residual.'))}"
    elif place.name == "classifier":
        named = "linear"
    else:
        named = _plain(path)
    if spelling.doubled and place.elastic and ".se.fc." not in named:
        named += "." + named.rsplit(".", 1)[-1]
    return f"{place.official}.{named}.{kind}"


def _plain(path: str) -> str:
    """`norm` is `bn` in the authors' modules; ours of a bare linear layer is nothing."""
    return path[: -len("norm")] + "bn" if path.endswith("norm") else path


def _spell_mmrazor(place: Place, path: str, kind: str) -> str:
    if place.name == "classifier":
        return f"head.fc.{kind}"
    if place.layer.make is MBConv:
        stage, block = mmrazor_layer(place.name)
        return f"backbone.layer{stage}.{block}.{_MMRAZOR_MBCONV[path]}.{kind}"
    at = "" if place.official == "first_conv" else "last_conv."
    return f"backbone.{at}{place.official}.{_plain(path)}.{kind}"


_MATRIX = "trans_matrix_{large}to{small}"
MMRAZOR = (
    Spelling("MMRazor", matrix=_MATRIX, prefix="architecture.", own=_spell_mmrazor),
    Spelling("MMRazor", matrix=_MATRIX, own=_spell_mmrazor),
)


def mmrazor_layer(name: str) -> tuple[int, int]:
    """Its stage, counted from 1, the fixed first block being the first; and its block from 0."""
    if name == "first_block":
        return 1, 0
    stage, block = name.removeprefix("stage").split("_block")
    return int(stage) + 1, int(block) - 1


def network_names(
    family: Family, arch: Arch, spelling: Spelling, numbers: list[int] | None = None
) -> dict[str, str]:
    """For each tensor of a static network, its name in a file."""
    names = {}
    for place in places(family, arch, numbers):
        for tensor in _tensors(place.layer):
            ours = f"{place.name}.{tensor}"
            names[ours] = spell(place, tensor, spelling)
    return names


def supernet_names(family: Family, spelling: Spelling) -> dict[str, str]:
    """For each tensor of a supernet's state, its name in a file."""
    arch = family.space.largest()
    names = {NETWORK + o: f for o, f in network_names(family, arch, spelling).items()}
    kernels = {
        block_name(s, b): stage.kernel
        for s, stage in enumerate(family.space.stages)
        for b in range(stage.blocks)
    }
    for place in places(family, arch):
        for large, small in zip(
            kernels.get(place.name, ())[:0:-1], kernels.get(place.name, ())[-2::-1], strict=True
        ):
            weight = spell(place, "depthwise.conv.weight", spelling)
            at = weight.removesuffix(".weight")
            if spelling.doubled:
                at = at.removesuffix(".conv")
            ours = f"{TRANSFORMS}{place.name}_{large}to{small}"
            names[ours] = f"{at}.{spelling.matrix.format(large=large, small=small)}"
    return names


@lru_cache(maxsize=4096)
def _tensors(layer: Layer) -> dict[str, torch.Size]:
    """The shapes of a layer's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in layer.build().state_dict().items()}


def shapes_at_the_ends(found: list[Place]) -> dict[tuple[Place, str], torch.Size]:
    """The tensors of a network's first and last layers: enough to tell spellings and widths."""
    return {
        (place, tensor): shape
        for place in {*found[:3], *found[-3:]}
        for tensor, shape in _tensors(place.layer).items()
    }


def hits(
    tensors: Mapping[str, Tensor],
    ends: Mapping[tuple[Place, str], torch.Size],
    spelling: Spelling,
) -> tuple[int, int]:
    """How many of these tensors a file has in their shapes, and how many by name."""
    given = [(tensors.get(spell(*key, spelling)), shape) for key, shape in ends.items()]
    named = [(tensor, shape) for tensor, shape in given if tensor is not None]
    return sum(tensor.shape == shape for tensor, shape in named), len(named)


def translate(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> dict[str, Tensor]:
    """A file's tensors under our names.

    Args:
        names: ours -> the file's.
        shapes: of each of our tensors.

    Raises:
        InputError: names the first key that is missing, unknown or of a wrong shape.
    """
    for ours, theirs in names.items():
        if theirs not in tensors:
            raise InputError(f"{where}: key {theirs!r} is missing")
        found = tuple(tensors[theirs].shape)
        if found != shapes[ours]:
            raise InputError(f"{where}: key {theirs!r}: {found} given, {shapes[ours]} expected")
    known = set(names.values())
    extra = [n for n in tensors if n not in known]
    if extra:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise InputError(f"{where}: key {extra[0]!r} is unknown{more}")
    return {ours: tensors[theirs] for ours, theirs in names.items()}
