"""Changes of pixels, each image of a batch by an amount of its own; and RandAugment of them.

Values are those of torchvision's functions of the same names, on floating-point images from 0 to
1 (`tests/test_augmentation.py`). Knows (N, C, H, W) tensors and no settings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall.data.batches import put

ROUNDS = 2  # operations an image
GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue in a grey value, as torchvision's


def _each(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def _blend(x: Tensor, other: Tensor | float, share: Tensor) -> Tensor:
    """`share` (N,) of x and the rest of the other; beyond 1 it moves away from the other."""
    return (_each(share) * x).add_((1 - _each(share)) * other).clamp_(0, 1)


def grey(x: Tensor) -> Tensor:
    """(N, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (share * x[:, i] for i, share in enumerate(GREY))
    return red.add_(green).add_(blue)[:, None]


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * _each(factor)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    return x if x.shape[1] == 1 else _blend(x, grey(x), factor)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, grey(x).mean((1, 2, 3), keepdim=True), factor)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Values of `bits` (N,) bits, rounded down."""
    levels = _each(2.0**bits)
    return (x * levels).floor().clamp(max=levels - 1) / levels


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Values from the threshold on are inverted."""
    return torch.where(x >= _each(threshold), 1 - x, x)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched to 0 to 1; one that is all of one value stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = high == low
    return ((x - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low)).clamp(0, 1)


def affine(x: Tensor, matrices: Tensor) -> Tensor:
    """Moved as (N, 2, 3) matrices say: where a place in the result comes from, both in pixels from
    the image's centre (x, y, 1). Bilinear; black where there was nothing."""
    height, width = x.shape[-2:]
    theta = matrices.clone()
    theta[:, 0, 1] = matrices[:, 0, 1] * (height / width)
    theta[:, 1, 0] = matrices[:, 1, 0] * (width / height)
    theta[:, 0, 2] = matrices[:, 0, 2] * (2 / width)
    theta[:, 1, 2] = matrices[:, 1, 2] * (2 / height)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", align_corners=False)


def erase(x: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """`boxes` (4, N): top, left, height (0: nothing is erased) and width; `fill` (C,)."""
    top, left, height, width = boxes[:, :, None]  # (N, 1) each
    rows = torch.arange(x.shape[2], device=x.device)
    columns = torch.arange(x.shape[3], device=x.device)
    inside = ((rows >= top) & (rows < top + height))[:, :, None] & (
        (columns >= left) & (columns < left + width)
    )[:, None, :]
    return torch.where(inside[:, None], fill.view(-1, 1, 1), x)


# Of a signed amount m in -1..1: RandAugment's largest amounts, as torchvision has them.
_POINTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, m: brightness(x, 1 + 0.9 * m),
    "saturation": lambda x, m: saturation(x, 1 + 0.9 * m),
    "contrast": lambda x, m: contrast(x, 1 + 0.9 * m),
    "posterize": lambda x, m: posterize(x, 8 - (4 * m.abs()).round()),
    "solarize": lambda x, m: solarize(x, 1 - m.abs()),
    "autocontrast": lambda x, m: autocontrast(x),
}
_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
NAMES = ("identity", *_MOVES, *_POINTS)


def randaugment(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Two operations an image, drawn from NAMES, at a strength from 0 to 30, to either side at
    random (Cubuk et al., 2020, arXiv:1909.13719). Of the paper's, equalising and sharpening are
    left out, as they are slow; and what is moved is bilinear."""
    drawn = torch.rand((ROUNDS, 2, len(x)), generator=generator)
    for kinds, signs in drawn:
        kind = (kinds * len(NAMES)).long().clamp(max=len(NAMES) - 1)
        amount = torch.where(signs < 0.5, -1.0, 1.0) * (strength / 30)
        x = applied(x, kind, amount)
    return x


def applied(x: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    """Operation number `kind` (N,), of NAMES, of a signed amount (N,) from -1 to 1, by image; both
    are on the CPU."""
    moved = ((kind > 0) & (kind <= len(_MOVES))).nonzero()[:, 0]
    changed = x.clone()
    if len(moved):
        rows = put(moved, x.device)
        matrices = put(_matrices(kind[moved], amount[moved], x.shape[-1], x.shape[-2]), x.device)
        changed[rows] = affine(x[rows], matrices)
    for number, change in enumerate(_POINTS.values(), 1 + len(_MOVES)):
        chosen = (kind == number).nonzero()[:, 0]
        if len(chosen):
            rows = put(chosen, x.device)
            changed[rows] = change(x[rows], put(amount[chosen], x.device))
    return changed


def _matrices(kind: Tensor, amount: Tensor, width: int, height: int) -> Tensor:
    """(N, 2, 3), on the CPU: sheared by up to 0.3, moved by 150/331 of the size, turned by 30
    degrees, as the paper's."""
    matrices = torch.eye(2, 3).repeat(len(kind), 1, 1)
    name = kind - 1
    matrices[:, 0, 1] = torch.where(name == 0, -0.3 * amount, 0)
    matrices[:, 1, 0] = torch.where(name == 1, -0.3 * amount, 0)
    matrices[:, 0, 2] = torch.where(name == 2, -amount * 150 / 331 * width, 0)
    matrices[:, 1, 2] = torch.where(name == 3, -amount * 150 / 331 * height, 0)
    angle = torch.where(name == 4, amount * torch.pi / 6, 0)
    turned = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    matrices[:, :, :2] = torch.where((name == 4)[:, None, None], turned, matrices[:, :, :2])
    return matrices
