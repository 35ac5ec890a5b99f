"""Labelled images as batches of tensors, at the resolution that each batch asks for.

Two forms with one face: small images held in memory as bytes, and image files read
by worker processes. Which data sets there are is in `sources.py`.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall.errors import InputError, choices
from onceforall.progress import say, track

AUGMENTATIONS = ("none", "flip", "shift", "shift+flip", "crop+flip", "crop+flip+color")
CROP = 0.875  # share of the resized image that a centre crop keeps: the usual one at ImageNet size
SMALL = 64  # pixels: images are evaluated whole up to this, on a centre crop above it
DECODED_BYTES = 2**31  # of images as they are evaluated, kept so that files are decoded once


class Request(NamedTuple):
    """A batch that is wanted: which images, at which resolution, and the seed of its
    augmentation (None: none, the images as they are evaluated)."""

    indices: Sequence[int]
    resolution: int
    seed: int | None = None


class Images(Protocol):
    """What training, calibration and evaluation know of images."""

    labels: list[int]
    unreadable: list[Path]  # files that were found damaged so far, and left out

    def __len__(self) -> int: ...

    def subset(self, indices: Sequence[int]) -> Images: ...

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, C, R, R) normalised images and (N,) labels, a batch a request."""
        ...


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

    def __call__(self, x: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, dtype=x.dtype).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=x.dtype).view(-1, 1, 1)
        return (x - mean) / std


@dataclass
class MemoryImages:
    """Images held as bytes: (N, C, S, S) uint8. The whole image is resized to the resolution."""

    pixels: Tensor
    labels: list[int]
    normalisation: Normalisation
    augmentation: str = "none"
    unreadable: list[Path] = field(default_factory=list)  # files that are not among them

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int]) -> MemoryImages:
        labels = [self.labels[i] for i in indices]
        pixels = self.pixels[torch.as_tensor(list(indices), dtype=torch.long)]
        return MemoryImages(pixels, labels, self.normalisation, self.augmentation)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        labels = torch.tensor(self.labels)
        for request in requests:
            indices = torch.as_tensor(list(request.indices), dtype=torch.long)
            x = self.pixels[indices]
            if request.seed is not None:
                x = self._augment(x, torch.Generator().manual_seed(request.seed))
            x = x.float() / 255
            if x.shape[-1] != request.resolution:
                size = (request.resolution, request.resolution)
                x = F.interpolate(x, size, mode="bilinear", antialias=True)
            yield self.normalisation(x), labels[indices]

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Random shift by up to 1/14 of the size (2 pixels of 28), and mirror image."""
        if "shift" in self.augmentation or "crop" in self.augmentation:
            n, _, size, _ = x.shape
            reach = max(1, size // 14)
            padded = F.pad(x, (reach,) * 4)
            start = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=generator)
            rows, columns = start + torch.arange(size)  # (N, S) each
            batch = torch.arange(n)[:, None, None]
            x = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
            x = x.permute(0, 3, 1, 2)
        if "flip" in self.augmentation:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        return x


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

    paths: list[Path]
    labels: list[int]
    normalisation: Normalisation
    channels: int = 3
    augmentation: str = "none"
    workers: int = 0
    crop: float | None = None  # share kept by the centre crop; None: 0.875, or 1 up to 64 pixels
    most_unreadable: int | None = None  # files; None: all
    unreadable: list[Path] = field(default_factory=list)
    _decoded: _Decoded = field(default_factory=lambda: _Decoded(), repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int]) -> FileImages:
        paths, labels = [self.paths[i] for i in indices], [self.labels[i] for i in indices]
        return replace(self, paths=paths, labels=labels, unreadable=[], _decoded=_Decoded())

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in self.pixels(requests):
            yield self.normalisation(pixels.float() / 255), labels

    def pixels(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, C, R, R) bytes and (N,) labels, a batch a request; batches of which no image can be
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
        every: list[Request] = []
        size = 0
        requests = itertools.chain([first], wanted)
        for request in requests:
            every.append(request)
            size += len(request.indices) * self.channels * request.resolution**2
            if size > DECODED_BYTES:  # what does not fit is read as it is asked for
                yield from _not_empty(self._read(itertools.chain(every, requests)))
                return
        if self._decoded.has(every):
            yield from _not_empty(map(self._decoded.get, every))
            return
        self._decoded.make_room(size)
        yield from _not_empty(map(self._decoded.keep, every, self._read(every)))

    def _read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch a request from the files; those of which no image can be read are empty."""
        from torch.utils.data import DataLoader

        keys = (
            [(i, request.resolution, _seed_of(request.seed, i)) for i in request.indices]
            for request in requests
        )
        loader: Any = DataLoader(
            _Files(self),
            batch_sampler=keys,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_start_worker,
        )
        for images, labels, failed in _started(loader):
            self._note(failed)
            yield images, labels

    def _note(self, failed: Sequence[Path]) -> None:
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


class _Decoded:
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


