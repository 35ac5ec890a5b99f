"""Weights of networks and supernets in the authors' files and in MMRazor's, both directions; and
of networks of families that other projects have, too (`efficientnet`).

Every tensor of the file must be one of the network's and of its shape, and the other way
round; nothing keeps a value it had before. Our own checkpoints are read too, so that a
caller need not know what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from onceforall import families
from onceforall.errors import InputError, choices
from onceforall.families import Family, Planned
from onceforall.families.layers import M, owning
from onceforall.interop.efficientnet import EFFICIENTNETS, PYTORCH, TIMM
from onceforall.interop.keys import (
    MMRAZOR,
    OFFICIAL_NETWORK,
    OFFICIAL_SUPERNET,
    Place,
    Spelling,
    block_numbers,
    hits,
    network_names,
    places,
    shapes_at_the_ends,
    supernet_names,
    translate,
)
from onceforall.interop.net_config import OFFICIAL
from onceforall.interop.networks import is_checkpoint
from onceforall.interop.tensors import is_torch_file, read_tensors, write_tensors
from onceforall.space import Arch
from onceforall.supernet import SuperNet, checkpoint, weights

MMRAZOR_FAMILIES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2")


def read_weights(path: Path, family: Family, arch: Arch) -> nn.Module:
    """The network `arch` with the weights of a file, in evaluation mode.

    The file is one of this network in any format, or one of its family's supernet, from which
    it is then extracted (with the statistics the supernet has: calibrate it before use).

    Raises:
        InputError: names the file and the first key that is missing, unknown or misshapen.
    """
    if is_torch_file(path):
        tensors = read_tensors(path)
        if is_supernet(tensors):
            return _to_supernet(tensors, family, path).extract(arch).eval()
        return _to_network(tensors, family, arch, path).eval()
    _check_kind(path)
    if checkpoint.describe(path)["kind"] == "supernet":
        supernet, _ = weights.load_supernet(path)
        _same_family(supernet.family, family, path)
        return supernet.extract(arch).eval()
    network, own, _ = weights.load_network(path)
    if own.family != arch.family or own.at(arch.resolution) != arch:
        raise InputError(f"{path}: holds {own}, not {arch}")
    return network


def read_supernet(path: Path, family: Family | None = None) -> SuperNet:
    """The supernet of a file in any format; its family is found where it is not given.

    Raises:
        InputError: as `read_weights`.
    """
    if not is_torch_file(path):
        _check_kind(path)
        supernet, _ = weights.load_supernet(path)
        if family is not None:
            _same_family(supernet.family, family, path)
        return supernet
    tensors = read_tensors(path)
    return _to_supernet(tensors, family or detect_family(tensors, path), path)


def _check_kind(path: Path) -> None:
    """Raises InputError where a file that PyTorch did not write is no checkpoint either."""
    if path.is_file() and not is_checkpoint(path):
        raise InputError(
            f"{path}: holds no weights: neither PyTorch wrote it nor is it safetensors"
        )


def kind_of(path: Path) -> str:
    """What a file holds: "description", or weights of a "network" or "supernet"."""
    if is_torch_file(path):
        return "supernet" if is_supernet(read_tensors(path)) else "network"
    if is_checkpoint(path):
        return str(checkpoint.describe(path)["kind"])
    return "description"


def is_supernet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file's keys are of a supernet: kernel transforms, or doubled names."""
    return any(
        key.endswith("_matrix") or ".trans_matrix_" in key or ".bn.bn." in key for key in tensors
    )


def detect_family(tensors: Mapping[str, Tensor], path: Path) -> Family:
    """The official family whose supernet has most of these keys in these shapes."""
    classes = 1000
    for key, tensor in tensors.items():
        if re.search(r"(classifier|head)\..*bias$", key):
            classes = len(tensor)

    found = []
    for family in (families.get(name, classes=classes) for name in OFFICIAL):
        ends = shapes_at_the_ends(places(family, family.space.largest()))
        fitting = max(hits(tensors, ends, s) for s in _supernet_spellings(family))
        found.append((fitting, family))
    most, family = max(found, key=lambda pair: pair[0])
    if most == (0, 0):
        raise InputError(f"{path}: of none of the supernets {choices(OFFICIAL)}")
    return family


