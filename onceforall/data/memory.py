"""Small images, held in memory as bytes and seen whole.

Knows tensors of pixels; files only to read all of them once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall.data import augmentation as augmenting
from onceforall.data.batches import Normalisation, Request, label_tensor, numbers, put, rows_of
from onceforall.data.decoding import as_bytes, center
from onceforall.data.files import FileImages, check_unreadable
from onceforall.data.free import SHARE, free_bytes
from onceforall.data.reading import opened
from onceforall.errors import InputError
from onceforall.progress import say, track


@dataclass
class MemoryImages:
    """Images held as bytes: (N, C, S, S) uint8. The whole image is resized to the resolution.

    They are augmented at their own size, but for RandAugment and erasing, which come at the end.
    As they are small, "crop" shifts them and leaves their colours as they are.
    """

    pixels: Tensor
    labels: Any  # a tensor, or made one: (N,), or (N, ...) of whatever the task has
    normalisation: Normalisation
    augmentation: str = "none"
    unreadable: list[Path] = field(default_factory=list)  # files that are not among them
    device: torch.device | None = None  # where batches are put, and augmented
    is_held = True

    def __post_init__(self) -> None:
        self.labels = label_tensor(self.labels)

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: Sequence[int]) -> MemoryImages:
        rows = rows_of(indices)
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], unreadable=[])

    def prepared(
        self, largest: int, device: torch.device | None = None, held: bool | None = None
    ) -> MemoryImages:
        """In the memory of the device, where it has room for them."""
        if device is None or device.type == "cpu":
            return self
        room = free_bytes(device)
        fits = room is not None and self.pixels.nbytes <= SHARE * room
        pixels = self.pixels.to(device) if fits else self.pixels
        return replace(self, pixels=pixels, device=device)

    def on(self, device: torch.device) -> MemoryImages:
        """Its batches are put there."""
        return replace(self, device=device)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        parts = augmenting.parse(self.augmentation)
        after = augmenting.After(parts, self.normalisation.mean)
        normalised = self.normalisation.on(self.device)
        for request in requests:
            rows = rows_of(request.indices)
            x = put(self.pixels[put(rows, self.pixels.device)], self.device)
            generator = None
            if request.seed is not None:
                generator = torch.Generator().manual_seed(request.seed)
                if parts.shift or parts.crop:
                    x = augmenting.shifted(x, generator)
                if parts.flip:
                    x = augmenting.mirrored(x, generator)
            x = numbers(x)
            if generator is not None and parts.color and not parts.crop:
                x = augmenting.coloured(x, generator)
            if x.shape[-1] != request.resolution:
                size = (request.resolution, request.resolution)
                x = F.interpolate(x, size, mode="bilinear", antialias=True)
            if generator is not None:
                x = after(x, generator)
            yield normalised(x), put(self.labels[rows], self.device)


def in_memory(files: FileImages, size: int) -> MemoryImages:
    """All files decoded once: short side resized to `size`, centre cropped. Files that cannot be
    read are left out and named.

    Raises:
        InputError: too many cannot be read.
    """
    pixels = torch.empty((len(files), files.channels, size, size), dtype=torch.uint8)
    rows: list[int] = []
    unreadable: list[Path] = []
    for row in track(range(len(files)), "reading images"):
        try:
            image = opened(files, row)
        except InputError as error:
            say(f"{error}; left out")
            unreadable.append(files.paths[row])
            check_unreadable(unreadable, files.most_unreadable)
            continue
        pixels[len(rows)] = as_bytes(center(image, size, 1.0))
        rows.append(row)
    labels = files.labels[rows]
    return MemoryImages(
        pixels[: len(rows)], labels, files.normalisation, files.augmentation, unreadable
    )
