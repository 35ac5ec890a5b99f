"""The records of one quantity and what is predicted from them: `Measured`.

Predictors are fitted here from the run's records, as `specialize` fits them. Knows records, spaces
and predictors; nothing of files beside those of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onceforall.errors import InputError
from onceforall.predictors import Predictor, fit_accuracy, fit_latency
from onceforall.predictors.base import NORMAL_90, Floats, HeldOut
from onceforall.records import Labels, read_labels
from onceforall.report.folder import LATENCY, Folder
from onceforall.space import Arch, Population, Space

FITTED_ON = 1000  # records at most: of more a random part says the same in a few seconds


@dataclass(frozen=True)
class Measured:
    """Records of one quantity, in the order in which they were measured.

    Attributes:
        labels: archs and values.
        fitted: those that the predictor was fitted on.
        predictor: for populations of the family's space; None: there are too few records.
        left_out: its predictions for records it had not seen; rows are those of `fitted`.
        error: its errors on them, as plain data.
        drift: relative standard deviation of the machine's pace over the session; None: none seen.
    """

    labels: Labels
    fitted: Labels
    predictor: Predictor | None = None
    left_out: HeldOut | None = None
    error: dict[str, Any] | None = None
    drift: float | None = None

    def predict(self, archs: Sequence[Arch], space: Space) -> tuple[Floats, Floats, Floats]:
        """Mean, half of the 90% interval, and whether it is extrapolated, for archs of `space`;
        NaN where nothing is predicted."""
        if self.predictor is None or not archs:
            nothing = np.full(len(archs), np.nan)
            return nothing, nothing, np.zeros(len(archs))
        found = self.predictor.predict(space.encode(archs))
        std = np.full(len(archs), np.nan) if found.std is None else found.std
        return found.mean, NORMAL_90 * std, found.extrapolates.astype(float)

    @cached_property
    def unseen(self) -> dict[Arch, float]:
        """Half of the 90% interval that a fit without an arch's records gave it, by arch."""
        if self.left_out is None:
            return {}
        archs = self.fitted.space.decode(self.fitted.population[self.left_out.rows])
        return dict(zip(archs, (NORMAL_90 * self.left_out.std).tolist(), strict=True))

    def mean(self, population: Population) -> Floats:
        assert self.predictor is not None
        return self.predictor.predict(population).mean

    def cautious(self, population: Population) -> Floats:
        """The mean less one standard deviation, as search takes it."""
        assert self.predictor is not None
        found = self.predictor.predict(population)
        return found.mean if found.std is None else found.mean - found.std

    def held_out(self) -> dict[str, Any] | None:
        """Predicted beside measured for the records that were held out, in measuring order."""
        if self.left_out is None:
            return None
        order = np.argsort(self.left_out.rows)
        rows = self.left_out.rows[order]
        return {
            "order": (rows + 1).tolist(),
            "measured": self.fitted.values[rows].tolist(),
            "predicted": self.left_out.mean[order].tolist(),
            "interval": (NORMAL_90 * self.left_out.std[order]).tolist(),
            "extrapolates": self.left_out.extrapolates[order].astype(int).tolist(),
        }

    def spread(self) -> dict[str, float] | None:
        """How far single runs scatter about a record's median, in the typical record: the 10th and
        90th percentile as shares of it, and `noise`, half of the 95% interval of the median itself,
        where the records say it. None: they say nothing."""
        columns = self.labels.columns
        if not {"p10_ms", "p90_ms"} <= set(columns):
            return None
        low, high = (_numbers(columns[name]) for name in ("p10_ms", "p90_ms"))
        values = self.labels.values
        if not np.isfinite(low).any():
            return None
        found = {"low": _typical(low / values), "high": _typical(high / values)}
        noise = _numbers(columns.get("noise", ()))
        return found | ({"noise": _typical(noise)} if np.isfinite(noise).any() else {})

    def repeats(self) -> list[list[float]]:
        """The values of each arch that was measured more than once."""
        _, index = np.unique(self.labels.population, axis=0, return_inverse=True)
        index = index.reshape(-1)
        counts = np.bincount(index)
        return [self.labels.values[index == i].tolist() for i in np.flatnonzero(counts > 1)]


def measured_scores(folder: Folder, space: Space) -> Measured | None:
    """Of the score records; None where there are none that can be read."""
    if not folder.scores.exists():
        return None
    try:
        labels = read_labels(folder.scores, space, folder.metric)
    except InputError as error:
        folder.notes.append(str(error))
        return None
    fitted = _part(labels, folder)
    try:
        predictor: Predictor = fit_accuracy(fitted, unit=folder.unit)
    except InputError as error:
        folder.notes.append(f"No accuracy predictor: {error}")
        return Measured(labels, fitted)
    return _of(labels, fitted, predictor, space, None)


def measured_latencies(folder: Folder, device: str, space: Space) -> Measured | None:
    """Of a device's records; None where there are none that can be read."""
    paths = [path for path, name in folder.latencies if name == device]
    for path in paths[1:]:
        folder.notes.append(f"{path}: more records of {device}; those of {paths[0]} are shown")
    if not paths:
        return None
    try:
        labels = read_labels(paths[0], space, LATENCY, positive=True, device=device)
    except InputError as error:
        folder.notes.append(str(error))
        return None
    fitted = _part(labels, folder)
    try:
        predictor = fit_latency(fitted)
    except InputError as error:
        folder.notes.append(f"No latency predictor of {device}: {error}")
        return Measured(labels, fitted)
    drift = None if predictor.drift is None else predictor.drift.size
    return _of(labels, fitted, predictor, space, drift)


def _of(
    labels: Labels, fitted: Labels, predictor: Predictor, space: Space, drift: float | None
) -> Measured:
    error = None if predictor.report is None else predictor.report.to_dict()
    return Measured(labels, fitted, predictor.on(space), predictor.held_out, error, drift)


def _part(labels: Labels, folder: Folder) -> Labels:
    """The labels to fit on, in the order they were measured in."""
    if len(labels) <= FITTED_ON:
        return labels
    folder.notes.append(
        f"{labels.metric}: the predictor of this report is fitted on a random {FITTED_ON} of"
        f" {len(labels)} records."
    )
    return labels.take(np.sort(np.random.default_rng(0).permutation(len(labels))[:FITTED_ON]))


def _typical(values: Floats) -> float:
    """The median of those that are numbers."""
    return float(np.nanmedian(values))


def _numbers(texts: Iterable[str]) -> Floats:
    """A column as numbers, NaN where it is empty or none."""
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            found.append(np.nan)
    return np.array(found)
