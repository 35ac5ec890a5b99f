"""Folders of labelled images: their files and classes. Knows paths; no pixels, no batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from onceforall.data.paths import Names, Paths
from onceforall.data.splits import Files, Split, divided
from onceforall.errors import InputError, choices

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")


def read_split(root: Path, validation: int | None = None) -> Split:
    """The parts of `root/<class>/*.jpg` or `root/{train,val,test}/<class>/*.jpg`: see
    `splits.divided`.

    Raises:
        InputError: no class folders, a class without images, a class that training does not have,
            one class only, more validation images than there are, or none.
    """
    there = {part for part in ("train", "val", "test") if (root / part).is_dir()}
    files, classes = list_folder(root / "train" if "train" in there else root)
    given = {
        part: list_folder(root / part, classes)[0]
        for part in ("val", "test")
        if "train" in there and part in there
    }
    return divided(files, classes, root, validation=validation, **given)


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
    names: list[str] = []
    labels: list[int] = []
    for name in found:
        if name not in known:
            raise InputError(f"{folder / name}: no such class in the training images")
        images = _image_names(folder / name)
        names += [f"{name}/{image}" for image in images]
        labels += [known.index(name)] * len(images)
    return Files(folder, Paths(folder, Names.of(names)), labels), known


def list_images(folder: Path) -> Paths:
    """All image files in a folder and those below it, sorted by name. What is hidden is none of
    them: programs put copies, thumbnails and notes there (`._1.jpg`, `.ipynb_checkpoints`).

    Raises:
        InputError: there are none.
    """
    return Paths(folder, Names.of(_image_names(folder)))


def _image_names(folder: Path) -> list[str]:
    found = []
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if name[0] != "."]
        inside = Path(place).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
        found += [prefix + name for name in images if name[0] != "."]
    if not found:
        raise InputError(f"{folder}: no images in it ({choices(IMAGE_SUFFIXES)})")
    return sorted(found, key=lambda name: name.split("/"))
