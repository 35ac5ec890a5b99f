"""Photos held as bytes: decoded once at a working size, and seen anew in every batch.

The working size is a short side of R / 0.875 for the largest resolution R that is trained at; a
smaller image stays as it is. Random parts are taken from the held bytes, where the bytes are: on
a GPU for a whole batch at once. A part that is enlarged from the working size has less detail
than one decoded at full size would have (docs/photos.md), so the decision to hold is
said in one line, and can be made by `data.hold`.

Evaluated as `FileImages` are, from the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from onceforall.data import augmentation as augmenting
from onceforall.data.batches import Request, is_on, numbers, put, rows_of
from onceforall.data.boxes import Boxes, resampled_singly, resampled_together, sampled
from onceforall.data.decoding import CROP, resized_side
from onceforall.data.files import FileImages
from onceforall.data.free import SHARE, free_bytes
from onceforall.data.reading import CHUNK, loaded, reduced_images
from onceforall.data.sizes import sizes
from onceforall.errors import InputError, choices
from onceforall.progress import say, track

HOLDS = ("auto", "always", "never")
TOGETHER = 256  # images that are resampled at once: their windows as numbers take a third of a GB
LARGER = 2.0  # times the working size: photos up to this are held without being asked for


def prepared(files: FileImages, largest: int, held: bool | None = None) -> FileImages | HeldImages:
    """Held, where that is wanted, or where it is left open ("auto"): they take a quarter of the
    free memory at most, and their short side is twice the working size at most.

    Args:
        files: with the device that batches are wanted on.
        held: what was decided before; None: decide.

    Raises:
        InputError: they are to be held and do not fit into memory.
    """
    if files.hold not in HOLDS:
        raise InputError(f"data: hold: {files.hold!r}; there are {choices(HOLDS)}")
    if held is False or (held is None and files.hold == "never") or not len(files):
        return files
    side = resized_side(largest / CROP)
    of_files = sizes(files.paths)
    shorter = of_files.min(1)
    scale = np.minimum(1.0, side / shorter)
    needed = int(len(files) * files.channels * (of_files.prod(1) * scale**2).mean())
    free = free_bytes()
    must = held or files.hold == "always"
    if must and free is not None and needed > free:
        raise InputError(
            f"data: hold: {len(files):,} images at {side} pixels take {_gb(needed)}, and"
            f" {_gb(free)} are free; auto or never reads them as they are asked for"
        )
    reason = ""
    if free is None or needed > SHARE * free:
        room = "not known" if free is None else _gb(free)
        reason = f"{_gb(needed)} are more than a quarter of the free memory ({room})"
    elif np.median(shorter) > LARGER * side:
        reason = (
            f"they have {int(np.median(shorter))} pixels, more than twice the {side} they would be"
            " held at (data.hold=always holds them)"
        )
    if reason and not must:
        say(f"images are read by {files.workers} workers as they are asked for: {reason}")
        return files
    found = _hold(files, side)
    place = found.flat.device
    say(
        f"{len(found.offsets):,} images are held in memory ({place}) at {side} pixels:"
        f" {_gb(found.flat.numel())}; data.hold=never reads them anew each time"
    )
    return found


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _hold(files: FileImages, side: int) -> HeldImages:
    """Decodes all files. One that cannot be read is stood for by the next that can."""
    parts: list[Tensor] = []
    shapes: list[tuple[int, int]] = []
    rows: list[int] = []
    chunks = reduced_images(files, side)
    for flat, found, chunk_rows, failed in track(
        chunks, "decoding images", -(-len(files) // CHUNK)
    ):
        files.note(failed)
        parts.append(flat.clone())  # out of the memory that is shared with a worker
        shapes += found
        rows += chunk_rows
    if not rows:
        raise InputError(f"{files.paths[0]}: cannot be read, nor can any other image")
    size = torch.tensor(shapes)  # (M, 2) heights and widths
    lengths = files.channels * size.prod(1)
    offsets = lengths.cumsum(0) - lengths
    beyond = int(size[:, 1].max())  # a row of the last image may be read beyond its end
    joined = torch.zeros(int(lengths.sum()) + beyond, dtype=torch.uint8)
    at = 0
    while parts:
        part = parts.pop(0)
        joined[at : at + len(part)] = part
        at += len(part)
    device = files.device
    if device is not None and device.type != "cpu":
        room = free_bytes(device)
        if room is not None and joined.numel() <= SHARE * room:
            joined = joined.to(device)
    stored = torch.tensor(rows)
    number = torch.searchsorted(stored, torch.arange(len(files))) % len(stored)
    return HeldImages(files, joined, offsets, size, stored, number)


@dataclass
class HeldImages:
    """All images of `files`, decoded: (C, H, W) bytes one after the other."""

    files: FileImages
    flat: Tensor  # (B,) uint8, in memory or on the device
    offsets: Tensor  # (M,) where each image begins
    size: Tensor  # (M, 2) heights and widths
    stored: Tensor  # (M,) their rows among the files
    number: Tensor  # (N,) which of the M stands for each file
    is_held = True

    def __post_init__(self) -> None:
        self.labels, self.unreadable = self.files.labels, self.files.unreadable

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Sequence[int]) -> FileImages:
        return self.files.subset(indices)

    def prepared(
        self, largest: int, device: torch.device | None = None, held: bool | None = None
    ) -> FileImages | HeldImages:
        return prepared(replace(self.files, device=device), largest, held)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        wanted = iter(requests)
        first = next(wanted, None)
        if first is None:
            return
        if first.seed is None:
            yield from self.files.stream(_with(first, wanted))
            return
        parts = augmenting.parse(self.files.augmentation)
        after = augmenting.After(parts, self.files.normalisation.mean)
        normalised = self.files.normalisation.on(self.files.device)
        for x, rows, seed in self._bytes(_with(first, wanted)):
            generator = torch.Generator().manual_seed(seed)
            x = put(x, self.files.device)
            if parts.flip:
                x = augmenting.mirrored(x, generator)
            x = numbers(x)
            if parts.color:
                x = augmenting.coloured(x, generator)
            x = normalised(after(x, generator))
            yield x, put(self.labels[rows], self.files.device)

    def _bytes(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor, int]]:
        """By worker processes, where a GPU would have to wait for this one's."""
        if is_on(self.flat, self.files.device):
            return map(self.views, requests)
        return loaded(self.files, _Batches(self), ([r] for r in requests), _alone)

    def views(self, request: Request) -> tuple[Tensor, Tensor, int]:
        """(N, C, R, R) bytes, the rows among the files, and the seed of what comes after."""
        seed = request.seed or 0
        generator = torch.Generator().manual_seed(seed)
        parts = augmenting.parse(self.files.augmentation)
        numbers = self.number[rows_of(request.indices)]
        boxes = sampled(self.size[numbers], parts, generator)
        x = self.resampled(numbers, boxes, request.resolution)
        following = torch.randint(2**62, (), generator=generator)
        return x, self.stored[numbers], int(following)

    def resampled(self, numbers: Tensor, boxes: Boxes, resolution: int) -> Tensor:
        offsets, size = self.offsets[numbers], self.size[numbers]
        if self.flat.device.type == "cpu":
            return resampled_singly(
                self.files.channels, self.flat, offsets, size, boxes, resolution
            )
        parts = [
            resampled_together(
                self.files.channels, self.flat, offsets[rows], size[rows], boxes[rows], resolution
            )
            for rows in torch.arange(len(numbers)).split(TOGETHER)
        ]
        return torch.cat(parts)


def _with(first: Request, others: Iterator[Request]) -> Iterator[Request]:
    yield first
    yield from others


class _Batches(torch.utils.data.Dataset):
    """A batch of held images; in a worker process, which shares their memory."""

    def __init__(self, images: HeldImages) -> None:
        self.images = images

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor, int]:
        return self.images.views(request)


def _alone(samples: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor, int]:
    return samples[0]
