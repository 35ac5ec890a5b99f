"""Names of many images, in two arrays: a million take 60 MB once, and nothing in each worker.

A Python list of paths is copied into every worker process, page by page as it is looked at;
tensors are shared. Knows where the bytes of an image are; nothing of what is in them.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, overload

import numpy as np
import torch


class Names:
    """Texts, one after the other as bytes, and where each begins."""

    def __init__(self, bytes_: torch.Tensor, starts: torch.Tensor) -> None:
        self.bytes, self.starts = bytes_, starts  # (B,) uint8; (N + 1,) int64

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Also of names that are not in UTF-8, as old archives have them."""
        encoded = [os.fsencode(text) for text in texts]
        starts = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=starts[1:])
        joined = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
        return cls(torch.from_numpy(joined), torch.from_numpy(starts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> str:
        start, end = self.starts[row : row + 2].tolist()
        return os.fsdecode(self.bytes[start:end].numpy().tobytes())

    def take(self, rows: Sequence[int]) -> Names:
        chosen = np.asarray(rows, np.int64)
        starts = self.starts.numpy()
        lengths = starts[chosen + 1] - starts[chosen]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        from_ = np.repeat(starts[chosen] - ends[:-1], lengths) + np.arange(ends[-1])
        return Names(self.bytes[torch.from_numpy(from_)], torch.from_numpy(ends))


class Items(Sequence[Path]):
    """Images by number: their names as paths, and their bytes."""

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> list[Path]: ...
    def __getitem__(self, row: int | slice) -> Path | list[Path]:
        if isinstance(row, slice):
            return [self.path(i) for i in range(len(self))[row]]
        return self.path(range(len(self))[row])

    @abstractmethod
    def path(self, row: int) -> Path:
        """What an error calls it; of files, where it is."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What it is called whatever folder it is in, with slashes."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> Items: ...

    @abstractmethod
    def file(self, row: int) -> Path | IO[bytes]:
        """What a decoder reads.

        Raises:
            OSError: its bytes cannot be had.
        """


class Paths(Items):
    """Files, named from a folder."""

    def __init__(self, root: Path, names: Names) -> None:
        self.root, self.names = root, names

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Paths:
        return cls(Path(), Names.of(map(str, paths)))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        return self.root / self.names[row]

    def name(self, row: int) -> str:
        return Path(self.names[row]).as_posix()

    def take(self, rows: Sequence[int]) -> Paths:
        return Paths(self.root, self.names.take(rows))

    def file(self, row: int) -> Path:
        return self.path(row)


def items_of(paths: Sequence[Path]) -> Items:
    return paths if isinstance(paths, Items) else Paths.of(paths)
