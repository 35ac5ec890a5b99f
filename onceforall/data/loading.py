"""Finds, reads and splits the data set that is asked for, wherever it comes from."""

from __future__ import annotations

from pathlib import Path

from onceforall.data import augmentation, folders, hf, shards
from onceforall.data.batches import SMALL, Images
from onceforall.data.files import FileImages
from onceforall.data.memory import in_memory
from onceforall.data.named import NAMED
from onceforall.data.sizes import short_sides
from onceforall.data.sources import Data, Source, default_normalisation, normalisation_of
from onceforall.data.splits import PARTS, Files, Split
from onceforall.errors import InputError, choices, suggestion

IN_MEMORY_BYTES = 2**30  # small images up to this much are held in memory


def load(source: Source) -> Data:
    """Finds, reads and splits a data set; of CIFAR-10, `root` may also be a folder of its images as
    files.

    Raises:
        InputError: not known, not found, unreadable, or with too few images.
    """
    if source.augmentation is not None:
        augmentation.parse(source.augmentation)
    found = _found(source)
    if isinstance(found, Split):
        return _of_files(source, found)
    if found is None:
        raise InputError(
            f"data: {source.name!r} is neither a folder nor one of {choices(names())}, nor"
            " .tar files (such as images-{000..015}.tar), nor hf:OWNER/NAME"
            + suggestion(source.name, names())
        )
    return NAMED[found](source)


def names() -> list[str]:
    """The data sets that are known by name."""
    return sorted(NAMED)


def size_of(source: Source) -> int:
    """Height and width of a data set's images, pixels; of files the median of the shorter, from
    their headers alone.

    Raises:
        InputError: as `load`.
    """
    found = _found(source)
    return short_sides(found.train.paths)[1] if isinstance(found, Split) else load(source).size


def is_loose(folder: Path) -> bool:
    """Whether it is a folder of single image files: neither of .tar files nor of Hugging Face's."""
    return folder.is_dir() and not hf.is_saved(folder) and not shards.are_meant(str(folder))


def _found(source: Source) -> Split | str | None:
    """Images in files, by part; or the name of a data set; None: it is neither."""
    name, root = source.name, Path(source.name)
    if name in NAMED:
        inside = Path(source.root or "")
        as_files = name == "cifar10" and source.root is not None
        if not (as_files and all((inside / part).is_dir() for part in ("train", "test"))):
            return name
        root = inside
    elif name.startswith(hf.PREFIX) or hf.is_saved(root):
        return hf.read_split(name, source.validation)
    elif shards.are_meant(name):
        return shards.read_split(name, source.validation)
    return folders.read_split(root, source.validation) if root.is_dir() else None


def _of_files(source: Source, split: Split) -> Data:
    """Images of 64 pixels and less are held in memory; larger ones are read by worker processes,
    or held to be trained on (`held`)."""
    channels = source.channels or 3
    normalisation = normalisation_of(source, channels) or default_normalisation(channels)
    _, size, largest = short_sides(split.train.paths)
    files = {part: getattr(split, part) for part in PARTS}
    images = sum(len(part) for part in files.values())
    small = largest <= SMALL and images * channels * largest**2 <= IN_MEMORY_BYTES
    wanted = source.augmentation or ("shift+flip" if largest <= SMALL else "crop+flip")

    def read(part: Files, augmentation: str) -> Images:
        found = FileImages(
            part.paths,
            part.labels,
            normalisation,
            channels,
            augmentation,
            source.workers,
            most_unreadable=int(source.unreadable * images),
            hold=source.hold,
        )
        return in_memory(found, largest) if small else found

    return Data(
        name=split.name,
        train=read(split.train, wanted),
        validation=read(split.validation, "none"),
        test=read(split.test, "none"),
        classes=split.classes,
        channels=channels,
        size=largest if small else size,
        normalisation=normalisation,
        contents={part: files[part].contents(split.classes) for part in PARTS},
    )
