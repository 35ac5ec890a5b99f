"""Batches of labelled images: what is asked for, and the face that all kinds of images have.

Knows tensors; neither files nor data sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from onceforall.errors import InputError

SMALL = 64  # pixels: images are evaluated whole up to this, on a centre crop above it


class Request(NamedTuple):
    """A batch that is wanted: which images, at which resolution, and the seed of its
    augmentation (None: none, the images as they are evaluated)."""

    indices: Sequence[int]
    resolution: int
    seed: int | None = None


class Images(Protocol):
    """What training, calibration and evaluation know of images."""

    labels: Tensor  # (N,) classes, or (N, ...) of whatever the task has
    unreadable: list[Path]  # files that were found damaged so far, and left out
    is_held: bool  # in memory, as bytes that training sees

    def __len__(self) -> int: ...

    def subset(self, indices: Sequence[int]) -> Images: ...

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, C, R, R) normalised images and their labels, a batch a request."""
        ...

    def prepared(
        self, largest: int, device: torch.device | None = None, held: bool | None = None
    ) -> Images:
        """The same images, to be trained on at resolutions up to `largest` on a device: held there
        as bytes where they fit. `held` says whether to hold files (`is_held` of the result of
        an earlier call, to take the same steps again); None: what `data.hold` says."""
        ...


def on(images: Images, device: torch.device) -> Images:
    """The same images; to a GPU their batches go as bytes, where they can, and become numbers
    there."""
    moved = getattr(images, "on", None)
    found: Images = images if moved is None or device.type == "cpu" else moved(device)
    return found


def in_order(images: range | int, batch: int, resolution: int) -> Iterator[Request]:
    """These images (the first so many), each once, as they are evaluated."""
    every = range(images) if isinstance(images, int) else images
    for start in range(0, len(every), batch):
        yield Request(every[start : start + batch], resolution)


@dataclass(frozen=True)
class Normalisation:
    """Per channel, of pixel values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            for value in values:
                if not math.isfinite(value) or (name == "std" and value <= 0):
                    wanted = "a finite number" if name == "mean" else "a finite number above 0"
                    raise InputError(f"{name}: {value:g} is not {wanted}")
        for value in self.mean:
            if abs(value) > 1:
                raise InputError(f"mean: {value:g}: pixels are numbers from 0 to 1, not to 255")

    def __call__(self, x: Tensor) -> Tensor:
        return self.on(x.device)(x.clone())

    def on(self, device: torch.device | None) -> Callable[[Tensor], Tensor]:
        """Normalises (N, C, H, W) in place; the constants are put on the device once."""
        mean, std = (put(torch.tensor(v).view(-1, 1, 1), device) for v in (self.mean, self.std))
        return lambda x: x.sub_(mean).div_(std)


def label_tensor(labels: Tensor | Sequence[int]) -> Tensor:
    """(N,) or (N, ...); whole numbers are 64 bits wide."""
    return torch.as_tensor(labels, dtype=None if len(labels) else torch.long)


def rows_of(indices: Sequence[int]) -> Tensor:
    return torch.as_tensor(list(indices), dtype=torch.long)


def numbers(pixels: Tensor) -> Tensor:
    """Of bytes, from 0 to 1; a new tensor."""
    return pixels.to(torch.float32, copy=True).div_(255)


def is_on(x: Tensor, device: torch.device | None) -> bool:
    """Whether a tensor is where it is wanted: on the device, if one is named."""
    if device is None or device.type == "cpu":
        return device is None or x.device.type == "cpu"
    return x.device.type == device.type and device.index in (None, x.device.index)


def put(x: Tensor, device: torch.device | None) -> Tensor:
    """On the device; the host does not wait for the copy."""
    if is_on(x, device):
        return x
    pinned = x.pin_memory() if device is not None and device.type == "cuda" else x
    return pinned.to(device, non_blocking=True)
