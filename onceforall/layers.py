"""The ordinary blocks that networks are made of, and `Layer`, a block as a value.

Every module here is static: its sizes are fixed when it is built, and none knows
of other sub-networks. What elastic training needs to know of a block, which
channels are interchangeable, it tells in `channel_groups`. This file knows
nothing of archs, spaces or supernets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "h_swish": lambda: nn.Hardswish(inplace=True),
}


@dataclass(frozen=True)
class Layer:
    """A block before it is built: hashable, so equal layers can share one module or one cost."""

    make: Callable[..., nn.Module]
    settings: tuple[tuple[str, Any], ...]

    def build(self) -> nn.Module:
        return self.make(**dict(self.settings))


def layer(make: Callable[..., nn.Module], **settings: Any) -> Layer:
    """`layer(MBConv, in_channels=16, ...)`: the block that `MBConv(in_channels=16, ...)` builds."""
    return Layer(make, tuple(settings.items()))


def make_divisible(value: float, divisor: int = 8) -> int:
    """`value` rounded to a multiple of `divisor`, not below it and not more than 10% down.

    The channel rule of the published networks (MobileNet's reference code).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class ChannelGroup(NamedTuple):
    """Channels of a block that can change places without changing what it computes.

    Each entry is a parameter's name and the dimension along which the channels lie;
    `importance` is the weight whose L1 norm per channel says how much each matters.
    """

    importance: tuple[str, int]
    members: tuple[tuple[str, int], ...]


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, activation; (N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: str = "none",
        norm: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        if norm:
            self.norm = nn.BatchNorm2d(out_channels, eps=eps, momentum=0.1)
        if act != "none":
            self.act = ACTIVATIONS[act]()


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, mid_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, mid_channels, 1)
        self.act = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(mid_channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise, squeeze-excite, project (MobileNetV3).

    Hidden channels are `make_divisible(round(in * expand))`; the shortcut is there where
    input and output have one shape, unless `shortcut=False`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        expand: float,
        stride: int = 1,
        act: str = "relu",
        se: bool = False,
        shortcut: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden = make_divisible(round(in_channels * expand))
        self.shortcut = shortcut and stride == 1 and in_channels == out_channels
        self.expand: nn.Module | None = None
        if expand != 1:
            self.expand = ConvNormAct(in_channels, hidden, act=act, eps=eps)
        else:
            hidden = in_channels
        self.depthwise = ConvNormAct(hidden, hidden, kernel, stride, hidden, act, eps=eps)
        self.se = SqueezeExcite(hidden, make_divisible(hidden // 4)) if se else None
        self.project = ConvNormAct(hidden, out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x) if self.expand is not None else x
        y = self.depthwise(y)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        return x + y if self.shortcut else y

    def channel_groups(self) -> list[ChannelGroup]:
        """The hidden channels, then those inside the squeeze-excite; in the order to sort them."""
        if self.expand is None:
            return []  # the hidden channels are the input's: not this block's to move
        norm = ("weight", "bias", "running_mean", "running_var")
        hidden = [("expand.conv.weight", 0), *((f"expand.norm.{n}", 0) for n in norm)]
        hidden += [("depthwise.conv.weight", 0), *((f"depthwise.norm.{n}", 0) for n in norm)]
        hidden += [("project.conv.weight", 1)]
        groups = [ChannelGroup(("project.conv.weight", 1), tuple(hidden))]
        if self.se is not None:
            hidden += [("se.reduce.weight", 1), ("se.expand.weight", 0), ("se.expand.bias", 0)]
            groups[0] = ChannelGroup(("project.conv.weight", 1), tuple(hidden))
            inner = (("se.reduce.weight", 0), ("se.reduce.bias", 0), ("se.expand.weight", 1))
            groups.append(ChannelGroup(("se.expand.weight", 1), inner))
        return groups


def init_weights(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """He's initialisation by fan-out, divided by groups (the authors' code does not divide, which
    starts depthwise kernels near zero; batch norm makes the two equal in what they compute)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            k = module.kernel_size[0] * module.kernel_size[1]
            fan_out = k * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
            nn.init.zeros_(module.bias)
