"""What is asked for, and what is found: a data set, split. Knows no files of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.data.batches import Images, Normalisation
from onceforall.data.splits import PARTS, changed
from onceforall.errors import InputError
from onceforall.files import read_json

CONTENTS = "data.json"  # in a run's folder: the `contents` of the data it was trained on
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
        return digest_of(self.contents[part])

    def part_facts(self, part: str) -> dict[str, Any]:
        """What a score on a part is of: its images, by a digest, and how they are normalised."""
        return images_facts(self.name, part, self.digest(part), self.normalisation)

    def facts(self) -> dict[str, Any]:
        """What whoever uses a network trained on it must know: plain data."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "channels": self.channels,
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
        }


def digest_of(contents: Mapping[str, Any]) -> str:
    """The name that records have for images, of their number and digest by class."""
    text = json.dumps(contents, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def images_facts(name: str, part: str, digest: str, normalisation: Normalisation) -> dict[str, Any]:
    """As records name images that networks were scored on: plain data."""
    pixels = {"mean": list(normalisation.mean), "std": list(normalisation.std)}
    return {"data": name, "split": part, "images_digest": digest, "pixels": pixels}


def changes_since(path: Path, data: Data, parts: Sequence[str] = PARTS) -> str:
    """How the images of these parts differ from those whose `contents` a file holds, in a few
    words; "" where they do not, or where there is no such file."""
    return changed(read_json(path), data.contents, parts) if path.exists() else ""


@dataclass(frozen=True)
class Source:
    """What is asked for: all that a config says of data."""

    name: str
    # fashion-mnist, digits, cifar10; a folder of images, of .tar shards or of a saved data set of
    # Hugging Face's; shards such as "photos-{000..015}.tar"; "hf:OWNER/NAME"
    root: str | None = None  # where its files are; None: the usual places, then a download
    validation: int | None = None  # images cut from training; None: a tenth, at most 10,000
    augmentation: str | None = None  # parts joined by "+"; None: what suits the data
    channels: int | None = None  # 1 or 3; None: the data set's own (folders: 3)
    workers: int = 2  # processes that read image files
    mean: tuple[float, ...] | None = None  # per channel, of pixels 0..1; None: measured or ImageNet
    std: tuple[float, ...] | None = None  # likewise
    unreadable: float = 0.01  # share of image files that may be damaged; they are left out
    hold: str = "auto"
    # whether photos are held in memory to be trained on: "auto" (where they fit), "always", "never"
    balance: str = "none"  # or "sampling": each class comes up equally often in training


def normalisation_of(source: Source, channels: int) -> Normalisation | None:
    for name in ("mean", "std"):
        values = getattr(source, name)
        if values is not None and len(values) != channels:
            raise InputError(f"data: {name}: {len(values)} values for {channels} channels")
    if (source.mean is None) != (source.std is None):
        raise InputError("data: mean and std go together")
    return Normalisation(source.mean, source.std) if source.mean and source.std else None


def default_normalisation(channels: int) -> Normalisation:
    return IMAGENET if channels == 3 else Normalisation((0.5,), (0.5,))
