"""The ordinary blocks that networks are made of, and `Layer`, a block as a value.

Every module here is static: its sizes are fixed when it is built, and none knows
of other sub-networks. What elastic training needs to know of a block, which
channels are interchangeable, it tells in `channel_groups`. This file knows
nothing of archs, spaces or supernets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.families import fused

M = TypeVar("M", bound=nn.Module)

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
        """The block with fresh weights; on the meta device, which has none to initialise, a copy
        of one that was built before: making modules anew takes many times as long."""
        if torch.get_default_device().type == "meta":
            return owning(_blank(self))
        return self.make(**dict(self.settings))


@lru_cache(maxsize=4096)
def _blank(layer: Layer) -> nn.Module:
    """A layer without weights, shared by all who copy it: nobody else may have it."""
    with torch.inference_mode(False):  # its tensors outlive whatever mode the first caller is in
        return layer.make(**dict(layer.settings))


def owning(module: M, tensors: Mapping[str, Tensor] | None = None, prefix: str = "") -> M:
    """A copy of a module that has these tensors (its own where None) as its parameters and
    buffers. Tensors are not copied; everything else is the copy's own."""
    own = type(module).__new__(type(module))
    for name, value in module.__dict__.items():  # no hook or child is shared with the original
        own.__dict__[name] = value.copy() if isinstance(value, dict | set) else value
    for name, parameter in module._parameters.items():
        if parameter is not None:
            tensor = parameter if tensors is None else tensors[prefix + name]
            own._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            own._buffers[name] = buffer.detach() if tensors is None else tensors[prefix + name]
    for name, child in module._modules.items():
        if child is not None:
            own._modules[name] = owning(child, tensors, f"{prefix}{name}.")
    return own


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
    `elastic` channels are those whose number is the block's choice: see `hidden_channels`.
    """

    importance: tuple[str, int]
    members: tuple[tuple[str, int], ...]
    elastic: bool = True


@runtime_checkable
class Elastic(Protocol):
    """A block whose hidden channels are a choice, and can be sorted by importance."""

    def hidden_channels(self, expand: float) -> int:
        """How many the block has at an expand ratio."""

    def channel_groups(self) -> list[ChannelGroup]:
        """The channels that can change places, in the order to sort them."""


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: (N, in, H, W) -> (N, out, H/stride, W/stride),
    rounded up.

    Where the padding is odd, as under stride 2 at even sizes, the last row and column get the
    larger half, so that filters lie one pixel further than under PyTorch's equal halves. Weights
    trained so lose accuracy with the other.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, self.pads(input)))

    def pads(self, input: Tensor) -> list[int]:
        """Left, right, top and bottom."""
        pads: list[int] = []
        for i in (1, 0):  # F.pad takes the last dimension first
            size, stride, kernel = input.shape[2 + i], self.stride[i], self.kernel_size[i]
            pad = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [pad // 2, pad - pad // 2]
        return pads


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, activation; (N, in, H, W) -> (N, out, H/stride, W/stride).

    `same_padding` pads a strided convolution as `SameConv2d`; without stride the two are one.
    """

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
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d
        if same_padding and stride > 1:
            self.conv = SameConv2d(in_channels, out_channels, kernel, stride, groups)
        else:
            self.conv = nn.Conv2d(
                in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
            )
        if norm:
            self.norm = nn.BatchNorm2d(out_channels, eps=eps, momentum=0.1)
        if act != "none":
            self.act = ACTIVATIONS[act]()

    def forward(self, input: Tensor) -> Tensor:
        return self.with_shortcut(input, None)

    def with_shortcut(self, input: Tensor, shortcut: Tensor | None) -> Tensor:
        """What this computes of its input, and the shortcut added."""
        norm, act = self._modules.get("norm"), self._modules.get("act")
        names, code = tuple(self._modules), fused.code(act)
        if (
            names[:2] == ("conv", "norm")
            and names[2:] == (("act",) if act is not None else ())
            and code is not None
            and fused.usable(input, self, norm, act)
        ):
            y = self.conv(input)
            if fused.rows(y) > 1:  # a batch norm says what is wrong with a single value
                return fused.norm_act(y, self.norm, code, shortcut)
        y = super().forward(input)
        return y if shortcut is None else shortcut + y


