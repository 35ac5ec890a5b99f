"""Image files read by worker processes, which send bytes.

Knows `FileImages` and PyTorch's loader; what is done with the batches is in `files`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onceforall.data.augmentation import parse
from onceforall.data.batches import Request
from onceforall.data.decoding import as_bytes, augmented, center, open_image, reduced
from onceforall.errors import InputError

if TYPE_CHECKING:
    from onceforall.data.files import FileImages

CHUNK = 32  # images that are decoded to be held, sent at a time


def opened(files: FileImages, row: int) -> Any:
    """A PIL image.

    Raises:
        InputError: names the file that cannot be read as an image.
    """
    path = files.paths[row]
    try:
        file = files.items.file(row)
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image: {error.strerror}") from None
    return open_image(path, files.channels, file)


def batches(
    files: FileImages, requests: Iterable[Request]
) -> Iterator[tuple[Tensor, Tensor, list[Path]]]:
    """(N, C, R, R) bytes, the rows that they are of, and the files that failed, a batch a request;
    those of which no image can be read are empty."""
    keys = (
        [(i, request.resolution, _seed_of(request.seed, i)) for i in request.indices]
        for request in requests
    )
    return loaded(files, _Views(files), keys, _stacked)


def reduced_images(
    files: FileImages, side: int
) -> Iterator[tuple[Tensor, list[tuple[int, int]], list[int], list[Path]]]:
    """All images with a short side of `side` pixels at most, some at a time: their (C, H, W) bytes
    one after the other, heights and widths, rows, and the files that failed."""
    rows = range(len(files))
    parts = (list(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK))
    return loaded(files, _Reduced(files, side), parts, _joined)


def loaded(files: FileImages, dataset: Any, keys: Iterable[Any], collate: Any) -> Iterator[Any]:
    """What a data set gives for each list of keys, by `files.workers` processes."""
    from torch.utils.data import DataLoader

    cuda = files.device is not None and files.device.type == "cuda"
    loader: Any = DataLoader(
        dataset,
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=files.workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=cuda,
    )
    return _started(loader)


class _Views(torch.utils.data.Dataset):
    """Reads one image; in a worker process."""

    def __init__(self, files: FileImages) -> None:
        self.files = for_worker(files)
        self.parts = parse(files.augmentation)

    def __getitem__(
        self, key: tuple[int, int, int | None]
    ) -> tuple[Tensor | None, int, list[Path]]:
        """Bytes (C, R, R), None where they cannot be had; the row that is read; the files that
        failed."""
        index, resolution, seed = key
        files, failed = self.files, []
        for step in range(len(files) if seed is not None else 1):
            row = (index + step) % len(files)
            try:
                image = opened(files, row)
            except InputError:
                failed.append(files.paths[row])
                continue
            if seed is None:
                image = center(image, resolution, files.crop)
            else:
                image = augmented(image, resolution, self.parts, random.Random(seed))
            return as_bytes(image), row, failed
        return None, index, failed


class _Reduced(torch.utils.data.Dataset):
    """Reads one image at the size at which it is held; in a worker process."""

    def __init__(self, files: FileImages, side: int) -> None:
        self.files, self.side = for_worker(files), side

    def __getitem__(self, row: int) -> tuple[Tensor | None, int, list[Path]]:
        try:
            return as_bytes(reduced(opened(self.files, row), self.side)), row, []
        except InputError:
            return None, row, [self.files.paths[row]]


def for_worker(files: FileImages) -> FileImages:
    """Without what no worker needs."""
    return replace(files, labels=files.labels[:0], unreadable=[], decoded=None)


def _seed_of(seed: int | None, index: int) -> int | None:
    return None if seed is None else (seed * 1_000_003 + index) % 2**63


def _stacked(
    samples: list[tuple[Tensor | None, int, list[Path]]],
) -> tuple[Tensor, Tensor, list[Path]]:
    good = [(image, row) for image, row, _ in samples if image is not None]
    failed = [path for _, _, paths in samples for path in paths]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return images, torch.tensor([row for _, row in good], dtype=torch.long), failed


def _joined(
    samples: list[tuple[Tensor | None, int, list[Path]]],
) -> tuple[Tensor, list[tuple[int, int]], list[int], list[Path]]:
    good = [(image, row) for image, row, _ in samples if image is not None]
    flat = [image.flatten() for image, _ in good]
    joined = torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8)
    sizes = [(image.shape[1], image.shape[2]) for image, _ in good]
    return joined, sizes, [row for _, row in good], [p for _, _, failed in samples for p in failed]


_STOPS = {signal.SIGINT, signal.SIGTERM}  # of a terminal, of a batch system
_SENDERS_KNOWN = hasattr(signal, "sigwaitinfo")  # whose a signal is; not on macOS and Windows


def _started(loader: Any) -> Iterator[Any]:
    """The batches of a loader. Its workers are started with the signals to stop held back, and
    hold them back from their first moment on; here they arrive afterwards."""
    if not _SENDERS_KNOWN:
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """A worker ends when its parent says so or is gone, and by no other signal to stop: one that
    is sent to all processes at once (a terminal's Ctrl-C, a batch system's SIGTERM) leaves the
    parent the images of the step that it wants to finish."""
    torch.set_num_threads(1)  # the workers are the parallelism
    if _SENDERS_KNOWN:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Waits for the parent's SIGTERM: what it sends to a worker that is in its way at the end. (A
    worker whose parent is gone is ended by torch's own watch.)"""
    parent = multiprocessing.parent_process()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (parent and parent.pid):
        pass
    os._exit(0)
