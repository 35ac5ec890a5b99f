"""EfficientNet-Lite0 as the largest network of a family.

Facts of the network: Google's "EfficientNet-Lite" (2020), which is EfficientNet-B0 (Tan and Le,
ICML 2019, table 1) with ReLU6 and without squeeze-excite. Its layers are of the same kinds as
ProxylessNAS's; as in all networks trained in TensorFlow, strided convolutions are padded
unequally. Depth, kernel size and expand ratio are elastic here, down from the published
network; the widths, the stem and the head are its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from onceforall.families.proxylessnas import ProxylessNAS
from onceforall.space import Space, Stage

_DEPTHS = ((1, 2), (1, 2), (1, 2, 3), (1, 2, 3), (2, 3, 4), (1,))
_KERNELS = ((3,), (3, 5), (3,), (3, 5), (3, 5), (3,))
_WIDTHS = (24, 40, 80, 112, 192, 320)
_EXPANDS = (3, 4, 6)


def lite0(
    name: str = "efficientnet_lite0",
    in_channels: int = 3,
    classes: int = 1000,
    resolutions: Sequence[int] = tuple(range(160, 225, 16)),
    dropout: float = 0.0,
) -> ProxylessNAS:
    """The largest network, at 224 pixels, is EfficientNet-Lite0."""
    stages = (
        Stage(depth, kernel, _EXPANDS, (width,))
        for depth, kernel, width in zip(_DEPTHS, _KERNELS, _WIDTHS, strict=True)
    )
    return ProxylessNAS(
        space=Space.of_stages(name, tuple(resolutions), tuple(stages)),
        stem_channels=32,
        stem_width=16,
        strides=(2, 2, 2, 1, 2, 1),
        acts=("relu6",) * 6,
        ses=(False,) * 6,
        stem_act="relu6",
        first_act="relu6",
        eps=1e-3,
        same_padding=True,
        feature_mix=1280,
        in_channels=in_channels,
        classes=classes,
        dropout=dropout,
    )