class ConvNormActPool(ConvNormAct):
    """`ConvNormAct` and a 3x3 max pooling of stride 2: the end of a ResNet's stem."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        act: str = "relu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, act=act, eps=eps)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, input: Tensor) -> Tensor:
        return nn.Sequential.forward(self, input)


class ResidualConv(nn.Module):
    """`ConvNormAct` beside a shortcut, all of (N, C, H, W)."""

    def __init__(self, channels: int, kernel: int, act: str = "relu", eps: float = 1e-5) -> None:
        super().__init__()
        self.residual = ConvNormAct(channels, channels, kernel, act=act, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + x


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

    Hidden channels are `make_divisible(round(in * expand))`, or `hidden` where it is given;
    the shortcut is there where input and output have one shape, unless `shortcut=False`.
    With `expand=1` nothing is expanded; `expand=None` leaves the number to `hidden`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        expand: float | None,
        stride: int = 1,
        act: str = "relu",
        se: bool = False,
        shortcut: bool = True,
        eps: float = 1e-5,
        hidden: int | None = None,
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        if hidden is None:
            hidden = self.hidden_channels(1 if expand is None else expand)
        self.shortcut = shortcut and stride == 1 and in_channels == out_channels
        self.expand: ConvNormAct | None = None
        if expand != 1:
            self.expand = ConvNormAct(in_channels, hidden, act=act, eps=eps)
        else:
            hidden = in_channels
        self.depthwise = ConvNormAct(
            hidden, hidden, kernel, stride, hidden, act, eps=eps, same_padding=same_padding
        )
        self.se = SqueezeExcite(hidden, make_divisible(hidden // 4)) if se else None
        self.project = ConvNormAct(hidden, out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y = self._at_once(x)
        if y is None:
            y = self.expand(x) if self.expand is not None else x
            y = self.depthwise(y)
            if self.se is not None:
                y = self.se(y)
        return self.project.with_shortcut(y, x if self.shortcut else None)

    def _at_once(self, x: Tensor) -> Tensor | None:
        """What enters `project`, by the fused operation; None: it cannot stand in for the modules
        here."""
        expand, depthwise, se = self.expand, self.depthwise, self.se
        parts = [self, se, *depthwise.children()]
        parts += [] if expand is None else [expand, expand.norm, getattr(expand, "act", None)]
        parts += [] if se is None else se.children()
        act = fused.code(getattr(depthwise, "act", None))
        same = expand is None or fused.code(getattr(expand, "act", None)) == act
        conv = depthwise.conv
        if act is None or not same or not fused.covers(conv) or not fused.usable(x, *parts):
            return None
        if fused.rows(x[:, :, :: conv.stride[0], :: conv.stride[0]]) < 2:
            return None  # a batch norm says what is wrong with a single value
        y = x if expand is None else expand.conv(x)
        if isinstance(conv, SameConv2d):
            left, right, top, bottom = conv.pads(y)
        else:
            left = right = top = bottom = conv.kernel_size[0] // 2
        gate = None if se is None else fused.Gate(se.reduce, se.expand)
        before = None if expand is None else expand.norm
        padding = (top, bottom, left, right)
        return fused.norm_act_between(y, before, conv, depthwise.norm, act, gate, padding)

    def hidden_channels(self, expand: float) -> int:
        """How many the block has at an expand ratio."""
        return make_divisible(round(self.in_channels * expand))

    def channel_groups(self) -> list[ChannelGroup]:
        """The hidden channels, then those inside the squeeze-excite; in the order to sort them."""
        if self.expand is None:
            return []  # the hidden channels are the input's: not this block's to move
        hidden = [*_outputs("expand"), *_outputs("depthwise")]
        hidden += [("project.conv.weight", 1)]
        groups = [ChannelGroup(("project.conv.weight", 1), tuple(hidden))]
        if self.se is not None:
            hidden += [("se.reduce.weight", 1), ("se.expand.weight", 0), ("se.expand.bias", 0)]
            groups[0] = ChannelGroup(("project.conv.weight", 1), tuple(hidden))
            inner = (("se.reduce.weight", 0), ("se.reduce.bias", 0), ("se.expand.weight", 1))
            groups.append(ChannelGroup(("se.expand.weight", 1), inner, elastic=False))
        return groups


class Bottleneck(nn.Module):
    """ResNet-D's bottleneck block: 1x1, KxK (strided), 1x1.

    Hidden channels are `make_divisible(round(out * expand))`, or `hidden` where it is given. The
    shortcut is the input where shapes agree, else an average pooling and a 1x1 convolution
    (He et al., "Bag of tricks", 2019, ResNet-D); with `pooled=False` a strided convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        expand: float,
        stride: int = 1,
        act: str = "relu",
        pooled: bool = True,
        eps: float = 1e-5,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        hidden = self.hidden_channels(expand) if hidden is None else hidden
        self.conv1 = ConvNormAct(in_channels, hidden, act=act, eps=eps)
        self.conv2 = ConvNormAct(hidden, hidden, kernel, stride, act=act, eps=eps)
        self.conv3 = ConvNormAct(hidden, out_channels, eps=eps)
        self.pool: nn.Module | None = None
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            if pooled and stride != 1:
                self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
            left = 1 if pooled else stride
            self.downsample = ConvNormAct(in_channels, out_channels, stride=left, eps=eps)
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.pool(x) if self.pool is not None else x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.act(self.conv3(self.conv2(self.conv1(x))) + shortcut)

    def hidden_channels(self, expand: float) -> int:
        """How many the block has at an expand ratio."""
        return make_divisible(round(self.out_channels * expand))

    def channel_groups(self) -> list[ChannelGroup]:
        """The channels into conv3, then those into conv2; in the order to sort them."""
        groups = []
        for maker, reader in (("conv2", "conv3"), ("conv1", "conv2")):
            read = (f"{reader}.conv.weight", 1)
            groups.append(ChannelGroup(read, (*_outputs(maker), read)))
        return groups


def _outputs(name: str) -> tuple[tuple[str, int], ...]:
    """The parameters of a `ConvNormAct` that lie along its output channels."""
    norm = ("weight", "bias", "running_mean", "running_var")
    return ((f"{name}.conv.weight", 0), *((f"{name}.norm.{n}", 0) for n in norm))


def init_weights(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """He's initialisation by fan-out, divided by groups (the authors' code does not divide, which
    starts depthwise kernels near zero; batch norm makes the two equal in what they compute).
    On the meta device there is nothing to initialise."""
    if any(parameter.is_meta for parameter in network.parameters()):
        return
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
            reach = module.in_features**-0.5
            nn.init.uniform_(module.weight, -reach, reach, generator=generator)
            nn.init.zeros_(module.bias)
