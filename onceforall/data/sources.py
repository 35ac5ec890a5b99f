"""Data sets by name: where they are found, and how they are split.

`fashion-mnist`, `digits` and `cifar10` have a test set of their own, and a validation set
is cut from their training images; how a folder of images is split is in `folders.py`.
Validation images are for choices, test images for the last number. Knows images and
labels; nothing of networks.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onceforall.data.folders import PARTS, Files, changed, read_split, short_sides
from onceforall.data.images import (
    AUGMENTATIONS,
    SMALL,
    FileImages,
    Images,
    MemoryImages,
    Normalisation,
    in_memory,
)
from onceforall.errors import InputError, choices
from onceforall.files import cache_folder, read_json
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
CONTENTS = "data.json"  # in a run's folder: the `contents` of the data it was trained on
IN_MEMORY_BYTES = 2**30  # small images up to this much are held in memory
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Data:
    """A data set, split.

    Attributes:
        size: height and width of the images, pixels; of files of many sizes the median of the
            shorter.
        contents: by part and class the number of images and a digest of them (of files: of their
            names), by which a later look can say what has changed.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    channels: int
    size: int
    normalisation: Normalisation
    contents: Mapping[str, Mapping[str, Any]]

    def digest(self, part: str) -> str:
        """Of the images of a part."""
        text = json.dumps(self.contents[part], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """What whoever uses a network trained on it must know: plain data."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "channels": self.channels,
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
        }


def changes_since(path: Path, data: Data, parts: Sequence[str] = PARTS) -> str:
    """How the images of these parts differ from those whose `contents` a file holds, in a few
    words; "" where they do not, or where there is no such file."""
    return changed(read_json(path), data.contents, parts) if path.exists() else ""


@dataclass(frozen=True)
class Source:
    """What is asked for: all that a config says of data."""

    name: str  # fashion-mnist, digits, cifar10, or a folder of images
    root: str | None = None  # where its files are; None: the usual places, then a download
    validation: int | None = None  # images cut from training; None: a tenth, at most 10,000
    augmentation: str | None = None  # None: what suits the data set
    channels: int | None = None  # 1 or 3; None: the data set's own (folders: 3)
    workers: int = 2  # processes that read image files
    mean: tuple[float, ...] | None = None  # per channel, of pixels 0..1; None: measured or ImageNet
    std: tuple[float, ...] | None = None
    unreadable: float = 0.01  # share of image files that may be damaged; they are left out


def load(source: Source) -> Data:
    """Finds, reads and splits a data set; of CIFAR-10, `root` may also be a folder of its images as
    files.

    Raises:
        InputError: not known, not found, unreadable, or with too few images.
    """
    if source.augmentation is not None and source.augmentation not in AUGMENTATIONS:
        raise InputError(
            f"data: augmentation: {source.augmentation!r}; there are {choices(AUGMENTATIONS)}"
        )
    root = _root(source)
    if root is not None:
        return _folder(source, root)
    if source.name in _NAMED:
        return _NAMED[source.name](source)
    raise InputError(f"data: {source.name!r} is neither a folder nor one of {choices(names())}")


def names() -> list[str]:
    """The data sets that are known by name."""
    return sorted(_NAMED)


def size_of(source: Source) -> int:
    """Height and width of a data set's images, pixels; of files the median of the shorter, from
    their headers alone.

    Raises:
        InputError: as `load`.
    """
    root = _root(source)
    if root is None:
        return load(source).size
    return short_sides(read_split(root, source.validation).train.paths)[1]


def _root(source: Source) -> Path | None:
    """The folder of images that is asked for; None: a data set that is held in memory, or none."""
    if source.name not in _NAMED:
        return Path(source.name) if Path(source.name).is_dir() else None
    root = Path(source.root or "")
    as_files = source.name == "cifar10" and source.root is not None
    return root if as_files and all((root / p).is_dir() for p in ("train", "test")) else None


# --- data sets that are held in memory


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
    given = _normalisation(source, channels)
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
    labels = torch.tensor(images.labels)
    found = {}
    for label, name in enumerate(classes):
        pixels = images.pixels[labels == label].contiguous()
        found[name] = [len(pixels), hashlib.sha256(pixels.numpy().data).hexdigest()[:16]]
    return found


def _normalisation(source: Source, channels: int) -> Normalisation | None:
    for name in ("mean", "std"):
        values = getattr(source, name)
        if values is not None and len(values) != channels:
            raise InputError(f"data: {name}: {len(values)} values for {channels} channels")
    if (source.mean is None) != (source.std is None):
        raise InputError("data: mean and std go together")
    return Normalisation(source.mean, source.std) if source.mean and source.std else None


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


# --- folders of images


def _folder(source: Source, root: Path) -> Data:
    """A folder in the layouts of `folders.read_split`; images of 64 pixels and less are held in
    memory, larger ones read by worker processes."""
    channels = source.channels or 3
    normalisation = _normalisation(source, channels) or default_normalisation(channels)
    split = read_split(root, source.validation)
    _, size, largest = short_sides(split.train.paths)
    files = {part: getattr(split, part) for part in PARTS}
    images = sum(len(part) for part in files.values())
    held = largest <= SMALL and images * channels * largest**2 <= IN_MEMORY_BYTES
    augmentation = source.augmentation or ("shift+flip" if largest <= SMALL else "crop+flip")

    def read(part: Files, augmentation: str) -> Images:
        found = FileImages(
            part.paths,
            part.labels,
            normalisation,
            channels,
            augmentation,
            source.workers,
            most_unreadable=int(source.unreadable * images),
        )
        return in_memory(found, largest) if held else found

    return Data(
        name=str(root),
        train=read(split.train, augmentation),
        validation=read(split.validation, "none"),
        test=read(split.test, "none"),
        classes=split.classes,
        channels=channels,
        size=largest if held else size,
        normalisation=normalisation,
        contents={part: files[part].contents(split.classes) for part in PARTS},
    )


def default_normalisation(channels: int) -> Normalisation:
    return IMAGENET if channels == 3 else Normalisation((0.5,), (0.5,))


_NAMED: dict[str, Callable[[Source], Data]] = {
    "fashion-mnist": _fashion_mnist,
    "digits": _digits,
    "cifar10": _cifar10,
}
