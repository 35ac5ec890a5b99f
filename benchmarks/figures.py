"""The figures of a benchmark: printed as a table, written to a file that pages are rendered from.

    figures.add_option(parser)  # --out FILE, as docs/figures/NAME.json
    table = figures.Table({"network": "{name}", "MACs": "{macs:,}"})
    table.add(name="resnet50", macs=4_089_184_256)  # prints the row
    figures.write(given.out, {"costs": table})

A file holds the rows unrounded, how each column is shown, and how they were made. `docs/tables.py`
renders the tables where pages say `<!-- table: NAME -->`. Knows no benchmark.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import string
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onceforall import files
from onceforall.devices import Target
from onceforall.devices.circumstances import provenance

PACKAGES = ("onceforall", "torch", "numpy", "scipy", "scikit-learn")


@dataclass
class Table:
    """Rows of values by name, and the text of each column as a format of them: `{macs:,}`."""

    columns: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""  # what stands below it

    def add(self, **row: Any) -> None:
        """One more row, printed at once: the next may take a while."""
        if not self.rows:
            print(self.head(), flush=True)
        self.rows.append(row)
        print(self.line(row), flush=True)

    def head(self) -> str:
        return "\n".join([_line(list(self.columns)), _line(["---"] * len(self.columns))])

    def line(self, row: dict[str, Any]) -> str:
        return _line([cell(shown, row) for shown in self.columns.values()])

    def __str__(self) -> str:
        lines = [self.head(), *map(self.line, self.rows)]
        return "\n".join([*lines, "", self.note] if self.note else lines)


def cell(shown: str, row: dict[str, Any]) -> str:
    """Empty where the row has no value for something that the format names."""
    names = {name for _, name, _, _ in string.Formatter().parse(shown) if name}
    return "" if any(row.get(name) is None for name in names) else shown.format(**row)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="file for the figures: docs/figures/NAME.json")


def write(path: Path | None, tables: dict[str, Table], *packages: str) -> None:
    """Nothing without a path. `packages`: further ones whose versions matter."""
    if path is not None:
        found = {"made": made(packages), "tables": {n: asdict(t) for n, t in tables.items()}}
        files.write_json(path, found, overwrite=True)


def made(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """How: the command, without --out and the folders of this machine, versions, processor."""
    words, given = ["python", f"benchmarks/{Path(sys.argv[0]).name}"], iter(sys.argv[1:])
    for word in given:
        if word == "--out":
            next(given)
        elif not word.startswith("--out="):
            words.append(_shortened(word))
    versions = {name: _version(name) for name in (*PACKAGES, *packages)}
    return {
        "command": shlex.join(words),
        "versions": {"Python": platform.python_version()}
        | {name: found for name, found in versions.items() if found},
        "processor": provenance(Target("torch-cpu"))["processor"],
    }


def _shortened(word: str) -> str:
    """Without the place of a folder outside of the repository: `../shared/data` is DATA."""
    if Path(word).is_absolute():
        return Path(word).name
    return "DATA" if Path(word).parts[:1] == ("..",) else word


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
