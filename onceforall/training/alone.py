"""One static network in the place of a supernet: what `finetune` trains, by the same loop."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn

from onceforall.families import Family
from onceforall.space import Arch, Space


class Static(NamedTuple):
    """A network, and what it is."""

    network: nn.Module
    family: Family
    arch: Arch


class Alone(nn.Module):
    """A network of a family that is trained by itself: its space is one arch.

    Attributes:
        taught_by: another network, whose outputs it is to match; None: no teacher.
    """

    def __init__(
        self, network: nn.Module, family: Family, arch: Arch, taught_by: Static | None = None
    ) -> None:
        super().__init__()
        self.network, self.family, self.arch, self.taught_by = network, family, arch, taught_by
        space = family.space.at((arch.resolution,)) if family.space.scaled else family.space
        self.space: Space = space.restrict(**{n: (v,) for n, v in arch.values})

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
