"""Archs in tables, one a row, with whatever else is known of them: `Sheet`.

CSV: one metric a column, under `kernel_sizes,expand_ratios,depths,resolution` (digit strings, one
digit a block or a stage; digits of absent blocks mean nothing) or, where a space has choices that
are not one digit, under `arch` (`str(arch)`). JSONL of records is read as such a table, too.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall import files
from onceforall.errors import InputError, choices
from onceforall.records.record import read_jsonl
from onceforall.space import GENE, Arch, Population, Space
from onceforall.space.genes import RESOLUTION
from onceforall.space.stages import block_gene, stage_gene

DIGITS = ("kernel_sizes", "expand_ratios", "depths", "resolution")
ARCH = "arch"

Column = NDArray[np.str_]  # (n,) the cells of a column, as they were written


@dataclass(frozen=True)
class Sheet:
    """The archs of a CSV or JSONL file, with all other columns as text.

    `archs` are the columns that name the archs, as they were written.
    """

    path: Path
    space: Space
    population: Population  # (n, genes)
    columns: Mapping[str, Column]
    lines: NDArray[np.int64]  # (n,) line of each row in the file, counted from 1
    archs: Mapping[str, Column]
    warnings: tuple[str, ...] = ()  # what a person should know before using it
    metrics: tuple[str, ...] = ()  # columns that say metrics, each in the rows it is not "" in
    settings: tuple[Mapping[str, Any], ...] = ()  # those that records name, each once

    def latencies(self) -> list[str]:
        """The columns that can be latencies: numbers above 0, not a few small whole numbers."""
        found = []
        for name in self.metrics or self.columns:
            rows = self.columns[name] != "" if self.metrics else np.ones(len(self.lines), bool)
            part = replace(self, columns={name: self.columns[name][rows]}, lines=self.lines[rows])
            try:
                values = part.numbers(name, positive=True)
            except InputError:
                continue
            if len(values) and (values % 1).any():
                found.append(name)
        return found

    def numbers(self, name: str, *, positive: bool = False) -> NDArray[np.float64]:
        """(n,) a column as finite numbers.

        Raises:
            InputError: no such column, or names the line and the value.
        """
        if name not in self.columns:
            raise InputError(
                f"{self.path}: column {name!r} is missing; it has {choices(self.columns)}"
            )
        values = np.empty(len(self.lines))
        for row, text in enumerate(self.columns[name]):
            try:
                values[row] = math.nan if "_" in text else float(text)
            except ValueError:
                values[row] = math.nan
            wrong = ""
            if not math.isfinite(values[row]):
                wrong = "not a finite number"
            elif positive and values[row] <= 0:
                wrong = "not above 0"
            if wrong:
                raise InputError(
                    f"{self.path} line {self.lines[row]}: {name}: {str(text)!r} is {wrong}"
                )
        return values


def read_archs(path: Path, space: Space, metric: str | None = None) -> Sheet:
    """The archs of a file, CSV or JSONL (by its suffix), and its other columns. With `metric`
    only the rows of a JSONL file that are of this metric.

    Resolutions that the space does not list are added to the sheet's space: networks are fully
    convolutional, and records of other people are of other resolutions.

    Raises:
        InputError: names file, line, column and value: a missing column, a digit string of the
            wrong length, an arch outside the space.
    """
    if path.suffix == ".jsonl":
        return _sheet_of_jsonl(path, space, metric)
    return _sheet_of_csv(path, space)


def as_digits(space: Space) -> bool:
    """Whether the archs of a space can be written as digit strings."""
    return space.staged and all(
        len(stage.width) == 1
        and all(v == int(v) and 0 <= v <= 9 for v in stage.depth + stage.kernel + stage.expand)
        for stage in space.stages
    )


def arch_columns(space: Space, population: Population) -> dict[str, list[str]]:
    """The columns that say which arch a row is; absent blocks get their smallest choice."""
    if not as_digits(space):
        return {ARCH: [str(arch) for arch in space.decode(population)]}
    kernels, expands, depths = [], [], []
    whole = space.canonical(population)
    for s, stage in enumerate(space.stages):
        depths.append(space.values(stage_gene(s, "depth"), whole))
        for b in range(stage.blocks):
            kernels.append(space.values(block_gene(s, b, "kernel"), whole))
            expands.append(space.values(block_gene(s, b, "expand"), whole))
    texts = [_joined(kernels), _joined(expands), _joined(depths)]
    resolution = space.values(RESOLUTION, whole)
    return dict(zip(DIGITS, [*texts, [str(r) for r in resolution]], strict=True))


def write_csv(
    path: Path,
    space: Space,
    population: Population,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    overwrite: bool = False,
) -> None:
    """Writes archs and columns as one CSV, whole or not at all."""
    write_columns(path, {**arch_columns(space, population), **columns}, overwrite=overwrite)


def write_columns(
    path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]], *, overwrite: bool = False
) -> None:
    """Writes columns of one length as a CSV, whole or not at all."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    files.write_text(path, out.getvalue(), overwrite=overwrite)


