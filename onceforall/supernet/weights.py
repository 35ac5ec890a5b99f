"""Supernets and extracted networks in checkpoint files.

A checkpoint says which family its weights are of and with which settings, so that it
can be read without anything else; one of an extracted network also holds its arch and
how its images were prepared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onceforall import families
from onceforall.errors import InputError, choices
from onceforall.families import settings
from onceforall.space import Arch
from onceforall.supernet import checkpoint
from onceforall.supernet.supernet import SuperNet


def save_supernet(
    path: Path, supernet: SuperNet, facts: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """`facts` are kept beside the weights: plain data."""
    described = {**facts, "family": supernet.family.name, "settings": supernet.family.settings()}
    checkpoint.save(path, "supernet", supernet.state_dict(), described, overwrite=overwrite)


def load_supernet(path: Path) -> tuple[SuperNet, dict[str, Any]]:
    """The supernet and the facts saved with it.

    Raises:
        InputError: no such file, damaged, another kind, or of a family that is not known.
    """
    found = checkpoint.load(path, "supernet")
    family = family_of(found.facts, path)
    with _unfilled(family):
        supernet = SuperNet(family)
    load_exactly(supernet, found.tensors, path)
    return supernet, found.facts


def save_network(
    path: Path,
    network: nn.Module,
    family: families.Family,
    arch: Arch,
    facts: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """An extracted network and the arch it is."""
    described = {
        **facts,
        "family": family.name,
        "settings": family.settings(),
        "arch": arch.to_dict(),
    }
    checkpoint.save(path, "network", network.state_dict(), described, overwrite=overwrite)


def load_network(path: Path) -> tuple[nn.Module, Arch, dict[str, Any]]:
    """The network in evaluation mode, its arch, and the facts saved with it.

    Raises:
        InputError: no such file, damaged, another kind, or of a family that is not known.
    """
    found = checkpoint.load(path, "network")
    family = family_of(found.facts, path)
    arch = arch_of(found.facts, path, family)
    network = unfilled(family, arch)
    load_exactly(network, found.tensors, path)
    return network.eval(), arch, found.facts


def arch_of(facts: Mapping[str, Any], path: Path, family: families.Family) -> Arch:
    """The arch that a checkpoint's facts name, its genes in the order of the family's space."""
    try:
        return family.space.in_order(Arch.from_dict(facts.get("arch")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def unfilled(family: families.Family, arch: Arch) -> nn.Module:
    """The network of an arch, to be given the tensors of a file."""
    with _unfilled(family):
        return family.build(arch)


@contextmanager
def _unfilled(family: families.Family) -> Iterator[None]:
    """Networks that are built while it lasts get their tensors from a file. Those of a family with
    a plan have none of their own meanwhile; others may keep what is in no file."""
    if isinstance(family, families.Planned):
        with torch.device("meta"):
            yield
    else:
        with torch.random.fork_rng(devices=[]):
            yield


def family_of(facts: Mapping[str, Any], path: Path) -> families.Family:
    """The family that a checkpoint's facts name."""
    if "family" not in facts or "settings" not in facts:
        missing = "settings" if "family" in facts else "family"
        raise InputError(f"{path}: does not say its family: {missing!r} is missing")
    return settings.made_again(facts["family"], facts["settings"], str(path))


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Puts tensors into a module on any device, also the meta device.

    Raises:
        InputError: names the first key that is missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise InputError(f"{path}: key {name!r} is missing")
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{path}: key {name!r} is {tuple(tensors[name].shape)},"
                f" {tuple(tensor.shape)} was expected"
            )
    extra = [name for name in tensors if name not in wanted]
    if extra:
        raise InputError(f"{path}: unknown keys: {choices(extra[:5])}")
    meta = any(tensor.is_meta for tensor in wanted.values())
    module.load_state_dict(dict(tensors), assign=meta)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
