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

    def __init__(self, *paths: Path) -> None:
        """
        Raises:
            InputError: a file is damaged; names the line.
        """
        self._records: dict[tuple[Arch, str, str], list[Record]] = {}
        for path in paths:
            if path.exists():
                self._hold(read_jsonl(path))

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

    def every(self, metric: str, of: Mapping[str, Any]) -> list[Record]:
        """All records of a metric that are of all that `of` names."""
        parts = [records for (_, name, _), records in self._records.items() if name == metric]
        return [record for part in parts for record in part if agrees(record, of)]

    def add(self, path: Path, records: Sequence[Record]) -> None:
        """Appends records to one of the files."""
        add_all(path, records)
        self._hold(records)

    def _hold(self, records: Sequence[Record]) -> None:
        for record in records:
            key = (record.arch, record.metric, record.device)
            self._records.setdefault(key, []).append(record)
