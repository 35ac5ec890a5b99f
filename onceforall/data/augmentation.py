"""What is done to images at random before a network is trained on them: the parts of a text such
as "crop+flip+randaugment:9", and those parts that work on a batch of tensors.

Every image of a batch has random numbers of its own, drawn on the CPU from one generator, so that
a seed means the same on every device. Knows pixels from 0 to 1; no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from onceforall.data import operations
from onceforall.data.batches import put
from onceforall.errors import InputError

PARTS = ("crop", "shift", "flip", "color", "randaugment", "erase")
STRENGTH = 9.0  # of RandAugment, of 30: torchvision's
MOST_STRENGTH = 30.0
ERASED = 0.25  # share of the images from which a rectangle is erased: timm's recipes have it
BRIGHTNESS = 32 / 255  # "color" changes it by up to this share, and saturation by up to a half


@dataclass(frozen=True)
class Augmentation:
    """The parts that are asked for."""

    crop: bool = False  # a random part of the image, 8 to 100% of it (small images: as shift)
    shift: bool = False  # by up to 1/14 of the size
    flip: bool = False  # mirror image, of every other one
    color: bool = False  # brightness and saturation, as the authors' ImageNet recipe
    randaugment: float | None = None  # strength, 0 to 30
    erase: float | None = None  # share of images, 0 to 1

    @property
    def after_decoding(self) -> bool:
        """Whether there is anything to do for a batch of images that were cropped and coloured one
        by one."""
        return self.randaugment is not None or self.erase is not None


@cache
def parse(text: str) -> Augmentation:
    """Of "none", or of any of PARTS joined by "+"; of the last two with a number, as in
    "randaugment:9".

    Raises:
        InputError: names what is not known.
    """
    if text == "none":
        return Augmentation()
    limits = {"randaugment": (STRENGTH, MOST_STRENGTH), "erase": (ERASED, 1.0)}
    found: dict[str, bool | float] = {}
    for part in text.split("+"):
        name, colon, number = part.partition(":")
        if name not in PARTS or name in found or (colon and name not in limits):
            why = "is there twice" if name in found else "is none of them"
            raise _refused(text, f"{part!r} {why}")
        if name not in limits:
            found[name] = True
            continue
        default, most = limits[name]
        try:
            value = float(number) if colon else default
        except ValueError:
            raise _refused(text, f"{number!r} is not a number") from None
        if not 0 <= value <= most:
            raise _refused(text, f"{name} {value:g} is not from 0 to {most:g}")
        found[name] = value
    if found.keys() >= {"crop", "shift"}:
        raise _refused(text, "crop and shift are one or the other")
    return Augmentation(**found)  # type: ignore[arg-type]


def _refused(text: str, why: str) -> InputError:
    return InputError(
        f"data: augmentation: {text!r}: {why}; there are none, or any of crop (or shift), flip,"
        f" color, randaugment:0-{MOST_STRENGTH:g} and erase:0-1, joined by +"
    )


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """The mirror image of every other one, at random."""
    chosen = (torch.rand(len(x), generator=generator) < 0.5).nonzero()[:, 0]
    rows = put(chosen, x.device)
    return x.index_copy(0, rows, x[rows].flip(-1))


def coloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, then saturation of (N, C, H, W) pixels from 0 to 1."""
    drawn = torch.rand((2, len(x)), generator=generator)
    x = operations.brightness(x, put(1 + BRIGHTNESS * (2 * drawn[0] - 1), x.device))
    return operations.saturation(x, put(0.5 + drawn[1], x.device))


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """(N, C, S, S) moved by up to 1/14 of the size (2 pixels of 28), black at the edges."""
    n, _, size, _ = x.shape
    reach = max(1, size // 14)
    padded = torch.nn.functional.pad(x, (reach,) * 4)
    start = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=generator)
    rows, columns = put(start + torch.arange(size), x.device)  # (N, S) each
    batch = torch.arange(n, device=x.device)[:, None, None]
    x = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return x.permute(0, 3, 1, 2)


def erased(x: Tensor, share: float, fill: Sequence[float], generator: torch.Generator) -> Tensor:
    """A rectangle of a share of the images is replaced by `fill`, a value a channel: 2 to 33% of
    the area, of an aspect ratio from 0.3 to 3.3 (Zhong et al., 2020, arXiv:1708.04896)."""
    n, _, height, width = x.shape
    drawn = torch.rand((5, n), generator=generator, dtype=torch.float64)
    area = (0.02 + 0.31 * drawn[0]) * height * width
    ratio = (3.3 / 0.3) ** drawn[1] * 0.3
    h = (area * ratio).sqrt().round().clamp(1, height)
    w = (area / ratio).sqrt().round().clamp(1, width)
    top = (drawn[2] * (height - h + 1)).floor()
    left = (drawn[3] * (width - w + 1)).floor()
    h = torch.where(drawn[4] < share, h, 0)
    boxes = put(torch.stack([top, left, h, w]).long(), x.device)
    return operations.erase(x, boxes, put(torch.tensor(fill, dtype=x.dtype), x.device))


@dataclass(frozen=True)
class After:
    """What is done to a batch of pixels from 0 to 1 at its final resolution, before it is
    normalised: RandAugment and erasing."""

    parts: Augmentation
    fill: tuple[float, ...]  # the mean pixel: 0 once normalised

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.parts.randaugment is not None:
            x = operations.randaugment(x, self.parts.randaugment, generator)
        if self.parts.erase is not None:
            x = erased(x, self.parts.erase, self.fill, generator)
        return x
