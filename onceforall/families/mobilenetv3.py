"""MobileNetV3 families: the paper's two at ImageNet size, and one for small images.

Facts of the published networks: Cai et al., ICLR 2020, section 4.1, and the authors'
released supernets; the small family is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from onceforall.errors import InputError
from onceforall.families.base import InvertedResidual
from onceforall.families.layers import ConvNormAct, Layer, layer, make_divisible
from onceforall.space import Space, Stage


@dataclass(frozen=True, kw_only=True, repr=False)
class MobileNetV3(InvertedResidual):
    """A MobileNetV3-like family: its last layers expand, pool, and then mix features."""

    final_expand: int
    feature_mix: int
    feature_mix_norm: bool = False  # the paper's have none; from scratch it steadies training

    def tail(self, width_in: int) -> dict[str, Layer]:
        return {
            "final_expand": layer(
                ConvNormAct, in_channels=width_in, out_channels=self.final_expand, act="h_swish"
            ),
            "pool": layer(nn.AdaptiveAvgPool2d, output_size=1),
            "feature_mix": layer(
                ConvNormAct,
                in_channels=self.final_expand,
                out_channels=self.feature_mix,
                act="h_swish",
                norm=self.feature_mix_norm,
            ),
        } | self.classifier(self.feature_mix)


def imagenet(
    name: str,
    width_mult: float,
    in_channels: int = 3,
    classes: int = 1000,
    resolutions: Sequence[int] = tuple(range(128, 225, 4)),
    dropout: float = 0.0,
) -> MobileNetV3:
    """The supernet of the paper, at width 1.0 or 1.2."""
    stem, first, *widths, final_expand, feature_mix = (
        make_divisible(w * width_mult) for w in (16, 16, 24, 40, 80, 112, 160, 960, 1280)
    )
    stages = (Stage((2, 3, 4), (3, 5, 7), (3, 4, 6), (width,)) for width in widths)
    return MobileNetV3(
        space=Space.of_stages(name, tuple(resolutions), tuple(stages)),
        stem_channels=stem,
        stem_width=first,
        strides=(2, 2, 2, 1, 2),
        acts=("relu", "relu", "h_swish", "h_swish", "h_swish"),
        ses=(False, True, False, True, True),
        final_expand=final_expand,
        feature_mix=feature_mix,
        in_channels=in_channels,
        classes=classes,
        dropout=dropout,
    )


def mini(
    name: str = "mbv3_mini",
    in_channels: int = 3,
    classes: int = 10,
    resolutions: Sequence[int] = (20, 24, 28),
    dropout: float = 0.0,
) -> MobileNetV3:
    """For images of 28 to 64 pixels: three stages, one eighth of the input's size at the end."""
    if resolutions and min(resolutions) < 8:
        raise InputError(f"{name}: resolutions: {min(resolutions)} is below 8 pixels")
    widths = (16, 24, 40)
    return MobileNetV3(
        space=Space.of_stages(
            name,
            tuple(sorted(resolutions)),
            tuple(Stage((1, 2, 3), (3, 5), (2, 3, 4), (width,)) for width in widths),
        ),
        stem_channels=8,
        stem_width=8,
        strides=(2, 1, 2),
        acts=("relu", "h_swish", "h_swish"),
        ses=(False, True, True),
        final_expand=96,
        feature_mix=128,
        feature_mix_norm=True,
        in_channels=in_channels,
        classes=classes,
        dropout=dropout,
    )
