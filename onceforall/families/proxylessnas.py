"""The ProxylessNAS family: MobileNetV2-like blocks with wider stages, for GPUs and CPUs.

Facts of the published network: the authors' released supernet (width 1.3); its stage
widths are those of ProxylessNAS (Cai et al., ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from onceforall.families.base import InvertedResidual
from onceforall.families.layers import ConvNormAct, Layer, layer, make_divisible
from onceforall.space import Space, Stage


@dataclass(frozen=True, kw_only=True, repr=False)
class ProxylessNAS(InvertedResidual):
    """ReLU6 everywhere, no squeeze-excite; its last layers mix features and then pool."""

    feature_mix: int

    def tail(self, width_in: int) -> dict[str, Layer]:
        return {
            "feature_mix": layer(
                ConvNormAct,
                in_channels=width_in,
                out_channels=self.feature_mix,
                act="relu6",
                eps=self.eps,
            ),
            "pool": layer(nn.AdaptiveAvgPool2d, output_size=1),
        } | self.classifier(self.feature_mix)


def imagenet(
    name: str,
    width_mult: float,
    in_channels: int = 3,
    classes: int = 1000,
    resolutions: Sequence[int] = tuple(range(128, 225, 4)),
    dropout: float = 0.0,
) -> ProxylessNAS:
    """The supernet of the paper; published at width 1.3."""
    stem, first, *widths, last, feature_mix = (
        make_divisible(w * width_mult) for w in (32, 16, 24, 40, 80, 96, 192, 320, 1280)
    )
    stages = [Stage((2, 3, 4), (3, 5, 7), (3, 4, 6), (width,)) for width in widths]
    stages.append(Stage((1,), (3, 5, 7), (3, 4, 6), (last,)))
    return ProxylessNAS(
        space=Space.of_stages(name, tuple(resolutions), tuple(stages)),
        stem_channels=stem,
        stem_width=first,
        strides=(2, 2, 2, 1, 2, 1),
        acts=("relu6",) * 6,
        ses=(False,) * 6,
        stem_act="relu6",
        first_act="relu6",
        eps=1e-3,
        feature_mix=feature_mix,
        in_channels=in_channels,
        classes=classes,
        dropout=dropout,
    )
