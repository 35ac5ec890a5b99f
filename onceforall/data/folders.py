"""Folders of labelled images: their files and classes, their sizes, and which part a file is in.

A file's part (training, validation, test) is a function of its path alone, so that adding or
removing files moves no other file from one part to another. Knows paths and image headers; no
pixels, no batches.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onceforall.errors import InputError, choices

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")
PARTS = ("train", "validation", "test")
SHARE = 0.1  # of the images that are there, for validation and for test where neither has a folder
MOST_VALIDATION = 10_000  # images, unless a number is asked for
SAMPLED = 256  # files whose size is looked up


@dataclass(frozen=True)
class Files:
    """Labelled image files, sorted by class and name."""

    root: Path  # the folder that the class folders are in
    paths: list[Path]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int]) -> Files:
        return Files(self.root, [self.paths[i] for i in rows], [self.labels[i] for i in rows])

    def names(self) -> list[str]:
        """Paths as they are hashed: below the root, with slashes, in Unicode's composed form."""
        below = (path.relative_to(self.root).as_posix() for path in self.paths)
        return [unicodedata.normalize("NFC", name) for name in below]

    def contents(self, classes: Sequence[str]) -> dict[str, list[Any]]:
        """For each class the number of files and a digest of their names: plain data."""
        members: dict[str, list[str]] = {name: [] for name in classes}
        for name, label in zip(self.names(), self.labels, strict=True):
            members[classes[label]].append(name)
        return {
            name: [len(files), hashlib.sha256(_bytes("\n".join(sorted(files)))).hexdigest()[:16]]
            for name, files in members.items()
        }


@dataclass(frozen=True)
class Split:
    """The files of a folder by part."""

    train: Files
    validation: Files
    test: Files
    classes: tuple[str, ...]


def read_split(root: Path, validation: int | None = None) -> Split:
    """The parts of `root/<class>/*.jpg` or `root/{train,val,test}/<class>/*.jpg`.

    The test images are those of `test`; of `val`, where there is no `test`; else a tenth. The
    validation images are those of `val` where `test` is there, too; else cut from the training
    images: a tenth, 10,000 at most, or exactly as many as asked for.

    Raises:
        InputError: no class folders, a class without images, a class that training does not have,
            one class only, more validation images than there are, or none.
    """
    there = {part for part in ("train", "val", "test") if (root / part).is_dir()}
    files, classes = list_folder(root / "train" if "train" in there else root)
    if len(classes) < 2:
        raise InputError(f"{root}: one class only ({classes[0]}); a folder a class is expected")
    places = [_place(name) for name in files.names()]
    taken = 0.0  # places of the test images are below this
    if "train" in there and there & {"val", "test"}:
        held = list_folder(root / ("test" if "test" in there else "val"), classes)[0]
    else:
        taken = SHARE
        test, rest = _cut(files.labels, places, 0.0, taken)
        held, files = files.take(test), files.take(rest)
        places = [places[i] for i in rest]
    if {"train", "val", "test"} <= there:
        if validation is not None:
            raise InputError(
                f"data: validation: {validation} images cannot be cut from training, as"
                f" {root / 'val'} holds the validation images; leave it out"
            )
        return Split(files, list_folder(root / "val", classes)[0], held, classes)
    if validation is not None:
        cut, rest = _exactly(files.labels, places, validation)
    else:
        share = min(SHARE, MOST_VALIDATION / len(files))
        cut, rest = _cut(files.labels, places, taken, taken + (1 - taken) * share)
    for part, name in ((held, "the test"), (files.take(cut), "validation")):
        if not len(part):
            raise InputError(
                f"{root}: has too few images: none is for {name}, as a class needs two for the test"
                " and training, and three for validation, too"
            )
    return Split(files.take(rest), files.take(cut), held, classes)