class _Files(torch.utils.data.Dataset):
    """Reads one image; in a worker process."""

    def __init__(self, files: FileImages) -> None:
        self.files = replace(files, _decoded=_Decoded())  # which no worker needs

    def __getitem__(
        self, key: tuple[int, int, int | None]
    ) -> tuple[Tensor | None, int, list[Path]]:
        """Bytes (C, R, R), None where they cannot be had; the label; the files that failed."""
        index, resolution, seed = key
        files, failed = self.files, []
        for step in range(len(files) if seed is not None else 1):
            row = (index + step) % len(files)
            try:
                image = open_image(files.paths[row], files.channels)
            except InputError:
                failed.append(files.paths[row])
                continue
            if seed is None:
                image = center(image, resolution, files.crop)
            else:
                image = augmented(image, resolution, files.augmentation, random.Random(seed))
            return as_bytes(image), files.labels[row], failed
        return None, files.labels[index], failed


def _seed_of(seed: int | None, index: int) -> int | None:
    return None if seed is None else (seed * 1_000_003 + index) % 2**63


def _collate(
    samples: list[tuple[Tensor | None, int, list[Path]]],
) -> tuple[Tensor, Tensor, list[Path]]:
    good = [(image, label) for image, label, _ in samples if image is not None]
    failed = [path for _, _, paths in samples for path in paths]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return images, torch.tensor([label for _, label in good]), failed


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


def open_image(path: Path, channels: int) -> Any:
    """A PIL image in grey (1 channel) or colour (3), upright: turned as its EXIF data say, which
    phones use in place of turning pixels.

    Raises:
        InputError: names the file that cannot be read as an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _eight_bits(image).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image, or damaged") from None
    except Exception as error:  # of a damaged file, decoders raise many kinds
        raise InputError(f"{path}: cannot be read as an image: {error}") from None


def _eight_bits(image: Any) -> Any:
    """A grey image of 16 bits with the upper eight of them, as PIL itself does with 16-bit colours.
    Of grey it would cut off values at 255, and nearly all would be white."""
    from PIL import Image

    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def as_bytes(image: Any) -> Tensor:
    """(C, H, W) bytes of a PIL image."""
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image)


def in_memory(files: FileImages, size: int) -> MemoryImages:
    """All files decoded once: short side resized to `size`, centre cropped. Files that cannot be
    read are left out and named.

    Raises:
        InputError: too many cannot be read.
    """
    pixels = torch.empty((len(files), files.channels, size, size), dtype=torch.uint8)
    labels: list[int] = []
    unreadable = []
    for path, label in zip(track(files.paths, "reading images"), files.labels, strict=True):
        try:
            image = open_image(path, files.channels)
        except InputError as error:
            say(f"{error}; left out")
            unreadable.append(path)
            check_unreadable(unreadable, files.most_unreadable)
            continue
        pixels[len(labels)] = as_bytes(center(image, size, 1.0))
        labels.append(label)
    pixels = pixels[: len(labels)]
    return MemoryImages(pixels, labels, files.normalisation, files.augmentation, unreadable)


def center(image: Any, resolution: int, crop: float | None = None) -> Any:
    """Short side resized to `resolution / crop` (bilinear), then the centre cropped."""
    from torchvision.transforms import functional as tv

    kept = crop if crop is not None else (CROP if resolution > SMALL else 1.0)
    resized = tv.resize(image, _resized_side(resolution / kept))
    return tv.center_crop(resized, [resolution, resolution])


def _resized_side(size: float) -> int:
    """Rounded up, as the authors do: 176 / 0.875 = 201.14 is 202."""
    return math.ceil(size - 1e-6)


def augmented(image: Any, resolution: int, augmentation: str, rng: random.Random) -> Any:
    """A random view of an image for training.

    "crop+flip" is the usual one at ImageNet size: a random part of 8 to 100% of the area and of
    an aspect ratio from 3/4 to 4/3. "color" changes brightness and saturation as the authors do.
    "shift" takes 1/14 off or on at the sides.
    """
    from torchvision.transforms import functional as tv

    if "flip" in augmentation and rng.random() < 0.5:
        image = tv.hflip(image)
    if "color" in augmentation:
        image = tv.adjust_brightness(image, rng.uniform(1 - 32 / 255, 1 + 32 / 255))
        image = tv.adjust_saturation(image, rng.uniform(0.5, 1.5))
    if "crop" in augmentation:
        top, left, height, width = _random_area(image.height, image.width, rng)
        return tv.resized_crop(image, top, left, height, width, [resolution, resolution])
    if "shift" in augmentation:
        short = min(image.height, image.width)
        reach = max(1, short // 14)
        square = tv.pad(tv.center_crop(image, [short, short]), [reach] * 4)
        top, left = rng.randint(0, 2 * reach), rng.randint(0, 2 * reach)
        return tv.resized_crop(square, top, left, short, short, [resolution, resolution])
    return center(image, resolution, 1.0)


def _random_area(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part (Szegedy et al., 2015); the centre square
    where ten tries give none that fits."""
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = (4 / 3) ** rng.uniform(-1, 1)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    short = min(height, width)
    return (height - short) // 2, (width - short) // 2, short, short