def write_weights(
    path: Path, network: nn.Module, family: Family, arch: Arch, form: str = "official"
) -> None:
    """Writes a static network's weights in the authors' layout, MMRazor's, or timm's.

    Raises:
        InputError: the layout has no place for one of its layers, or `path` exists.
    """
    names = network_names(family, arch, _writes(form, family, OFFICIAL_NETWORK))
    state = network.state_dict()
    write_tensors(path, {theirs: state[ours] for ours, theirs in names.items()})


def write_supernet(path: Path, supernet: SuperNet, form: str = "official") -> None:
    """Writes a supernet's weights in the authors' (published) or MMRazor's layout."""
    names = supernet_names(supernet.family, _writes(form, supernet.family, OFFICIAL_SUPERNET))
    state = supernet.state_dict()
    write_tensors(path, {theirs: state[ours] for ours, theirs in names.items()})


def _writes(form: str, family: Family, official: tuple[Spelling, ...]) -> Spelling:
    if form == "official":
        return official[0]
    if form == TIMM.title:
        if official is not OFFICIAL_NETWORK:
            raise InputError("supernets have no timm form, only networks")
        if family.name not in EFFICIENTNETS:
            raise InputError(f"{family.name} has no timm form, only {choices(EFFICIENTNETS)}")
        return TIMM
    _check_mmrazor(family)
    return MMRAZOR[0]


def _check_mmrazor(family: Family) -> None:
    if family.name not in MMRAZOR_FAMILIES:
        raise InputError(f"{family.name} has no MMRazor form, only {choices(MMRAZOR_FAMILIES)}")


def _same_family(found: Family, wanted: Family, path: Path) -> None:
    if found.name != wanted.name:
        raise InputError(f"{path}: holds a supernet of {found.name}, not of {wanted.name}")


def _spellings(
    tensors: Iterable[str], family: Family, official: tuple[Spelling, ...]
) -> tuple[Spelling, ...]:
    """MMRazor's where the keys look like it, else the authors' and those of the family's own."""
    if any(key.startswith(("architecture.", "backbone.", "head.")) for key in tensors):
        _check_mmrazor(family)
        return MMRAZOR
    return (*official, TIMM, PYTORCH) if family.name in EFFICIENTNETS else official


def _to_network(tensors: Mapping[str, Tensor], family: Family, arch: Arch, path: Path) -> nn.Module:
    """The network with the weights of a file: by its own names, if it has no others."""
    if not isinstance(family, Planned):
        network = weights.unfilled(family, arch)
        weights.load_exactly(network, tensors, path)
        return network
    with torch.device("meta"):
        network = family.build(arch)
    try:
        spellings = _spellings(tensors, family, OFFICIAL_NETWORK)
        numbers = _block_numbers(tensors, len(block_numbers(family, arch)))
        spelling = _spelling(tensors, places(family, arch, numbers), spellings)
        names = network_names(family, arch, spelling, numbers)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _filled(network, tensors, names, path)


def _block_numbers(tensors: Iterable[str], blocks: int) -> list[int] | None:
    """The numbers of the blocks in the file, if there are as many as the network has."""
    found = {int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", key) for key in tensors) if m}
    return sorted(found) if len(found) == blocks else None


def _to_supernet(tensors: Mapping[str, Tensor], family: Family, path: Path) -> SuperNet:
    with torch.device("meta"):
        supernet = SuperNet(family)
    try:
        _spellings(tensors, family, ())
        found = places(family, family.space.largest())
        names = supernet_names(family, _spelling(tensors, found, _supernet_spellings(family)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _filled(supernet, tensors, names, path)


def _supernet_spellings(family: Family) -> tuple[Spelling, ...]:
    own = MMRAZOR if family.name in MMRAZOR_FAMILIES else ()
    return (*OFFICIAL_SUPERNET, *own)


def _spelling(
    tensors: Mapping[str, Tensor], found: list[Place], spellings: Iterable[Spelling]
) -> Spelling:
    """The one that a file is written in."""
    ends = shapes_at_the_ends(found)
    return max(spellings, key=lambda spelling: hits(tensors, ends, spelling)[1])


def _filled(module: M, tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> M:
    """A module that has no memory yet, with the tensors of a file."""
    wanted = module.state_dict(keep_vars=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    own = translate(tensors, names, shapes, str(path))
    for name, tensor in own.items():
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise InputError(
                f"{path}: key {names[name]!r}: {tensor.dtype} given, {wanted[name].dtype} expected"
            )
        own[name] = tensor.to(wanted[name].dtype)
    return owning(module, own)
