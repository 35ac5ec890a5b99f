"""A family of one network: layers that belong to no supernet, such as a published config's.

With it every static network is a family and an arch, whatever it came from: it can be
built, counted, saved and read back like any other. Its space has one stage a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from onceforall.errors import InputError, choices
from onceforall.families.base import Planned
from onceforall.families.layers import (
    Bottleneck,
    ConvNormAct,
    ConvNormActPool,
    Layer,
    MBConv,
    ResidualConv,
)
from onceforall.space import Arch, Block, Space, Stage

NAME = "fixed"
KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        ConvNormAct,
        ConvNormActPool,
        ResidualConv,
        MBConv,
        Bottleneck,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Dropout,
        nn.Linear,
    )
}
BLOCKS = (MBConv, Bottleneck)  # what counts as a block of the arch; all else is stem or tail


@dataclass(frozen=True, repr=False)
class Fixed(Planned):
    """The network made of `layers`, in order, by name. `space` has it at its resolutions."""

    layers: tuple[tuple[str, Layer], ...]
    space: Space
    in_channels: int
    classes: int
    momentum: float  # of every batch norm; matters in training only

    @property
    def stem_width(self) -> int:  # type: ignore[override]
        first = self._blocks[0] if self._blocks else 0
        return int(dict(self.layers[first][1].settings)["in_channels"])

    @property
    def _blocks(self) -> list[int]:
        """Where in `layers` the blocks are."""
        return [i for i, (_, layer) in enumerate(self.layers) if layer.make in BLOCKS]

    @property
    def arch(self) -> Arch:
        """Its one network, at the last of its resolutions."""
        return self.space.largest()

    def stem(self) -> dict[str, Layer]:
        return dict(self.layers[: self._blocks[0]])

    def block(
        self, stage: int, position: int, kernel: int, expand: float, width_in: int, width: int
    ) -> Layer:
        return self.layers[self._blocks[stage]][1]

    def tail(self, width_in: int) -> dict[str, Layer]:
        return dict(self.layers[self._blocks[-1] + 1 :])

    def plan(self, arch: Arch) -> dict[str, Layer]:
        self.space.check(arch, resolution=False)
        return dict(self.layers)

    def build(self, arch: Arch) -> nn.Sequential:
        network = super().build(arch)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = self.momentum
        return network

    def with_classes(self, classes: int) -> Fixed:
        """The same layers, the last one with other outputs.

        Raises:
            InputError: the last one is not linear.
        """
        name, last = self.layers[-1]
        if last.make is not nn.Linear:
            raise InputError(
                f"layer {name}: a {last.make.__name__}, whose classes cannot be changed"
            )
        other = Layer(
            last.make, tuple(sorted({**dict(last.settings), "out_features": classes}.items()))
        )
        return replace(self, layers=(*self.layers[:-1], (name, other)), classes=classes)

    def settings(self) -> dict[str, Any]:
        layers = [[name, at.make.__name__, dict(at.settings)] for name, at in self.layers]
        return {
            "layers": layers,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "momentum": self.momentum,
            "resolutions": list(self.space.resolution),
        }


def fixed(
    layers: Sequence[Sequence[Any]],
    in_channels: int = 3,
    classes: int = 1000,
    momentum: float = 0.1,
    resolutions: Sequence[int] = (224,),
) -> Fixed:
    """The network of these layers: (name, kind, settings) each, as `settings()` gives them.

    Raises:
        InputError: names the layer that is of no known kind, or cannot be built.
    """
    made = tuple(_layer(row) for row in layers)
    blocks = [dict(x.settings) for _, x in made if x.make in BLOCKS]
    if not blocks:
        raise InputError("a network without blocks")
    stages = []
    for block in blocks:
        expand = block["expand"]
        if expand is None:
            expand = block["hidden"] / block["in_channels"]
        stages.append(Stage((1,), (block["kernel"],), (expand,), (block["out_channels"],)))
    space = Space.of_stages(NAME, tuple(resolutions), tuple(stages))
    only = [(Block(s.kernel[0], s.expand[0], s.width[0]),) for s in stages]
    Arch.of_stages(NAME, space.resolution[-1], tuple(only))  # refuses what no arch can have
    return Fixed(made, space, in_channels, classes, momentum)


def _layer(row: Sequence[Any]) -> tuple[str, Layer]:
    try:
        name, kind, settings = row
        made = Layer(KINDS[kind], tuple(sorted(settings.items())))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise InputError(
            f"layer {row!r}: is not a name, one of {choices(KINDS)}, and its settings"
        ) from None
    try:
        with torch.device("meta"):
            made.build()
    except (TypeError, ValueError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"layer {name}: cannot be built: {error}") from None
    return str(name), made
