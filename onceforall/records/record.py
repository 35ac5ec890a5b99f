"""One measurement, and the file it is appended to: `Record`.

JSONL, one record a line, written as the measuring goes on; a writer that is killed loses at most
its last line. Knows nothing of tables and of predictors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from onceforall import files
from onceforall.errors import InputError, choices
from onceforall.space import Arch


@dataclass(frozen=True)
class Record:
    """One measurement of one arch: `value` in `unit`, on `device` ("" where it has none).
    `settings` are those of the arch's family that are not its own (classes, channels).

    Raises:
        InputError: the value is not a finite number, or the metric has no name.
    """

    arch: Arch
    metric: str
    value: float
    unit: str
    device: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise InputError(f"record: metric: {self.metric!r} is not a name")
        given = self.value
        if isinstance(given, bool) or not isinstance(given, int | float | np.number):
            raise InputError(f"record: {self.metric}: {given!r} is not a number")
        if not math.isfinite(given):
            raise InputError(f"record: {self.metric}: {given} is not a finite number")
        object.__setattr__(self, "value", float(given))
        object.__setattr__(self, "provenance", dict(self.provenance))
        object.__setattr__(self, "settings", dict(self.settings))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return {
            "arch": str(self.arch),
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "device": self.device,
            "provenance": dict(self.provenance),
            **({"settings": dict(self.settings)} if self.settings else {}),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Record:
        """The record that `to_dict` wrote; `device`, `provenance` and `settings` may be left
        out.

        Raises:
            InputError: names the first field that is missing, unknown or of a wrong type.
        """
        if not isinstance(data, dict):
            raise InputError(f"record: {type(data).__name__} given, an object was expected")
        for name in ("arch", "metric", "value", "unit"):
            if name not in data:
                raise InputError(f"record: {name!r} is missing")
        for name in data:
            if name not in cls.__dataclass_fields__:
                known = choices(cls.__dataclass_fields__)
                raise InputError(f"record: unknown key {name!r}; it has {known}")
        rest = {k: v for k, v in data.items() if k != "arch"}
        for name in ("unit", "device"):
            if not isinstance(rest.get(name, ""), str):
                raise InputError(f"record: {name}: {rest[name]!r} is not a text")
        for name in ("provenance", "settings"):
            if not isinstance(rest.get(name, {}), dict):
                raise InputError(f"record: {name}: {rest[name]!r} is not an object")
        if not isinstance(data["arch"], str):
            raise InputError(f"record: arch: {data['arch']!r} is not a text")
        return cls(Arch.parse(data["arch"]), **rest)


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """The file, open for lines to be added (`add`); a torn last line is cut off first, so that
    what a killed writer left behind never joins the next line."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a file was expected")
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        yield file


def add(file: TextIO, record: Record) -> None:
    """Appends one record to a JSONL file opened by `appending`, through to the disk's cache."""
    file.write(json.dumps(record.to_dict()) + "\n")
    file.flush()
    os.fsync(file.fileno())


def add_all(path: Path, records: Sequence[Record]) -> None:
    """Appends records to a JSONL file, which is made where it is not there."""
    with appending(path) as file:
        for record in records:
            add(file, record)


def read_jsonl(path: Path) -> list[Record]:
    """All records of a file. A last line without an end is what a killed writer left, and is
    left out.

    Raises:
        InputError: names the line and what is wrong with it.
    """
    text = files.read_text(path)
    lines = text.split("\n")[:-1]  # what follows the last line break is empty, or torn
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_dict(json.loads(line)))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {number}: not JSON: {error}") from None
        except InputError as error:
            raise InputError(f"{path} line {number}: {error}") from None
    return records


def write_jsonl(path: Path, records: Sequence[Record], *, overwrite: bool = False) -> None:
    """Writes a whole file, or nothing."""
    text = "".join(json.dumps(r.to_dict()) + "\n" for r in records)
    files.write_text(path, text, overwrite=overwrite)


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
