"""The ResNet50 family: elastic depth, bottleneck ratio and width.

Facts of the published network: the authors' released supernet, a ResNet-D (He et al.,
"Bag of tricks", 2019) whose stem is elastic too. The stem is written as two stages here:
one or two 3x3 convolutions (the second has a shortcut and can be left out), then one more
and a max pooling. The authors give the first three widths, 24, 24 and 32; the two equal
ones are one choice here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from onceforall.families.base import Classifier
from onceforall.families.layers import (
    Bottleneck,
    ConvNormAct,
    ConvNormActPool,
    Layer,
    ResidualConv,
    layer,
    make_divisible,
)
from onceforall.space import Space, Stage

STEM_STAGES = 2
BASE_DEPTHS = (2, 2, 4, 2)  # of the four stages of bottlenecks, without the elastic part
EXTRA_DEPTHS = (0, 1, 2)
EXPANDS = (0.2, 0.25, 0.35)  # hidden channels of a bottleneck, of its output channels
WIDTH_MULTS = (0.65, 0.8, 1.0)
STRIDES = (1, 2, 2, 2)


@dataclass(frozen=True, kw_only=True, repr=False)
class ResNet(Classifier):
    """Two stages of plain convolutions, then stages of `Bottleneck`, then a linear classifier."""

    def stem(self) -> dict[str, Layer]:
        return {}

    def block(
        self, stage: int, position: int, kernel: int, expand: float, width_in: int, width: int
    ) -> Layer:
        if stage == 0 and position == 0:
            return layer(
                ConvNormAct,
                in_channels=width_in,
                out_channels=width,
                kernel=kernel,
                stride=2,
                act="relu",
            )
        if stage == 0:
            return layer(ResidualConv, channels=width, kernel=kernel)
        if stage == 1:
            return layer(ConvNormActPool, in_channels=width_in, out_channels=width, kernel=kernel)
        return layer(
            Bottleneck,
            in_channels=width_in,
            out_channels=width,
            kernel=kernel,
            expand=expand,
            stride=STRIDES[stage - STEM_STAGES] if position == 0 else 1,
        )

    def tail(self, width_in: int) -> dict[str, Layer]:
        return {"pool": layer(nn.AdaptiveAvgPool2d, output_size=1)} | self.classifier(width_in)


def imagenet(
    name: str,
    in_channels: int = 3,
    classes: int = 1000,
    resolutions: Sequence[int] = tuple(range(128, 225, 4)),
    dropout: float = 0.0,
) -> ResNet:
    """The published supernet."""
    stem = [make_divisible(64 * m) for m in WIDTH_MULTS]
    first = sorted({make_divisible(width // 2) for width in stem})
    stages = [Stage((1, 2), (3,), (1,), tuple(first)), Stage((1,), (3,), (1,), tuple(stem))]
    for width, base in zip((256, 512, 1024, 2048), BASE_DEPTHS, strict=True):
        stages.append(
            Stage(
                tuple(base + extra for extra in EXTRA_DEPTHS),
                (3,),
                EXPANDS,
                tuple(make_divisible(width * m) for m in WIDTH_MULTS),
            )
        )
    return ResNet(
        space=Space.of_stages(name, tuple(resolutions), tuple(stages)),
        stem_width=in_channels,
        in_channels=in_channels,
        classes=classes,
        dropout=dropout,
    )
