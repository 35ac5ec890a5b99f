"""Weights of a trained network, from a file of anybody's, for a supernet to start from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from onceforall import families
from onceforall.errors import InputError
from onceforall.families import Family, Planned
from onceforall.interop.networks import is_checkpoint
from onceforall.interop.tensors import is_torch_file, read_tensors
from onceforall.interop.weight_files import read_weights
from onceforall.supernet import checkpoint, load_network, load_supernet


def starting_weights(path: Path, family: Family) -> dict[str, Tensor]:
    """The state dict of a family's largest network, from a file of that network or of a supernet,
    in any format; its classifier may be of other classes.

    Raises:
        InputError: no such file, damaged, or of another network; names the file.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; a file of weights is expected (of a run, its"
            " supernet.safetensors)"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if is_checkpoint(path) and not is_torch_file(path):
        found = _of_checkpoint(path, family)
        if found is not None:
            return found
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(path)
    else:
        tensors = read_tensors(path)
    own = family.blank(family.space.largest()).state_dict()
    if set(own) == set(tensors) or not isinstance(family, Planned):
        return tensors  # what does not fit is named by who uses them
    classes = _classes(tensors, family.classes)
    other = families.get(family.name, **{**family.settings(), "classes": classes})
    try:
        return read_weights(path, other, other.space.largest()).state_dict()
    except InputError as error:
        raise InputError(
            f"{error}; weights of the largest network of {family.name} are expected, and family=..."
            " names another"
        ) from None


def _of_checkpoint(path: Path, family: Family) -> dict[str, Tensor] | None:
    """From a checkpoint of ours; None: the file is another project's."""
    try:
        facts = checkpoint.describe(path)
    except InputError as error:
        if "not a checkpoint of onceforall" in str(error):
            return None
        raise
    if facts["kind"] == "supernet":
        supernet, _ = load_supernet(path)
        if supernet.family.name != family.name:
            raise InputError(f"{path}: is of {supernet.family.name}, not of {family.name}")
        return supernet.network.state_dict()
    network, arch, _ = load_network(path)
    largest = family.space.largest()
    if arch.family != family.name or arch.at(largest.resolution) != largest:
        raise InputError(f"{path}: holds {arch}, not the largest network, {largest}")
    return network.state_dict()


def _classes(tensors: Mapping[str, Tensor], usual: int) -> int:
    """The number of classes of a classifier among tensors."""
    found = [
        len(t) for name, t in tensors.items() if re.search(r"(classifier|head|fc)\b.*bias$", name)
    ]
    return found[-1] if found else usual
