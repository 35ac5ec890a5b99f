"""One static network in the place of a supernet: what `finetune` trains, by the same loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from onceforall.families import Family
from onceforall.space import Arch, Space
from onceforall.supernet import save_network


class Alone(nn.Module):
    """A network of a family that is trained by itself: its space is one arch."""

    def __init__(self, network: nn.Module, family: Family, arch: Arch) -> None:
        super().__init__()
        self.network, self.family, self.arch = network, family, arch
        self.space: Space = family.space.restrict(**{n: (v,) for n, v in arch.values})

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """(N, C, H, W) -> outputs."""
        found: Tensor = self.network(x)
        return found

    def skeleton(self, arch: Arch) -> nn.Module:
        """The network that runs."""
        return self.network

    def borrowed(self, arch: Arch) -> list[nn.Parameter]:
        """The parameters that get gradients from it."""
        return list(self.network.parameters())

    def extract(self, arch: Arch) -> nn.Module:
        return copy.deepcopy(self.network)

    def sort_channels(self, **formed: int) -> None:
        """It has no smaller networks."""

    def save(self, path: Path, facts: Mapping[str, Any], *, overwrite: bool = False) -> None:
        save_network(path, self.network, self.family, self.arch, facts, overwrite=overwrite)