def list_folder(
    folder: Path, classes: Sequence[str] | None = None
) -> tuple[Files, tuple[str, ...]]:
    """The images of `folder/<class>/**/*.jpg`, sorted by name, and the classes.

    Args:
        classes: those of the training set, where this is another part of it.

    Raises:
        InputError: no class folders, a class without images, one that is not in `classes`, or
            parts of a data set in place of classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."))
    if not found:
        raise InputError(f"{folder}: no class folders in it; FOLDER/<class>/<image> is expected")
    if set(found) == {"val", "test"}:
        raise InputError(f"{folder}: test and val are no classes, and train is not there")
    known = tuple(classes) if classes is not None else found
    paths: list[Path] = []
    labels: list[int] = []
    for name in found:
        if name not in known:
            raise InputError(f"{folder / name}: no such class in the training images")
        images = list_images(folder / name)
        paths += images
        labels += [known.index(name)] * len(images)
    return Files(folder, paths, labels), known


def list_images(folder: Path) -> list[Path]:
    """All image files in a folder and those below it, sorted by name. What is hidden is none of
    them: programs put copies, thumbnails and notes there (`._1.jpg`, `.ipynb_checkpoints`).

    Raises:
        InputError: there are none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    images = [p for p in found if not any(n[0] == "." for n in p.relative_to(folder).parts)]
    if not images:
        raise InputError(f"{folder}: no images in it ({choices(IMAGE_SUFFIXES)})")
    return images


def _place(name: str) -> float:
    """Where a file's name falls between 0 and 1: its hash."""
    digest = hashlib.blake2b(_bytes(name), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _bytes(name: str) -> bytes:
    """Also of a name that is not in UTF-8, as old archives have them."""
    return name.encode("utf-8", "surrogateescape")


def _cut(
    labels: Sequence[int], places: Sequence[float], low: float, high: float
) -> tuple[list[int], list[int]]:
    """Rows whose place is at least `low` and below `high`, and the others: the same share of each
    class but for chance. A class of two or more has one at least on both sides."""
    inside = {i for i, place in enumerate(places) if low <= place < high}
    for rows in _by_class(labels):
        there = [i for i in rows if i in inside]
        if len(rows) < 2:
            inside.difference_update(rows)
        elif not there:
            inside.add(min(rows, key=places.__getitem__))
        elif len(there) == len(rows):
            inside.discard(max(rows, key=places.__getitem__))
    return sorted(inside), [i for i in range(len(labels)) if i not in inside]


def _exactly(labels: Sequence[int], places: Sequence[float], n: int) -> tuple[list[int], list[int]]:
    """n rows, the same share of each class, those with the lowest places; and the others."""
    if not 0 < n < len(labels):
        raise InputError(f"data: validation: {n} images cannot be cut from {len(labels)}")
    rank = {}
    for rows in _by_class(labels):
        for k, i in enumerate(sorted(rows, key=places.__getitem__)):
            rank[i] = ((k + 0.5) / len(rows), places[i])
    order = sorted(rank, key=rank.__getitem__)
    return sorted(order[:n]), sorted(order[n:])


def _by_class(labels: Sequence[int]) -> list[list[int]]:
    rows: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    return list(rows.values())


def short_sides(paths: Sequence[Path]) -> tuple[int, int, int]:
    """Smallest, median and largest short side, pixels, of up to 256 files spread over the list.

    Raises:
        InputError: none of them can be read.
    """
    from PIL import Image

    sides = []
    rows = np.linspace(0, len(paths) - 1, min(SAMPLED, len(paths))).round().astype(int)
    for row in dict.fromkeys(rows.tolist()):
        try:
            with Image.open(paths[row]) as image:  # reads the header only
                sides.append(min(image.size))
        except Exception:  # of a damaged file, decoders raise many kinds
            continue
    if not sides:
        raise InputError(f"{paths[0]}: not an image, or damaged, as are all others looked at")
    return min(sides), int(np.median(sides)), max(sides)


def changed(before: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str]) -> str:
    """What differs between two `contents` by part, in a few words; "" where nothing does."""
    found = []
    for part in parts:
        was, is_now = before.get(part, {}), now.get(part, {})
        for name in sorted({*was, *is_now}):
            old, new = was.get(name, [0, ""]), is_now.get(name, [0, ""])
            if old != new:
                how = "other files" if old[0] == new[0] else f"{old[0]} then, {new[0]} now"
                found.append(f"{part} {name}: {how}")
    return choices(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
