"""Data sets that are known by name: small images, held in memory.

Knows their files and where they usually are, or are downloaded from.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onceforall.data.batches import Normalisation
from onceforall.data.memory import MemoryImages
from onceforall.data.sources import Data, Source, normalisation_of
from onceforall.data.splits import PARTS
from onceforall.errors import InputError
from onceforall.files import cache_folder
from onceforall.progress import busy

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)


def _fashion_mnist(source: Source) -> Data:
    folder = _fashion_folder(source.root)
    train = _idx(folder, "train-images-idx3-ubyte"), _idx(folder, "train-labels-idx1-ubyte")
    test = _idx(folder, "t10k-images-idx3-ubyte"), _idx(folder, "t10k-labels-idx1-ubyte")
    for (pixels, labels), part in ((train, "train"), (test, "test")):
        if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels) or not len(labels):
            raise InputError(f"{folder}: the {part} images and labels do not belong together")
    return _in_memory(source, FASHION_CLASSES, _grey(train), _grey(test), "shift+flip")


def _fashion_folder(root: str | None) -> Path:
    places = [FASHION_FOLDER]
    if root is not None:
        places = [Path(root), Path(root) / "raw", Path(root) / "FashionMNIST" / "raw"]
    downloads = cache_folder() / "datasets"
    for place in [*places, *([] if root else [downloads / "FashionMNIST" / "raw"])]:
        if any(place.glob("train-images-idx3-ubyte*")):
            return place
    if root is not None:
        raise InputError(f"data: root: no Fashion-MNIST files in {root}")
    from torchvision.datasets import FashionMNIST

    target = downloads / "FashionMNIST" / "raw"
    try:
        with _downloading("Fashion-MNIST"):
            FashionMNIST(str(downloads), download=True)
    except DownloadError as error:
        raise InputError(
            f"data: Fashion-MNIST is not in {FASHION_FOLDER} and cannot be downloaded ({error});"
            f" put its four .gz files into {target}"
        ) from None
    return target


class DownloadError(Exception):
    """Why a download failed, in one line."""


@contextmanager
def _downloading(name: str) -> Iterator[None]:
    """Keeps what torchvision prints from the terminal.

    Raises:
        DownloadError: in place of what torchvision raises, of many kinds and on many lines.
    """
    try:
        with busy(f"downloading {name}"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, TarError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        last = lines[-1] if lines else type(error).__name__
        raise DownloadError(re.sub(r"^<urlopen error (?:\[.*?\] )?(.*)>$", r"\1", last)) from None


def _idx(folder: Path, name: str) -> np.ndarray:
    """An array in the IDX format of MNIST, plain or gzipped: magic 0, 0, 8 (bytes), dimensions,
    each dimension as a big-endian 32-bit number, then the bytes."""
    path = folder / f"{name}.gz"
    try:
        if path.exists():
            raw = gzip.decompress(path.read_bytes())
        else:
            path = folder / name
            raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: damaged: {error}") from None
    dimensions = raw[3] if len(raw) > 4 and raw[:3] == b"\0\0\x08" else 0
    shape = tuple(np.frombuffer(raw, ">u4", dimensions, 4)) if dimensions else ()
    start = 4 + 4 * dimensions
    if not shape or len(raw) != start + math.prod(int(s) for s in shape):
        raise InputError(f"{path}: not an IDX file of bytes, or truncated")
    return np.frombuffer(raw, np.uint8, offset=start).reshape([int(s) for s in shape])


def _grey(part: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, list[int]]:
    return torch.from_numpy(part[0].copy())[:, None], [int(label) for label in part[1]]


def _digits(source: Source) -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    order = np.random.default_rng(0).permutation(len(pixels))  # the file is sorted by writer
    test, train = order[:360], order[360:]
    labels = [int(v) for v in bunch.target]
    parts = [(pixels[torch.from_numpy(i)], [labels[j] for j in i]) for i in (train, test)]
    return _in_memory(source, tuple("0123456789"), parts[0], parts[1], "shift")


def _cifar10(source: Source) -> Data:
    from torchvision.datasets import CIFAR10

    root = Path(source.root) if source.root else cache_folder() / "datasets"
    try:
        with _downloading("CIFAR-10"):
            fetch = source.root is None
            parts = [CIFAR10(str(root), train=t, download=fetch) for t in (True, False)]
    except DownloadError as error:
        without = "" if source.root else f" and cannot be downloaded ({error})"
        raise InputError(
            f"data: CIFAR-10 is not in {root}{without}; unpack cifar-10-python.tar.gz there,"
            " or give as root a folder with train/<class>/ and test/<class>/ images"
        ) from None
    arrays = [(torch.from_numpy(p.data).permute(0, 3, 1, 2), list(p.targets)) for p in parts]
    return _in_memory(source, tuple(parts[0].classes), arrays[0], arrays[1], "shift+flip")


def _in_memory(
    source: Source,
    classes: tuple[str, ...],
    train: tuple[Tensor, list[int]],
    test: tuple[Tensor, list[int]],
    augmentation: str,
) -> Data:
    channels = train[0].shape[1]
    if source.channels is not None and source.channels != channels:
        if channels != 1:
            raise InputError(f"data: channels: {source.name} has {channels}, not {source.channels}")
        channels = source.channels
        train, test = ((x.expand(-1, channels, -1, -1), y) for x, y in (train, test))
    given = normalisation_of(source, channels)
    normalisation = given or _measured(train[0])
    augmentation = source.augmentation or augmentation
    whole = MemoryImages(train[0], train[1], normalisation, augmentation)
    cut, rest = split(len(whole), source.validation)
    parts = (
        whole.subset(rest),
        whole.subset(cut),
        MemoryImages(test[0], test[1], normalisation),
    )
    return Data(
        source.name,
        *parts,
        classes=classes,
        channels=channels,
        size=train[0].shape[-1],
        normalisation=normalisation,
        contents={part: _contents(x, classes) for part, x in zip(PARTS, parts, strict=True)},
    )


def _contents(images: MemoryImages, classes: tuple[str, ...]) -> dict[str, list[Any]]:
    """For each class the number of images and a digest of their pixels."""
    found = {}
    for label, name in enumerate(classes):
        pixels = images.pixels[images.labels == label].contiguous()
        found[name] = [len(pixels), hashlib.sha256(pixels.numpy().data).hexdigest()[:16]]
    return found


def _measured(pixels: Tensor) -> Normalisation:
    """Mean and deviation per channel of (N, C, H, W) bytes, from counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.bincount(pixels[:, channel].flatten(), minlength=256).double()
        share = counts / counts.sum()
        mean = float(share @ values)
        means.append(round(mean, 4))
        deviations.append(round(float(share @ (values - mean) ** 2) ** 0.5, 4))
    return Normalisation(tuple(means), tuple(deviations))


def split(n: int, validation: int | None) -> tuple[list[int], list[int]]:
    """Indices of the validation images, cut from n training images, and of the rest. Always the
    same ones, so that runs with different seeds can be compared."""
    wanted = min(10_000, max(1, n // 10)) if validation is None else validation
    if not 0 < wanted < n:
        raise InputError(f"data: validation: {wanted} images cannot be cut from {n}")
    order = np.random.default_rng(0).permutation(n).tolist()
    return order[:wanted], order[wanted:]


NAMED: dict[str, Callable[[Source], Data]] = {
    "fashion-mnist": _fashion_mnist,
    "digits": _digits,
    "cifar10": _cifar10,
}
