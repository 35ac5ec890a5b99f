"""What a person types for a network, as network, weights and facts: `resolve`, the only place.

A file or folder of anybody's, an id of the zoo, `FAMILY:largest`, or an arch as text. Knows what
others know of each: `networks` of files, `zoo` of published networks, `families` of names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from onceforall import families
from onceforall.errors import InputError, suggestion
from onceforall.files import exists
from onceforall.interop import networks, zoo
from onceforall.interop.net_config import StaticNetwork
from onceforall.interop.networks import is_checkpoint
from onceforall.interop.tensors import is_torch_file
from onceforall.interop.weight_files import read_weights
from onceforall.space import Arch
from onceforall.supernet import checkpoint
from onceforall.supernet.weights import family_of

EXPORTED = (".onnx", ".pt2")
_NAMED = re.compile(r"(?P<family>.+):((?P<which>largest|smallest)|random:(?P<seed>\d{1,18}))")


@dataclass(frozen=True)
class Resolved:
    """A network as a person named it.

    Attributes:
        typed: the name.
        network: its family, with its classes and channels, and its arch.
        weights: the file of its weights: the one given, or its own; None: neither.
        facts: what a checkpoint of ours, the network's own or that of its weights, says of it.
        assumed: nothing that was named says the classes and channels; they are the family's own.
    """

    typed: str
    network: StaticNetwork
    weights: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    assumed: bool = False

    @property
    def family(self) -> families.Family:
        return self.network.family

    @property
    def arch(self) -> Arch:
        return self.network.arch

    @property
    def data(self) -> dict[str, Any]:
        """What the checkpoint says of the images that it was trained on; nothing of other files."""
        return dict(self.facts.get("data", {}))

    def module(self) -> nn.Module:
        """The network with its weights; those of a published network are downloaded.

        Raises:
            InputError: there are none, or they do not fit.
        """
        path, entry = self.weights, zoo.find(self.typed)
        if path is None and entry is not None and not exists(Path(self.typed)):
            path = zoo.fetch(entry)
        if path is None:
            raise InputError(f"--weights: {self.typed} has no weights of its own; name their file")
        return read_weights(path, *self.network)


def resolve(
    net: str,
    weights: Path | None = None,
    resolution: int | None = None,
    family: str | None = None,
) -> Resolved:
    """The network that a person named.

    Args:
        weights: the file of its weights, where they are not its own; or the folder of a run, whose
            supernet has them.
        resolution: in place of its own, pixels.
        family: of an arch dictionary that does not say it.

    Raises:
        InputError: it is nothing that is known; names what it could be.
    """
    path, beside, assumed = Path(net), None, False
    if weights is not None and (weights / "settings.json").is_file():
        weights /= "supernet.safetensors"
    if exists(path):
        found, assumed, beside = _of_path(path, resolution, family)
    else:
        entry = zoo.find(net)
        if entry is not None:
            found = zoo.network(entry)
        elif _is_arch(net):
            found, assumed = networks.from_text(net), True
        elif ":" in net:
            found = _of_family(net, weights)
        else:
            raise InputError(
                f"{net!r} is no file, no published network (`onceforall zoo`) and not of the form"
                " FAMILY:largest, FAMILY:smallest or FAMILY:random:SEED" + suggestion(net, _names())
            )
        if resolution is not None:
            found = StaticNetwork(found.family, found.arch.at(resolution))
    whose = beside if beside is not None and is_checkpoint(beside) else weights
    facts = _facts(whose)
    if weights is not None:
        found, assumed = _of_weights(found, weights), assumed and not is_checkpoint(weights)
    return Resolved(net, found, weights or beside, facts, assumed)


def _of_path(
    path: Path, resolution: int | None, family: str | None
) -> tuple[StaticNetwork, bool, Path | None]:
    """The network of a file or folder, whether its classes are assumed, and its own weights."""
    if path.suffix in EXPORTED and path.is_file() and not is_checkpoint(path):
        raise InputError(
            f"{path}: an exported file; name what it was exported from (a checkpoint, or an arch)"
        )
    config = path.parent / "net.config"
    if is_torch_file(path) and config.is_file():
        return *_described(config, resolution, family), path
    found, assumed = _described(path, resolution, family)
    init = path / "init"
    if path.is_dir():
        return found, assumed, init if init.is_file() else None
    return found, assumed, path if is_checkpoint(path) else None


def _described(
    path: Path, resolution: int | None, family: str | None
) -> tuple[StaticNetwork, bool]:
    found, whole = networks.described(path, resolution, family)
    return found, not whole


def _of_family(net: str, weights: Path | None) -> StaticNetwork:
    """Of the space of the weights, where they are a checkpoint of that family."""
    import numpy as np

    asked = _NAMED.fullmatch(net)
    if asked is None:
        if ".py:" not in net:
            families.get(net.partition(":")[0])  # says so, if there is no such family
        raise InputError(f"{net!r}: after the family comes largest, smallest or random:SEED")
    family, facts = families.get(asked["family"]), _facts(weights)
    if weights is not None and facts.get("family") == family.name:
        family = family_of(facts, weights)
    if asked["seed"] is not None:
        arch = family.space.random(np.random.default_rng(int(asked["seed"])))
    else:
        arch = getattr(family.space, asked["which"])()
    return StaticNetwork(family, arch)


def _names() -> list[str]:
    """Of networks, for a person who mistyped one."""
    published = [name for entry in zoo.entries() for name in (entry.id, entry.name)]
    return [f"{family}:largest" for family in families.names()] + published


def _is_arch(net: str) -> bool:
    """Whether a text looks like an arch: `family@28/16:3x4,...`, `family@28/depth=9,...`."""
    return _NAMED.fullmatch(net) is None and "@" in net and (":" in net or "=" in net)


def _facts(path: Path | None) -> dict[str, Any]:
    """Of a checkpoint of ours; nothing of other files."""
    if path is None or not path.is_file() or not is_checkpoint(path):
        return {}
    return checkpoint.describe(path)


def _of_weights(network: StaticNetwork, path: Path) -> StaticNetwork:
    """The network as one of the family that a checkpoint of ours is of: its classes and channels
    are those of the weights, not a family's usual ones."""
    facts = _facts(path)
    if facts.get("family") != network.family.name:
        return network  # refused by what reads the weights
    return StaticNetwork(family_of(facts, path), network.arch)