def _joined(digits: list[NDArray[Any]]) -> list[str]:
    """One text a row of (blocks) x (n,) digits."""
    if not len(digits[0]):
        return []
    codes = (np.stack(digits, 1) + ord("0")).astype(np.uint32)  # (n, blocks)
    return [str(text) for text in np.ascontiguousarray(codes).view(f"<U{codes.shape[1]}")[:, 0]]


def _sheet_of_csv(path: Path, space: Space) -> Sheet:
    text = files.read_text(path)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")), strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        rows, lines = [], []
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except StopIteration:
        raise InputError(f"{path}: is empty") from None
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: {error}") from None
    warnings: tuple[str, ...] = ()
    if rows and not text.endswith("\n") and len(rows[-1]) < len(header):  # by a killed writer
        warnings = (f"{path} line {lines[-1]}: is cut off and was left out",)
        rows, lines = rows[:-1], lines[:-1]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise InputError(f"{path}: column {sorted(twice)[0]!r} is there twice")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{path} line {line}: {len(row)} cells, but the header has {len(header)} columns"
            )
    cells = [list(c) for c in zip(*rows, strict=True)] if rows else [[] for _ in header]
    columns = {n: np.array(c, dtype=np.str_) for n, c in zip(header, cells, strict=True)}
    at = np.array(lines, np.int64)
    if ARCH in columns:
        archs = {ARCH: columns.pop(ARCH)}
        whole, population = _of_texts(path, space, archs[ARCH], at)
    else:
        for name in DIGITS:
            if name not in columns:
                raise InputError(
                    f"{path}: column {name!r} is missing; archs are given as"
                    f" {','.join(DIGITS)} or as {ARCH}, separated by commas; it has"
                    f" {choices(header)}"
                )
        if not as_digits(space):
            raise InputError(
                f"{path}: archs of {space.family} cannot be written as digits;"
                f" give a column {ARCH!r} instead of {choices(DIGITS)}"
            )
        archs = {name: columns.pop(name) for name in DIGITS}
        whole, population = _of_digits(path, space, list(archs.values()), at)
    return Sheet(path, whole, population, columns, at, archs, warnings)


def _of_texts(
    path: Path, space: Space, texts: Column, lines: NDArray[np.int64]
) -> tuple[Space, Population]:
    archs = []
    for text, line in zip(texts, lines, strict=True):
        try:
            archs.append(Arch.parse(str(text)))
            space.check(archs[-1], resolution=False)
        except InputError as error:
            raise InputError(f"{path} line {line}: {ARCH}: {error}") from None
    whole = _holding(space, archs)
    return whole, whole.encode(archs)


def _of_digits(
    path: Path, space: Space, columns: list[Column], lines: NDArray[np.int64]
) -> tuple[Space, Population]:
    blocks = sum(stage.blocks for stage in space.stages)
    digits = []
    for name, texts, length in zip(
        DIGITS[:3], columns[:3], (blocks, blocks, len(space.stages)), strict=True
    ):
        digits.append(_digit_array(path, name, texts, length, lines))
    kernels, expands, depths = digits
    resolutions = []
    for text, line in zip(columns[3], lines, strict=True):
        if not re.fullmatch("[1-9][0-9]{0,3}", text):
            raise InputError(
                f"{path} line {line}: {DIGITS[3]}: {str(text)!r} is not a positive whole number"
                " (of at most 4 digits)"
            )
        resolutions.append(int(text))
    whole = with_resolutions(space, resolutions)
    population = np.zeros((len(lines), len(whole.genes)), GENE)
    population[:, whole.column(RESOLUTION)] = np.searchsorted(whole.resolution, resolutions)
    first = 0
    for s, stage in enumerate(whole.stages):
        where = f"stage {s + 1} depth"
        population[:, whole.column(stage_gene(s, "depth"))] = _index(
            path, DIGITS[2], where, depths[:, s], stage.depth, lines, np.ones(len(lines), bool)
        )
        for b in range(stage.blocks):
            there = depths[:, s] > b
            where = f"stage {s + 1} block {b + 1}"
            for name, kind, given, values in (
                (DIGITS[0], "kernel", kernels, stage.kernel),
                (DIGITS[1], "expand", expands, stage.expand),
            ):
                population[:, whole.column(block_gene(s, b, kind))] = _index(
                    path, name, where, given[:, first + b], values, lines, there
                )
        first += stage.blocks
    return whole, population


