"""Mixup and cutmix: images of a batch mixed with others of it, and their labels likewise.

Knows a batch; nothing of networks or losses (which take soft labels, (N, classes)).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall.data.batches import put


def mix(
    images: Tensor,  # (N, C, H, W)
    labels: Tensor,  # (N,) classes, or (N, classes) shares
    classes: int,
    generator: torch.Generator,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Images, each mixed with another one of the batch, and soft labels, (N, classes).

    Mixup (Zhang et al., 2018, arXiv:1710.09412) adds `share` of an image to 1 - share of another;
    cutmix (Yun et al., 2019, arXiv:1905.04899) puts a rectangle of 1 - share of the area of the
    other into it. The share is drawn from Beta(alpha, alpha), one for the batch. Where both are
    asked for, either is done to every other batch, at random; where none is, the labels alone
    become shares.

    Args:
        generator: on the CPU; the same numbers are drawn for every device.
        mixup: its alpha; 0: none.
        cutmix: likewise.
    """
    if mixup < 0 or cutmix < 0:
        raise ValueError(f"mix: mixup {mixup}, cutmix {cutmix}; an alpha is 0 or above")
    soft = labels if labels.dim() == 2 else F.one_hot(labels.long(), classes)
    soft = soft.to(torch.float32)
    if not (mixup or cutmix):
        return images, soft
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    cut = bool(cutmix) and (not mixup or numbers.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = float(numbers.beta(alpha, alpha))
    partner = put(torch.from_numpy(numbers.permutation(len(images))), images.device)
    if cut:
        images, share = _cut(images, images[partner], share, numbers)
    else:
        images = share * images + (1 - share) * images[partner]
    return images, share * soft + (1 - share) * soft[partner.to(soft.device)]


def _cut(
    images: Tensor, others: Tensor, share: float, numbers: np.random.Generator
) -> tuple[Tensor, float]:
    """With a rectangle of the others, and the share that is left: of a rectangle whose centre is
    anywhere, the part outside the image is lost."""
    height, width = images.shape[-2:]
    side = (1 - share) ** 0.5
    h, w = side * height, side * width
    y, x = numbers.uniform(0, height), numbers.uniform(0, width)
    top, bottom = round(max(0, y - h / 2)), round(min(height, y + h / 2))
    left, right = round(max(0, x - w / 2)), round(min(width, x + w / 2))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
