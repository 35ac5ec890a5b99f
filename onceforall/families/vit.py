"""Vision transformers: timm's `VisionTransformer`, elastic in heads, depth, MLP ratio and size.

Width goes with the number of heads, which are of one size: HydraViT's space (Haberer et al.,
NeurIPS 2024). With 3, 6 or 12 heads of 64 at full depth and MLP ratio these are DeiT-tiny, -small
and -base (Touvron et al., ICML 2021), parameter by parameter. HydraViT chooses heads alone; here
depth, the MLP ratio of each block and the image's size are choices, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from onceforall.errors import InputError, MissingExtraError
from onceforall.families.elastic import Elastic, elastic, per_block


@dataclass(frozen=True)
class Build:
    """Builds timm's network; `mlp` has one ratio a block."""

    patch: int  # height and width of a patch, pixels
    head_size: int  # channels of a head
    dropout: float  # before the classifier, in training

    def __call__(
        self,
        *,
        heads: int,
        depth: int,
        mlp: Sequence[float],
        resolution: int,
        in_channels: int,
        classes: int,
    ) -> nn.Module:
        try:
            from timm.models.vision_transformer import Block, VisionTransformer
        except ModuleNotFoundError:
            raise MissingExtraError("timm", "timm", "a vision transformer") from None
        ratios = iter(mlp)
        blank = torch.get_default_device().type == "meta"  # where to initialise takes most time

        def block(**settings: Any) -> nn.Module:  # timm has one ratio for all
            return Block(**{**settings, "mlp_ratio": next(ratios)})

        return VisionTransformer(
            img_size=resolution,
            patch_size=self.patch,
            in_chans=in_channels,
            num_classes=classes,
            embed_dim=heads * self.head_size,
            depth=depth,
            num_heads=heads,
            drop_rate=self.dropout,
            weight_init="skip" if blank else "",
            block_fn=block,  # type: ignore[arg-type]
        )


def vit(
    name: str = "vit",
    in_channels: int = 3,
    classes: int = 1000,
    resolutions: Sequence[int] = (160, 176, 192, 208, 224),
    heads: Sequence[int] = tuple(range(3, 13)),
    depth: Sequence[int] = (8, 9, 10, 11, 12),
    mlp: Sequence[float] = (2, 3, 4),
    patch: int = 16,
    head_size: int = 64,
    dropout: float = 0.0,
) -> Elastic:
    """HydraViT's space with more choices; at 224 pixels DeiT-tiny, -small and -base are in it.

    Args:
        resolutions: of the image, pixels; multiples of `patch`.
        mlp: hidden features of a block's MLP, as multiples of the width.
    """
    check_patches(name, resolutions, patch)
    family = elastic(
        Build(patch, head_size, dropout),
        name=name,
        in_channels=in_channels,
        classes=classes,
        resolution=tuple(resolutions),
        heads=tuple(heads),
        depth=tuple(depth),
        mlp=per_block(tuple(mlp), max(depth)),
    )
    chosen = {"heads": list(heads), "depth": list(depth), "mlp": list(mlp)}
    sizes = {"patch": patch, "head_size": head_size, "dropout": dropout}
    return family.with_origin(chosen | sizes)


def check_patches(name: str, resolutions: Sequence[int], patch: int) -> None:
    """Refuses images that are not whole patches."""
    for size in resolutions:
        if size % patch:
            raise InputError(
                f"{name}: resolutions: {size} is not a multiple of the patch's {patch}"
            )


def mini(
    name: str = "vit_mini",
    in_channels: int = 3,
    classes: int = 10,
    resolutions: Sequence[int] = (20, 24, 28),
    heads: Sequence[int] = (2, 3, 4),
    depth: Sequence[int] = (2, 3, 4),
    mlp: Sequence[float] = (2, 3, 4),
    patch: int = 4,
    head_size: int = 16,
    dropout: float = 0.0,
) -> Elastic:
    """For images of 28 to 64 pixels."""
    return vit(
        name, in_channels, classes, resolutions, heads, depth, mlp, patch, head_size, dropout
    )
