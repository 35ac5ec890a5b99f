"""Labelled images by part: training, validation, test.

The part of an image is a function of its name alone, so that adding or removing some moves no
other from one part to another. Knows names and labels; neither where they come from nor pixels.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.data.paths import Items
from onceforall.errors import InputError, choices

PARTS = ("train", "validation", "test")
SHARE = 0.1  # of the images that are there, for validation and for test where neither is given
MOST_VALIDATION = 10_000  # images, unless a number is asked for


@dataclass(frozen=True)
class Files:
    """Labelled images, sorted by class and name."""

    root: Path  # the folder that they are in
    paths: Items
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int]) -> Files:
        return Files(self.root, self.paths.take(rows), [self.labels[i] for i in rows])

    def names(self) -> list[str]:
        """Names as they are hashed: below the root, with slashes, in Unicode's composed form."""
        below = (self.paths.name(row) for row in range(len(self)))
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
    """Labelled images by part."""

    train: Files
    validation: Files
    test: Files
    classes: tuple[str, ...]
    name: str  # of the data set


def divided(
    files: Files,
    classes: tuple[str, ...],
    where: Path | str,
    *,
    val: Files | None = None,
    test: Files | None = None,
    validation: int | None = None,
) -> Split:
    """The parts of images of which some may be set apart already.

    The test images are those of `test`; of `val`, where there is no `test`; else a tenth. The
    validation images are those of `val` where `test` is there, too; else cut from the training
    images: a tenth, 10,000 at most, or exactly as many as asked for.

    Args:
        where: what an error calls them.

    Raises:
        InputError: one class only, more validation images than there are, or none.
    """
    if len(classes) < 2:
        raise InputError(f"{where}: one class only ({classes[0]}); two or more are expected")
    if val is not None and test is not None:
        if validation is not None:
            raise InputError(
                f"data: validation: {validation} images cannot be cut from training, as"
                f" {val.root} holds the validation images; leave it out"
            )
        return Split(files, val, test, classes, str(where))
    held = test or val
    places = [_place(name) for name in files.names()]
    taken = 0.0  # places of the test images are below this
    if held is None:
        taken = SHARE
        for_test, rest = _cut(files.labels, places, 0.0, taken)
        held, files = files.take(for_test), files.take(rest)
        places = [places[i] for i in rest]
    if validation is not None:
        cut, rest = _exactly(files.labels, places, validation)
    else:
        share = min(SHARE, MOST_VALIDATION / len(files))
        cut, rest = _cut(files.labels, places, taken, taken + (1 - taken) * share)
    for part, name in ((held, "the test"), (files.take(cut), "validation")):
        if not len(part):
            raise InputError(
                f"{where}: has too few images: none is for {name}, as a class needs two for the"
                " test and training, and three for validation, too"
            )
    return Split(files.take(rest), files.take(cut), held, classes, str(where))


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
