"""Images in .tar files, as WebDataset has them: `KEY.jpg` beside `KEY.cls` or `KEY.json`.

Where each image lies is found once and kept in the cache folder, for as long as a .tar has the
same size and date; then images are read by their place, in any order, as files are. Nothing is
unpacked to disk, and members of other kinds (pickles among them) are never opened. Knows the
form of the archives; no pixels.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from onceforall.data.folders import IMAGE_SUFFIXES
from onceforall.data.paths import Items, Names
from onceforall.data.splits import Files, Split, divided
from onceforall.errors import InputError
from onceforall.files import cache_folder, read_text, write_atomically
from onceforall.progress import track

CLASSES = "classes.txt"  # beside the shards: a name a line, in the order of their numbers
LABELS = ("cls", "json")
LARGEST_LABEL = 2**20  # bytes
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 100_000  # shards of one name
_FORM = "1"  # of the files in the cache folder


@dataclass(frozen=True)
class Index:
    """What a .tar holds: an entry a sample."""

    names: Names  # of the images in it
    labels: Names  # as texts
    places: np.ndarray  # (N, 2) int64: where the bytes of an image begin, and how many they are


class Members(Items):
    """Images in .tar files."""

    def __init__(
        self, shards: tuple[Path, ...], shard: torch.Tensor, places: torch.Tensor, names: Names
    ) -> None:
        self.shards, self.shard, self.places, self.names = shards, shard, places, names

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        return self.shards[int(self.shard[row])] / self.names[row]

    def name(self, row: int) -> str:
        return f"{self.shards[int(self.shard[row])].name}/{self.names[row]}"

    def take(self, rows: Sequence[int]) -> Members:
        chosen = torch.as_tensor(rows, dtype=torch.long)
        return Members(self.shards, self.shard[chosen], self.places[chosen], self.names.take(rows))

    def file(self, row: int) -> IO[bytes]:
        start, size = self.places[row].tolist()
        with self.shards[int(self.shard[row])].open("rb") as shard:
            shard.seek(start)
            content = shard.read(size)
        if len(content) < size:
            raise OSError(errno.EIO, "the .tar ends before the image does")
        return io.BytesIO(content)


def are_meant(name: str) -> bool:
    """Whether a name is that of .tar files, or of a folder of them."""
    return name.endswith(".tar") or any(
        any(folder.glob("*.tar")) for folder in (Path(name), Path(name) / "train")
    )


def read_split(name: str, validation: int | None = None) -> Split:
    """The parts of FOLDER/*.tar, of FOLDER/{train,val,test}/*.tar, or of NAME-{000..015}.tar.

    Raises:
        InputError: a shard is missing or damaged, a sample has no label, or as `splits.divided`.
    """
    root = Path(name)
    apart = {part: _named(root / part) for part in ("train", "val", "test")}
    parts = {part: found for part, found in apart.items() if found} if apart["train"] else {}
    parts = parts or {"train": expanded(name) if name.endswith(".tar") else _named(root)}
    folder = root.parent if name.endswith(".tar") else root
    read = {part: _read(found) for part, found in parts.items()}
    listed = folder / CLASSES
    if listed.is_file():
        classes = tuple(line.strip() for line in read_text(listed).splitlines() if line.strip())
    else:
        classes = _in_order({label for _, labels in read.values() for label in labels})
    files = {part: _files(folder, *found, classes) for part, found in read.items()}
    return divided(
        files["train"],
        classes,
        name,
        val=files.get("val"),
        test=files.get("test"),
        validation=validation,
    )


def expanded(name: str) -> tuple[Path, ...]:
    """The files of a name such as `images-{000..015}.tar`.

    Raises:
        InputError: the range has no end, or a file is missing.
    """
    found = _RANGE.search(name)
    names = [name]
    if found is not None:
        first, last = found.groups()
        if not 0 <= int(last) - int(first) < _MOST:
            raise InputError(f"data: name: {name}: {found[0]} is not a range of 1 to {_MOST:,}")
        numbers = range(int(first), int(last) + 1)
        width = len(first)
        names = [f"{name[: found.start()]}{n:0{width}}{name[found.end() :]}" for n in numbers]
    paths = tuple(map(Path, names))
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file, one of {len(paths)} of data.name={name}")
    return paths


def _named(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in folder.glob("*.tar") if p.name[0] != "."))


def _in_order(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _read(shards: tuple[Path, ...]) -> tuple[Members, list[str]]:
    found = [index_of(shard) for shard in track(shards, "looking into .tar files")]
    names = [index.names[row] for index in found for row in range(len(index.names))]
    labels = [index.labels[row] for index in found for row in range(len(index.labels))]
    counts = torch.tensor([len(index.names) for index in found])
    shard = torch.arange(len(shards), dtype=torch.int32).repeat_interleave(counts)
    places = torch.from_numpy(np.concatenate([index.places for index in found]))
    return Members(shards, shard, places, Names.of(names)), labels


def _files(folder: Path, members: Members, labels: list[str], classes: tuple[str, ...]) -> Files:
    number = {name: i for i, name in enumerate(classes)}
    known = {**number, **{str(i): i for i in range(len(classes)) if str(i) not in number}}
    for row, label in enumerate(labels):
        if label not in known:
            raise InputError(
                f"{members[row]}: label {label!r} is no class of {folder / CLASSES}"
                f" ({len(classes)} names)"
            )
    return Files(folder, members, [known[label] for label in labels])


def index_of(shard: Path) -> Index:
    """What is in a .tar, from the cache folder or by looking through it.

    Raises:
        InputError: it is missing or damaged, or a sample in it has no label, or no one.
    """
    try:
        about = shard.stat()
    except OSError as error:
        raise InputError(f"{shard}: {error.strerror}") from None
    state = f"{_FORM} {about.st_size} {about.st_mtime_ns}"
    digest = hashlib.sha256(str(shard.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    cached = cache_folder() / "shards" / f"{digest[:24]}.npz"
    damaged = (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError)
    with suppress(*damaged), np.load(cached, allow_pickle=False) as held:
        if str(held["state"]) == state:
            return Index(_names(held, "names"), _names(held, "labels"), held["places"])
    index = _scan(shard)
    arrays: dict[str, Any] = {
        "state": np.array(state),
        "places": index.places,
        "names": index.names.bytes.numpy(),
        "names_starts": index.names.starts.numpy(),
        "labels": index.labels.bytes.numpy(),
        "labels_starts": index.labels.starts.numpy(),
    }
    with suppress(OSError, InputError):  # without it the next run looks again
        write_atomically(cached, lambda path: np.savez(path, **arrays), overwrite=True)
    return index


def _names(held: Any, name: str) -> Names:
    return Names(torch.from_numpy(held[name]), torch.from_numpy(held[f"{name}_starts"]))


def _scan(shard: Path) -> Index:
    images: dict[str, tuple[str, int, int]] = {}  # by key: name, place, size
    labels: dict[str, str] = {}
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # of which it would keep all
                key, kind = _key(member.name)
                if not member.isfile() or key is None:
                    continue
                if f".{kind}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise InputError(f"{shard}: {member.name}: sample {key} has two images")
                    images[key] = (member.name, member.offset_data, member.size)
                elif kind in LABELS and (kind == "cls" or key not in labels):
                    label = _label(tar, member, f"{shard}: {member.name}")
                    if label is not None:
                        labels[key] = label
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise InputError(f"{shard}: damaged: no header at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{shard}: not a .tar file, or damaged: {error}") from None
    if not images:
        raise InputError(f"{shard}: no images in it; KEY.jpg beside KEY.cls is expected")
    for key, (name, _, _) in images.items():
        if key not in labels:
            raise InputError(f"{shard}: {name}: no label; {key}.cls or {key}.json is expected")
    return Index(
        Names.of(name for name, _, _ in images.values()),
        Names.of(labels[key] for key in images),
        np.array([place[1:] for place in images.values()], np.int64),
    )


def _key(name: str) -> tuple[str | None, str]:
    """The sample a member belongs to, and its kind: its name up to the first point after the last
    slash, and what follows, in small letters. None: it is hidden."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return (folder + slash + key if key else None), kind.lower()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> str | None:
    """The class of a sample: the text of .cls, or "label" or "cls" of .json; None: it has none."""
    if member.size > LARGEST_LABEL:
        raise InputError(f"{where}: {member.size:,} bytes are no label")
    file = tar.extractfile(member)
    content = file.read() if file is not None else b""
    try:
        text = content.decode("utf-8").strip()
        value = text if member.name.lower().endswith(".cls") else _of_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no label: {error}") from None
    if value == "":
        raise InputError(f"{where}: empty, a class is expected")
    return value


def _of_json(found: Any) -> str | None:
    if isinstance(found, dict):
        found = found.get("label", found.get("cls"))
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise ValueError(f"{found!r} is no class")
    return str(found).strip()
