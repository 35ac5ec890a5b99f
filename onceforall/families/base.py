"""What a family of networks is: its space, and the network of any of its archs.

`Family` is the contract; `Planned` the families that are written as layers by place. A
family knows nothing above `layers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from onceforall.errors import InputError
from onceforall.families import lending, survey
from onceforall.families.layers import ConvNormAct, Layer, MBConv, init_weights, layer
from onceforall.space import Arch, Space

# Tensors' methods that change values in place and no shapes.
FILLING = frozenset(
    ("normal_", "uniform_", "fill_", "zero_", "erfinv_", "mul_", "add_", "clamp_", "copy_")
)


class Family(ABC):
    """Networks that one supernet can hold: a space, and an ordinary static network for each of
    its archs. Nothing else is needed.

    Attributes:
        space: its sub-networks.
        in_channels: channels of the input image.
        classes: outputs of the classifier.
        rules: how tensors are lent where `lending`'s table does not say it, by parameter's name.
    """

    space: Space
    in_channels: int
    classes: int
    rules: lending.Rules = MappingProxyType({})

    @abstractmethod
    def build(self, arch: Arch) -> nn.Module:
        """An ordinary network with fresh weights; (N, in_channels, R, R) -> (N, classes)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `families.get(name, **settings)` needs to make this family again: plain data."""

    @property
    def name(self) -> str:
        return self.space.family

    def __repr__(self) -> str:
        own = f"in_channels={self.in_channels}, classes={self.classes}"
        return f"{type(self).__name__}({self.space!r}, {own})"

    def blank(self, arch: Arch) -> nn.Module:
        """The network of an arch on the meta device: shapes without weights."""
        with torch.device("meta"), _Unfilled():
            return self.build(arch)

    def fresh(self, arch: Arch, generator: torch.Generator | None = None) -> nn.Module:
        """The network of an arch as training starts with it: by default as `build` makes it, from
        a seed drawn by the generator."""
        if torch.get_default_device().type == "meta":
            return self.blank(arch)
        if generator is None:
            return self.build(arch)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.build(arch)

    @cached_property
    def kernels(self) -> survey.Kernels:
        """The kernel sizes of each convolution that has several, by its weight's name.

        Raises:
            InputError: the family's networks do not fit into one supernet; says why.
        """
        return survey.survey(self)

    def transform_key(self, weight: str) -> str:
        """What the transforms of a convolution's kernel are called; `weight` is its weight's name
        in the largest network."""
        return weight.removesuffix(".weight").replace(".", "/")


class _Unfilled(TorchFunctionMode):
    """Leaves out what only fills tensors that have no values: most of the time that it takes to
    build some networks on the meta device goes into initialising them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensor = args[0] if args else None
        if getattr(func, "__name__", "") in FILLING and getattr(tensor, "is_meta", False):
            return tensor
        return func(*args, **(kwargs or {}))


class Planned(Family):
    """A family written as layers by place: those before the elastic stages, one block of a stage,
    and those after them. Plans, networks and exact tables of costs all derive from these.

    Attributes:
        stem_width: channels that enter the first elastic stage.
    """

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

    def fresh(self, arch: Arch, generator: torch.Generator | None = None) -> nn.Module:
        network = self.build(arch)
        init_weights(network, generator)
        return network

    @cached_property
    def kernels(self) -> survey.Kernels:
        found: survey.Kernels = {}
        for s, stage in enumerate(self.space.stages):
            for b in range(stage.blocks if len(stage.kernel) > 1 else 0):
                width = stage.width[-1]
                at = (stage.expand[-1], width, width)
                with torch.device("meta"):
                    large, small = (self.block(s, b, stage.kernel[i], *at).build() for i in (-1, 0))
                sizes = dict(small.named_parameters())
                for name, weight in large.named_parameters():
                    if weight.shape[2:] != sizes[name].shape[2:]:
                        found[f"{block_name(s, b)}.{name}"] = stage.kernel
        return found

    def transform_key(self, weight: str) -> str:
        """The name of the block, which has one such kernel, as in the first checkpoints."""
        return weight.partition(".")[0]


@dataclass(frozen=True, kw_only=True, repr=False)
class Classifier(Planned):
    """What all image classifiers have in common: their input, their classes, their last layers."""

    space: Space
    stem_width: int
    in_channels: int = 3
    classes: int = 1000
    dropout: float = 0.0  # before the classifier, in training

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"in_channels": self.in_channels, "classes": self.classes}
        if self.dropout:
            settings["dropout"] = self.dropout
        return settings | {"resolutions": list(self.space.resolution)}

    def classifier(self, features: int) -> dict[str, Layer]:
        """The layers from (N, features, 1, 1) to (N, classes)."""
        layers = {"flatten": layer(nn.Flatten)}
        if self.dropout:
            layers["dropout"] = layer(nn.Dropout, p=self.dropout)
        layers["classifier"] = layer(nn.Linear, in_features=features, out_features=self.classes)
        return layers


@dataclass(frozen=True, kw_only=True, repr=False)
class InvertedResidual(Classifier):
    """Networks of `MBConv`: a stem, a fixed first block, elastic stages.

    `strides`, `acts` and `ses` have one entry a stage.
    """

    stem_channels: int
    strides: tuple[int, ...]
    acts: tuple[str, ...]
    ses: tuple[bool, ...]
    stem_act: str = "h_swish"
    first_act: str = "relu"
    eps: float = 1e-5  # of every batch norm
    same_padding: bool = False  # of strided convolutions, as networks trained in TensorFlow have it

    def stem(self) -> dict[str, Layer]:
        return {
            "stem": layer(
                ConvNormAct,
                in_channels=self.in_channels,
                out_channels=self.stem_channels,
                kernel=3,
                stride=2,
                act=self.stem_act,
                eps=self.eps,
                same_padding=self.same_padding,
            ),
            "first_block": layer(
                MBConv,
                in_channels=self.stem_channels,
                out_channels=self.stem_width,
                kernel=3,
                expand=1,
                act=self.first_act,
                eps=self.eps,
            ),
        }

    def block(
        self, stage: int, position: int, kernel: int, expand: float, width_in: int, width: int
    ) -> Layer:
        return layer(
            MBConv,
            in_channels=width_in,
            out_channels=width,
            kernel=kernel,
            expand=expand,
            stride=self.strides[stage] if position == 0 else 1,
            act=self.acts[stage],
            se=self.ses[stage],
            eps=self.eps,
            same_padding=self.same_padding,
        )


def block_name(stage: int, position: int) -> str:
    """The name of a block in plans and networks, counted from 1."""
    return f"stage{stage + 1}_block{position + 1}"


def planned(family: Family) -> Planned:
    """A family that is written as layers by place, for what needs them.

    Raises:
        InputError: it is given by `build` alone.
    """
    if not isinstance(family, Planned):
        raise InputError(
            f"{family.name}: is not written as layers by place, which the files of other projects"
            " name; they hold networks of the families that come with this package"
        )
    return family
