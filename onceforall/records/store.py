"""Measured values that are found again by what they are of: `Store`.

Knows JSONL files of records; nothing of how they were measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from onceforall.records.identity import agrees
from onceforall.records.record import Record, add_all, read_jsonl
from onceforall.space import Arch


class Store:
    """The records of a few files, which need not be there yet. What is added is on the disk at
    once."""

    def __init__(self, *paths: Path, first: Sequence[int] | None = None) -> None:
        """
        Args:
            first: how many records of each file are taken; None: all.

        Raises:
            InputError: a file is damaged; names the line.
        """
        self._records: dict[tuple[Arch, str, str], list[Record]] = {}
        self.counts: list[int] = []  # of the records taken from each file
        for i, path in enumerate(paths):
            found = read_jsonl(path) if path.exists() else []
            found = found if first is None else found[: first[i]]
            self._hold(found)
            self.counts.append(len(found))

    def find(
        self,
        arch: Arch,
        metric: str,
        of: Mapping[str, Any],
        device: str = "",
        without: Collection[str] = (),
    ) -> Record | None:
        """The latest record of the arch that is of all that `of` names, and names nothing of
        `without`; None: there is none."""
        for record in reversed(self._records.get((arch, metric, device), [])):
            if not any(name in record.provenance for name in without) and agrees(record, of):
                return record
        return None

    def every(
        self,
        metric: str,
        of: Mapping[str, Any],
        device: str = "",
        without: Collection[str] = (),
    ) -> list[Record]:
        """All records of a metric that are of all that `of` names, and name nothing of `without`;
        those of one arch in the order in which they were added."""
        return [
            record
            for (_, *what), records in self._records.items()
            if what == [metric, device]
            for record in records
            if not any(name in record.provenance for name in without) and agrees(record, of)
        ]

    def add(self, path: Path, records: Sequence[Record]) -> None:
        """Appends records to one of the files."""
        add_all(path, records)
        self._hold(records)

    def _hold(self, records: Sequence[Record]) -> None:
        for record in records:
            key = (record.arch, record.metric, record.device)
            self._records.setdefault(key, []).append(record)
