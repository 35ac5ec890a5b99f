"""Image files, decoded as they are asked for.

Knows how batches of them are evaluated and trained on; `reading` has the worker processes, and
`held` what is done where all of them fit into memory.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.data import reading
from onceforall.data.augmentation import After, parse
from onceforall.data.batches import Images, Normalisation, Request, label_tensor, numbers, put
from onceforall.data.paths import Items, items_of
from onceforall.errors import InputError, choices
from onceforall.progress import say

DECODED_BYTES = 2**31  # of images as they are evaluated, kept so that files are decoded once


@dataclass
class FileImages:
    """Image files, read by `workers` processes.

    Evaluated as is usual: the short side resized to R/0.875 and the centre R cropped (up to 64
    pixels the short side to R). What was decoded for evaluation is kept, up to two GiB, so that
    many networks are scored on images that were decoded once for each resolution.

    A file that cannot be read is named in `unreadable`. In evaluation it is left out; in training
    the next one that can be read takes its place, so that batches keep their size.

    Raises:
        InputError: more than `most_unreadable` of the files cannot be read; in training, all.
    """

    paths: Sequence[Path]
    labels: Any  # a tensor, or made one: (N,), or (N, ...) of whatever the task has
    normalisation: Normalisation
    channels: int = 3
    augmentation: str = "none"
    workers: int = 0
    crop: float | None = None  # share kept by the centre crop; None: 0.875, or 1 up to 64 pixels
    most_unreadable: int | None = None  # files; None: all
    unreadable: list[Path] = field(default_factory=list)
    hold: str = "auto"  # "auto", "always" or "never": see `held.prepared`
    device: torch.device | None = None  # where batches are put, and augmented
    decoded: Decoded | None = field(default_factory=lambda: Decoded(), repr=False)
    is_held = False

    def __post_init__(self) -> None:
        self.labels = label_tensor(self.labels)
        self.items: Items = items_of(self.paths)
        self.paths = self.items

    def __len__(self) -> int:
        return len(self.items)

    def subset(self, indices: Sequence[int]) -> FileImages:
        rows = list(indices)
        paths, labels = self.items.take(rows), self.labels[rows]
        return replace(self, paths=paths, labels=labels, unreadable=[], decoded=Decoded())

    def prepared(
        self, largest: int, device: torch.device | None = None, held: bool | None = None
    ) -> Images:
        from onceforall.data.held import prepared

        return prepared(replace(self, device=device), largest, held)

    def on(self, device: torch.device) -> FileImages:
        """Its batches are put there; what was decoded is shared."""
        self.decoded = self.decoded or Decoded()
        return replace(self, device=device)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        normalised = self.normalisation.on(self.device)
        parts = parse(self.augmentation)
        after = After(parts, self.normalisation.mean) if parts.after_decoding else None
        seeds: deque[int] = deque()

        def noted() -> Iterator[Request]:
            for request in requests:
                if after is not None and request.seed is not None:
                    seeds.append(request.seed)
                yield request

        for pixels, labels in self.pixels(noted()):
            x = numbers(put(pixels, self.device))
            if after is not None and seeds:
                x = after(x, torch.Generator().manual_seed(seeds.popleft()))
            yield normalised(x), put(labels, self.device)

    def pixels(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, C, R, R) bytes and their labels, a batch a request; batches of which no image can be
        read are left out."""
        wanted = iter(requests)
        first = next(wanted, None)
        if first is None:
            return
        if first.seed is not None:
            for pixels, labels in self._read(itertools.chain([first], wanted)):
                if not len(labels):
                    raise InputError(f"{self.paths[0]}: cannot be read, nor can any other image")
                yield pixels, labels
            return
        self.decoded = decoded = self.decoded or Decoded()
        every: list[Request] = []
        size = 0
        requests = itertools.chain([first], wanted)
        for request in requests:
            every.append(request)
            size += len(request.indices) * self.channels * request.resolution**2
            if size > DECODED_BYTES:  # what does not fit is read as it is asked for
                yield from _not_empty(self._read(itertools.chain(every, requests)))
                return
        if decoded.has(every):
            yield from _not_empty(map(decoded.get, every))
            return
        decoded.make_room(size)
        yield from _not_empty(map(decoded.keep, every, self._read(every)))

    def _read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch a request from the files; those of which no image can be read are empty."""
        for images, rows, failed in reading.batches(self, requests):
            self.note(failed)
            yield images, self.labels[rows]

    def note(self, failed: Sequence[Path]) -> None:
        """Names files that could not be read, and stops where they are too many."""
        for path in failed:
            if path not in self.unreadable:
                self.unreadable.append(path)
                say(f"{path}: cannot be read as an image; left out")
        check_unreadable(self.unreadable, self.most_unreadable)


def _not_empty(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    return (batch for batch in batches if len(batch[1]))


def check_unreadable(unreadable: Sequence[Path], most: int | None) -> None:
    """Raises InputError where more than `most` images cannot be read."""
    if most is not None and len(unreadable) > most:
        shown = choices(unreadable[:3]) + (", ..." if len(unreadable) > 3 else "")
        raise InputError(
            f"data: unreadable: {len(unreadable)} images cannot be read so far ({shown}), and"
            f" {most} may be left out; mend or remove them, or allow a larger share"
            " (data.unreadable; of evaluate, --max-unreadable)"
        )


class Decoded:
    """Batches as they are evaluated, by request; the oldest go where there is no room."""

    def __init__(self) -> None:
        self._batches: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    @staticmethod
    def _key(request: Request) -> tuple[int, tuple[int, ...]]:
        return request.resolution, tuple(request.indices)

    def has(self, requests: Iterable[Request]) -> bool:
        return all(self._key(request) in self._batches for request in requests)

    def get(self, request: Request) -> tuple[Tensor, Tensor]:
        return self._batches[self._key(request)]

    def keep(self, request: Request, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self._batches[self._key(request)] = batch
        return batch

    def make_room(self, size: int) -> None:
        """For so many bytes more."""
        held = sum(pixels.numel() for pixels, _ in self._batches.values())
        while self._batches and held + size > DECODED_BYTES:
            pixels, _ = self._batches.pop(next(iter(self._batches)))
            held -= pixels.numel()