def _digit_array(
    path: Path, name: str, texts: Column, length: int, lines: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n, length) the digits of a column."""
    for text, line in zip(texts, lines, strict=True):
        if len(text) != length or not (text.isascii() and text.isdigit()):
            raise InputError(
                f"{path} line {line}: {name}: {str(text)!r} is not {length} digits"
                f" ({len(text)} characters)"
            )
    if not len(texts):
        return np.zeros((0, length), np.int64)
    codes = np.ascontiguousarray(texts.astype(f"<U{length}")).view(np.uint32)
    return codes.reshape(len(texts), length).astype(np.int64) - ord("0")


def _index(
    path: Path,
    name: str,
    where: str,
    given: NDArray[np.int64],
    values: Sequence[float],
    lines: NDArray[np.int64],
    there: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """(n,) which of `values` each digit is; 0 where the block is not there."""
    known = np.array(values)
    index = np.searchsorted(known, given).clip(max=len(known) - 1)
    wrong = np.flatnonzero(there & (known[index] != given))
    if len(wrong):
        raise InputError(
            f"{path} line {lines[wrong[0]]}: {name}: {where} is {given[wrong[0]]};"
            f" it can be {choices(values)}"
        )
    return np.where(there, index, 0)


def with_resolutions(space: Space, resolutions: Sequence[int]) -> Space:
    """The space with these resolutions added to its own."""
    every = tuple(sorted({*space.resolution, *resolutions}))
    return space if every == space.resolution else space.at(every)


def _holding(space: Space, archs: Sequence[Arch]) -> Space:
    """The space with the archs' resolutions, where these are a gene, added to its own."""
    return with_resolutions(space, [a.resolution for a in archs]) if space.scaled else space


def _sheet_of_jsonl(path: Path, space: Space, metric: str | None) -> Sheet:
    """One row a record; device and provenance as columns. With a metric only its records.

    Without one, a metric of several devices has a column for each, `metric@device`; this can be
    named as `metric`, too.
    """
    records = read_jsonl(path)
    devices: dict[str, set[str]] = {}
    for record in records:
        devices.setdefault(record.metric, set()).add(record.device)
    names = [r.metric if len(devices[r.metric]) == 1 else f"{r.metric}@{r.device}" for r in records]
    rows, archs, lines = [], [], []
    settings: list[Mapping[str, Any]] = []
    for number, (record, name) in enumerate(zip(records, names, strict=True), 1):
        if metric not in (None, record.metric, f"{record.metric}@{record.device}"):
            continue
        try:
            space.check(record.arch, resolution=False)
        except InputError as error:
            raise InputError(f"{path} record {number}: {error}") from None
        facts = {
            k: str(v) for k, v in record.provenance.items() if isinstance(v, str | int | float)
        }
        if record.device:
            facts["device"] = record.device
        rows.append({**facts, metric or name: repr(record.value)})
        archs.append(record.arch)
        lines.append(number)
        if record.settings and record.settings not in settings:
            settings.append(record.settings)
    if metric is not None and records and not rows:
        raise InputError(
            f"{path}: has no records of {metric!r}; it has {choices(sorted(set(names)))}"
        )
    columns = {
        name: np.array([row.get(name, "") for row in rows], np.str_)
        for name in dict.fromkeys(name for row in rows for name in row)
    }
    whole = _holding(space, archs)
    return Sheet(
        path,
        whole,
        whole.encode(archs),
        columns,
        np.array(lines, np.int64),
        {ARCH: np.array([str(arch) for arch in archs], np.str_)},
        metrics=tuple(dict.fromkeys(names)) if metric is None else (metric,),
        settings=tuple(settings),
    )
