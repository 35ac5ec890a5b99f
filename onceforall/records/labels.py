"""Archs with a measured value each, as arrays that predictors are fitted on: `Labels`.

Says what a person should know of them: what was measured twice, and how far apart. Knows no
predictors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError, choices
from onceforall.records.identity import refuse_mixed, settings_in
from onceforall.records.sheets import Column, read_archs
from onceforall.space import Population, Space


@dataclass(frozen=True)
class Labels:
    """Archs and one measured value for each.

    Attributes:
        space: the space of the population. Its resolutions are those of the given space and
            those met in the file.
        population: (n, genes).
        values: (n,) of `metric`, finite; in the order of the file.
        columns: the other columns of the file, as text, (n,) each.
        settings: of the archs' family, where they are not its own (`families.settings`).
        warnings: what a person should know before using them.
    """

    space: Space
    metric: str
    population: Population
    values: NDArray[np.float64]
    columns: Mapping[str, Column] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any]) -> Labels:
        """The labels of some rows (indices or a mask)."""
        return replace(
            self,
            population=self.population[rows],
            values=self.values[rows],
            columns={k: v[rows] for k, v in self.columns.items()},
        )

    def at_own_resolutions(self) -> Labels:
        """The same labels of a space that has no other resolutions than theirs."""
        if not self.space.scaled:
            return self
        used, index = np.unique(self.population[:, 0], return_inverse=True)
        population = self.population.copy()
        population[:, 0] = index.reshape(-1)
        sizes = tuple(self.space.resolution[i] for i in used)
        return replace(self, space=self.space.at(sizes), population=population)


def read_labels(
    path: Path,
    space: Space,
    metric: str,
    *,
    positive: bool = False,
    device: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Labels:
    """The archs of a file and their measured `metric`; with `device`, only what was measured there.
    `settings` are those of the archs' family that are not its own; None: as its records say.

    Rows that are equal in everything are one record; an arch that was measured several times
    with different results is kept as often as it was measured, with a warning that says how far
    the results are apart.

    Raises:
        InputError: as `read_archs`; a value that is not finite or, with `positive`, not above 0;
            no rows at all, or none of `device`; a JSONL file whose records of the metric are of
            several devices and none is named, or of several supernets, machines or runtimes;
            records of networks with other settings.
    """
    sheet = read_archs(path, space, metric)
    if not len(sheet.lines):
        raise InputError(f"{path}: has no records")
    values = sheet.numbers(metric, positive=positive)
    rest = {k: v for k, v in sheet.columns.items() if k != metric}
    named = settings_in(path, sheet.settings, settings)
    labels = Labels(sheet.space, metric, sheet.population, values, rest, named)
    if device:
        labels = _of_device(labels, device, path)
    elif path.suffix == ".jsonl":
        _check_one_device(labels, path)
    if path.suffix == ".jsonl":
        refuse_mixed(path, labels.metric, labels.columns)
    merged = _merged(labels, path)
    return replace(merged, warnings=sheet.warnings + merged.warnings)


def by_device(labels: Labels) -> list[Labels]:
    """The labels of each device by themselves, where a column `device` names several."""
    if "device" not in labels.columns:
        return [labels]
    devices = labels.columns["device"]
    parts = [labels.take(devices == name) for name in dict.fromkeys(devices.tolist())]
    if len(parts) == 1:
        return parts
    return [replace(p, metric=f"{p.metric}@{p.columns['device'][0]}") for p in parts]


def _of_device(labels: Labels, device: str, path: Path) -> Labels:
    """Those of one device.

    Raises:
        InputError: there are none; names the devices there are.
    """
    if "device" not in labels.columns:
        raise InputError(f"{path}: has no column 'device' in which {device!r} could stand")
    parts = {str(part.columns["device"][0]): part for part in by_device(labels)}
    if device not in parts:
        raise InputError(f"{path}: column 'device' has no {device!r}; it has {choices(parts)}")
    return parts[device]


def _check_one_device(labels: Labels, path: Path) -> None:
    devices = dict.fromkeys(labels.columns.get("device", np.array([], np.str_)).tolist())
    if len(devices) > 1:
        raise InputError(
            f"{path}: has records of {labels.metric} on"
            f" {choices(d or 'no device' for d in devices)};"
            f" name one with --device, or as {labels.metric}@{next(iter(devices))}"
        )


def _merged(labels: Labels, path: Path) -> Labels:
    """One row for rows that are equal in arch and in every column; a warning where an arch has
    different values."""
    first: dict[tuple[Any, ...], int] = {}
    texts = list(zip(*labels.columns.values(), strict=True)) or [()] * len(labels)
    for row in range(len(labels)):
        key = (labels.population[row].tobytes(), labels.values[row], texts[row])
        first.setdefault(key, row)
    kept = labels.take(np.array(sorted(first.values())))
    _, index, counts = np.unique(kept.population, axis=0, return_inverse=True, return_counts=True)
    warnings = []
    if counts.max() > 1:
        repeated = np.flatnonzero(counts > 1)
        order = index.reshape(-1)
        spread = [np.ptp(kept.values[order == group]) for group in repeated]
        if max(spread) > 0:
            warnings.append(
                f"{path}: {len(repeated)} archs were measured more than once; their"
                f" {labels.metric} differs by {np.median(spread):.4g} (median),"
                f" {max(spread):.4g} at most; all are kept as repeated measurements"
            )
    merged = len(labels) - len(kept)
    if merged:
        warnings.append(f"{path}: {merged} rows say what another says and were left out")
    return replace(kept, warnings=tuple(warnings))
