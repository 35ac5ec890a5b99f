"""Parts of images resized to one size: random boxes for a batch, and their resampling.

Resampled as PIL does when it makes images smaller or larger (a triangle filter as wide as a pixel
of the result; bilinear where that is smaller), to within a level of 255. Knows bytes of images
that lie one after the other; no files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall.data.augmentation import Augmentation
from onceforall.data.batches import put

TRIES = 10


@dataclass(frozen=True)
class Boxes:
    """Of each image a window that is read, and how far the part that is seen is moved from it: what
    lies outside the window is black. All (N, 2) whole numbers: rows and columns."""

    start: Tensor
    size: Tensor
    moved: Tensor

    def __getitem__(self, rows: Tensor) -> Boxes:
        return Boxes(self.start[rows], self.size[rows], self.moved[rows])


def sampled(size: Tensor, parts: Augmentation, generator: torch.Generator) -> Boxes:
    """Boxes in images of (N, 2) heights and widths: random parts, or the centre square, moved."""
    short = size.amin(1, keepdim=True).expand(-1, 2)
    start = ((size - short) / 2).round().long()  # as torchvision's centre crop
    middle = Boxes(start, short, torch.zeros_like(size))
    if parts.crop:
        return _areas(size, middle, generator)
    if parts.shift:
        reach = (short[:, 0] // 14).clamp(min=1)[:, None]
        drawn = torch.rand(size.shape, generator=generator, dtype=torch.float64)
        return Boxes(middle.start, short, (drawn * (2 * reach + 1)).long() - reach)
    return middle


def _areas(size: Tensor, middle: Boxes, generator: torch.Generator) -> Boxes:
    """As `decoding._random_area`, for a batch: 8 to 100% of the area, of an aspect ratio from 3/4
    to 4/3; the centre square where ten tries give none that fits."""
    drawn = torch.rand((2, len(size), TRIES), generator=generator, dtype=torch.float64)
    area = size.prod(1, keepdim=True) * (0.08 + 0.92 * drawn[0])
    ratio = (4 / 3) ** (2 * drawn[1] - 1)
    tries = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()], 2).long()
    fits = ((tries > 0) & (tries <= size[:, None])).all(2)  # (N, TRIES)
    first = fits.to(torch.uint8).argmax(1)
    chosen = tries[torch.arange(len(size)), first]
    place = torch.rand(size.shape, generator=generator, dtype=torch.float64)
    start = (place * (size - chosen + 1)).long()
    found = fits.any(1, keepdim=True)
    return Boxes(
        torch.where(found, start, middle.start),
        torch.where(found, chosen, middle.size),
        middle.moved,
    )


def resampled_singly(
    channels: int, flat: Tensor, offsets: Tensor, size: Tensor, boxes: Boxes, resolution: int
) -> Tensor:
    """(N, C, R, R) bytes, image by image: the quick way on a CPU, whose kernels are of bytes.

    Args:
        flat: (B,) bytes, (C, H, W) of one image after the other.
        offsets: (N,) where the images of the batch begin.
        size: (N, 2) their heights and widths.
    """
    out = torch.empty((len(offsets), channels, resolution, resolution), dtype=torch.uint8)
    lists = (t.tolist() for t in (offsets, size, boxes.start, boxes.size, boxes.moved))
    for i, (at, (height, width), (top, left), (h, w), (down, right)) in enumerate(
        zip(*lists, strict=True)
    ):
        image = flat[at : at + channels * height * width].view(channels, height, width)
        part = image[:, top : top + h, left : left + w]
        if down or right:
            part = F.pad(part, (-right, right, -down, down))
        out[i] = F.interpolate(
            part[None], (resolution, resolution), mode="bilinear", antialias=True
        )[0]
    return out


def resampled_together(
    channels: int, flat: Tensor, offsets: Tensor, size: Tensor, boxes: Boxes, resolution: int
) -> Tensor:
    """The same with few operations for the whole batch, as a GPU wants it: windows are read row by
    row, and resampled by two matrix products an image."""
    device = flat.device
    h, w = (int(v) for v in boxes.size.amax(0))  # of the largest window
    row = torch.arange(h).minimum(boxes.size[:, :1] - 1) + boxes.start[:, :1]  # (N, h)
    plane = torch.arange(channels)[:, None] * size.prod(1)[:, None, None]  # (N, C, 1)
    first = offsets[:, None, None] + plane + (row * size[:, 1:] + boxes.start[:, 1:])[:, None]
    rows = flat.as_strided((flat.numel() - w + 1, w), (1, 1))
    windows = rows[put(first, device)].float()  # (N, C, h, w)
    vertical = _weights(boxes, 0, h, resolution, device)[:, None]
    horizontal = _weights(boxes, 1, w, resolution, device)[:, None]
    x = vertical @ windows @ horizontal.transpose(2, 3)
    return x.round().clamp(0, 255).to(torch.uint8)


def _weights(boxes: Boxes, axis: int, extent: int, resolution: int, device: torch.device) -> Tensor:
    """(N, R, extent) shares that the pixels of a window have in each pixel of the result."""
    margin = int(boxes.moved.abs().max())  # what is seen may begin before the window, or end after
    size = put(boxes.size[:, axis].float(), device)[:, None, None]
    moved = put(boxes.moved[:, axis].float(), device)[:, None, None]
    pixel = torch.arange(-margin, extent + margin, device=device) + 0.5
    scale = size / resolution
    center = moved + (torch.arange(resolution, device=device)[:, None] + 0.5) * scale
    share = (1 - (pixel - center).abs() / scale.clamp(min=1)).clamp(min=0)
    share = torch.where((pixel > moved) & (pixel < moved + size), share, 0)
    share = share / share.sum(2, keepdim=True)
    share = torch.where((pixel > 0) & (pixel < size), share, 0)
    return share[:, :, margin : margin + extent]
