"""What a family of networks is: its space, and the layers of any of its archs.

A family writes down three things, the layers before the elastic stages, one block
of a stage, and the layers after them; plans, networks, cost tables and the
supernet's layout all derive from these. A family knows nothing above `layers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

from torch import nn

from onceforall.layers import Layer
from onceforall.space import Arch, Space


class Family(ABC):
    """Networks that one supernet can hold.

    Attributes:
        space: its sub-networks.
        in_channels: channels of the input image.
        classes: outputs of the classifier.
        stem_width: channels that enter the first elastic stage.
    """

    space: Space
    in_channels: int
    classes: int
    stem_width: int

    @abstractmethod
    def stem(self) -> dict[str, Layer]:
        """Layers before the elastic stages, in order, by name."""

    @abstractmethod
    def block(
        self, stage: int, position: int, kernel: int, expand: float, width_in: int, width: int
    ) -> Layer:
        """Block number `position` of a stage (both counted from 0)."""

    @abstractmethod
    def tail(self, width_in: int) -> dict[str, Layer]:
        """Layers after the elastic stages, in order, by name; they give (N, classes)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `families.get(name, **settings)` needs to make this family again: plain data."""

    @property
    def name(self) -> str:
        return self.space.family

    def plan(self, arch: Arch) -> dict[str, Layer]:
        """All layers of an arch, in order, by name. The same name is the same place in every arch.

        Raises:
            InputError: where the arch is not of this family. Any resolution is allowed: the
                networks are fully convolutional up to the pooling.
        """
        self.space.check(arch, resolution=False)
        layers = self.stem()
        width = self.stem_width
        for s, stage in enumerate(arch.stages):
            for b, block in enumerate(stage):
                layers[block_name(s, b)] = self.block(
                    s, b, block.kernel, block.expand, width, block.width
                )
                width = block.width
        return layers | self.tail(width)

    def build(self, arch: Arch) -> nn.Sequential:
        """An ordinary network with fresh weights; (N, in_channels, R, R) -> (N, classes)."""
        return nn.Sequential(OrderedDict((n, x.build()) for n, x in self.plan(arch).items()))


def block_name(stage: int, position: int) -> str:
    """The name of a block in plans and networks, counted from 1."""
    return f"stage{stage + 1}_block{position + 1}"
