"""Data sets of Hugging Face's library `datasets`, by name or saved in a folder.

Knows which of their columns are images and classes; images are decoded as files are. The
library is imported when such a data set is asked for.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from onceforall.data.paths import Items
from onceforall.data.splits import Files, Split, divided
from onceforall.errors import InputError, MissingExtraError, choices
from onceforall.progress import busy

PREFIX = "hf:"
_PARTS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LABELS = ("label", "labels", "cls", "class", "fine_label")  # looked for in this order


class Rows(Items):
    """Images in a column of a data set."""

    def __init__(self, dataset: Any, column: str, part: str, rows: torch.Tensor) -> None:
        self.dataset, self.column, self.part, self.rows = dataset, column, part, rows

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, row: int) -> Path:
        return Path(self.name(row))

    def name(self, row: int) -> str:
        return f"{self.part}/{int(self.rows[row])}"

    def take(self, rows: Sequence[int]) -> Rows:
        chosen = torch.as_tensor(rows, dtype=torch.long)
        return Rows(self.dataset, self.column, self.part, self.rows[chosen])

    def file(self, row: int) -> Path | IO[bytes]:
        found = self.dataset[int(self.rows[row])][self.column]
        if found is not None and found["bytes"] is not None:
            return io.BytesIO(found["bytes"])
        if found is not None and found["path"]:
            return Path(found["path"])
        raise OSError(errno.ENOENT, "the data set has no image there")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_split(name: str, validation: int | None = None) -> Split:
    """The parts of `hf:OWNER/NAME` (downloaded, or from the library's cache) or of a folder.

    Raises:
        InputError: the library is not installed, the data set is not found, or it has no column of
            images or of classes; or as `splits.divided`.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("Hugging Face's datasets", "hf", f"data: {name}") from None
    try:
        if name.startswith(PREFIX):
            with busy(f"loading {name}"):
                found = datasets.load_dataset(name.removeprefix(PREFIX))
        else:
            found = datasets.load_from_disk(name)
    except Exception as error:  # the library, and those it downloads with, raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise InputError(f"data: {name}: cannot be loaded: {reason}") from None
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    chosen = {
        part: next((parts[known] for known in names if known in parts), None)
        for part, names in _PARTS.items()
    }
    train = chosen["train"]
    if train is None:
        raise InputError(f"data: {name}: has no part called train, but {choices(parts)}")
    image, label = _columns(train, datasets, name)
    classes = _classes(train, label, name)
    files = {
        part: _files(dataset, datasets, image, label, classes, part)
        for part, dataset in chosen.items()
        if dataset is not None
    }
    given = {part: found for part in ("val", "test") if (found := files.get(part)) is not None}
    if files["train"] is None:
        raise InputError(f"data: {name}: {label}: of the training images some have no class")
    return divided(files["train"], classes, name, validation=validation, **given)


def _columns(dataset: Any, datasets: Any, name: str) -> tuple[str, str]:
    """Of images, and of classes."""
    kinds = dataset.features
    images = [c for c, kind in kinds.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        known = [c for c in images if c == "image"]
        if not known:
            raise InputError(
                f"data: {name}: needs a column of images; its columns are {choices(kinds)}"
            )
        images = known
    named = [c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if len(named) != 1:
        named = [c for c in _LABELS if c in kinds]
    if not named:
        raise InputError(
            f"data: {name}: needs a column of classes, such as label; its columns are"
            f" {choices(kinds)}"
        )
    return images[0], named[0]


def _classes(dataset: Any, label: str, name: str) -> tuple[str, ...]:
    given = getattr(dataset.features[label], "names", None)
    if given is not None:
        return tuple(map(str, given))
    found = sorted(set(dataset.with_format(None)[label][:]))
    if not all(isinstance(value, int | str) for value in found):
        raise InputError(f"data: {name}: {label}: {found[0]!r} is no class")
    return tuple(map(str, found))


def _files(
    dataset: Any, datasets: Any, image: str, label: str, classes: tuple[str, ...], part: str
) -> Files | None:
    """None: some have no class, as in the test sets of challenges."""
    values = dataset.with_format(None)[label][:]
    if getattr(dataset.features[label], "names", None) is None:
        number = {name: i for i, name in enumerate(classes)}
        values = [number.get(str(value), -1) for value in values]
    labels = np.array([-1 if value is None else value for value in values], np.int64)
    if (labels < 0).any():
        return None
    encoded = dataset.cast_column(image, datasets.Image(decode=False)).with_format(None)
    rows = Rows(encoded.select_columns([image]), image, part, torch.arange(len(labels)))
    return Files(Path(part), rows, labels.tolist())
