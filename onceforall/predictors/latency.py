"""The latency predictor: physics first, refined by a Gaussian process on what physics leaves over.

Physical laws need ten records, and fewer with records of other devices (`sources`); the process
is fitted on the logarithm of measured over physical latency, for what does not add up.
Outliers count little (Student-t weights). Knows labels and features; no devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.blas import on_one_thread
from onceforall.errors import InputError
from onceforall.predictors import gp, physics
from onceforall.predictors.base import (
    Floats,
    Groups,
    Prediction,
    Predictor,
    check_enough,
    cross_validated,
    prefixed,
    said,
    under,
)
from onceforall.predictors.circumstances import ORDER, Drift, find_drift, order_of, times
from onceforall.predictors.features import OTHERS, Features, outside, range_of
from onceforall.predictors.gp import GP
from onceforall.predictors.kernels import Kernel
from onceforall.predictors.physics import Law, Physics, Workload, fit_laws
from onceforall.records import Labels
from onceforall.space import Population, Space

SLOPES = "physics"  # the group of the physical parameters: the process may move them
SUMS = ("depth", "kernel", "expand", "width", OTHERS, "stage_macs")
KERNEL = Kernel(
    ("blocks", SLOPES),
    ((("size", "resolution"),), (("size", "resolution", *SUMS),)),
    centres=(-1.0, -1.0),
    smooth_centre=(-1.0, 1.1),
    noise_centre=-3.0,
)
LEAST_RECORDS = 3
_CHUNK = 2048  # archs at a time: what is computed between stays in the cache
TAILS = 1.3  # the 90% interval of a Student-t of 4 degrees of freedom to that of a normal
_PROCESS_FROM = 20  # records; with fewer there is no process
_SOURCE_AT_MOST, _MOST_RECORDS = 600, 4000  # a random part of more is used
_ROUNDS = 3  # of Student-t weights in the process


class Latency(Predictor):
    """A fitted latency predictor. Made by `fit_latency` and `load`."""

    kind: ClassVar[str] = "latency"

    def __init__(
        self,
        features: Features,
        population: Population,
        laws: Sequence[Law],
        process: GP | None,
        spread: float,
        starting: float,
        metric: str,
        unit: str,
        sources: Sequence[Latency] = (),
        drift: Drift | None = None,
    ) -> None:
        """`population` are the training archs, of `features.whole`; `laws` have shares that sum
        to 1, the greatest first; `spread` is the relative standard deviation of the bulk of
        measurements; `starting`, 0 to 1, how much starting operations weighs against computing."""
        self.space, self.metric, self.unit, self.report = features.space, metric, unit, None
        self.features, self.population, self.settings = features, population, features.settings
        self.laws, self.process = tuple(laws), process
        self.spread, self.starting = spread, starting
        self.sources, self.drift = tuple(sources), drift
        self._range = range_of(replace(features, space=features.whole)(population))

    @property
    def power(self) -> float:
        """Logarithm of the power that joins starting and computing."""
        return self.laws[0].physics.power

    @property
    def notes(self) -> tuple[str, ...]:
        return self.features.notes

    @property
    def covariate_names(self) -> tuple[str, ...]:
        return () if self.drift is None else (ORDER,)

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        """With `order`, the time of measuring, at the pace of that time; else at the usual one."""
        self.check_covariates(covariates)
        n = len(population)
        mean, std, beyond = np.empty(n), np.empty(n), np.empty(n, bool)
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            groups = self.features(population[rows])
            mean[rows], std[rows] = self._log_latency(population[rows], groups)
            beyond[rows] = outside(groups, self._range)
        if ORDER in covariates and self.drift is not None:
            mean += self.drift(times(covariates[ORDER], n))
        latency = np.exp(mean)
        return Prediction(latency, latency * std, beyond)

    def _log_latency(self, population: Population, groups: Groups) -> tuple[Floats, Floats]:
        """(n,) mean and standard deviation of the logarithm."""
        workload = Workload(self.features, self.sources, population)
        mean, variance = workload.averaged(self.laws)
        if self.process is not None:
            left, unsure = self.process.predict({**groups, SLOPES: workload.slopes(self.laws[0])})
            mean, variance = mean + left, unsure**2
        return mean, TAILS * np.sqrt(self.spread**2 + variance)

    def parts(self, population: Population) -> tuple[Floats, Floats]:
        """(n,) logarithms of the time for starting and for computing by the most probable
        law; what is predicted beside it is in both."""
        workload, first = Workload(self.features, self.sources, population), self.laws[0]
        terms = workload.terms(first.sources)
        starts, computes = first.physics.parts(terms)
        left = workload.averaged(self.laws)[0] - first.physics(terms)
        if self.process is not None:
            groups = {**self.features(population), SLOPES: first.physics.slopes(terms)}
            left = left + self.process.mean(groups)
        return starts + left, computes + left

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        data: dict[str, Any] = {
            "space": self.features.whole.to_dict(),
            "settings": dict(self.features.settings),
            "metric": self.metric,
            "unit": self.unit,
            "spread": self.spread,
            "starting": self.starting,
            "laws": [[law.sources, law.share] for law in self.laws],
            "process": None,
            "sources": [],
        }
        arrays: dict[str, NDArray[Any]] = {"population": self.population}
        for i, law in enumerate(self.laws):
            held = {**vars(law.physics), "unsure": law.unsure}
            arrays |= prefixed(f"law{i}.", held)
        if self.drift is not None:
            arrays |= {"drift.order": self.drift.order, "drift.levels": self.drift.levels}
        if self.process is not None:
            data["process"], held = self.process.state()
            arrays |= prefixed("process.", held)
        for i, source in enumerate(self.sources):
            inner, held = source.state()
            data["sources"].append(inner)
            arrays |= prefixed(f"source{i}.", held)
        return data, arrays

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        whole = Space.from_dict(data["space"])
        population = arrays["population"]
        features = Features.of(whole, population, data.get("settings", {}))
        laws = []
        for i, (names, share) in enumerate(data["laws"]):
            factors = under(f"law{i}.", arrays)
            unsure = factors.pop("unsure")
            laws.append(Law(tuple(names), Physics(**factors), unsure, share))
        held = [(inner, under(f"source{i}.", arrays)) for i, inner in enumerate(data["sources"])]
        process = None
        if data["process"] is not None:
            groups = features(population)
            sources = [cls.restore(whole, *source) for source in held]
            groups[SLOPES] = Workload(features, sources, population).slopes(laws[0])
            process = GP.restore(data["process"], under("process.", arrays), groups)
        return cls(
            features.on(space),
            population,
            laws,
            process,
            data["spread"],
            data["starting"],
            data["metric"],
            data["unit"],
            [cls.restore(space, *source) for source in held],
            Drift(**under("drift.", arrays)) if "drift.order" in arrays else None,
        )


@on_one_thread
def fit_latency(
    labels: Labels,
    sources: Sequence[Labels | Latency] = (),
    *,
    unit: str = "ms",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Latency:
    """A predictor of `labels.metric`, with its error on held-out labels in `report`.

    The error is that of fits without a part of the labels (`test_fraction`; with fewer than 200,
    of five fits that each left out a fifth); the predictor returned is fitted on all.
    With a fraction of 0 nothing is held out, and there is no report. `sources` are records of other
    devices, or predictors of them: worth having while the new device has few. The labels were
    measured in the order of their column `order` or, without one, in theirs; a drift is taken out
    before the fit, and put back where `predict` is given a time. Of more than 4000 labels, or 600
    of a source, a random part is used.

    Raises:
        InputError: too few labels, a value that is not above 0, or all values the same.
    """
    _check(labels)
    rng = np.random.default_rng(seed)
    others = [
        (
            source
            if isinstance(source, Latency)
            else _fit(_at_most(source, _SOURCE_AT_MOST, rng), (), unit)
        ).on(labels.space)
        for source in sources
    ]
    order = order_of(labels).astype(np.str_)
    timed = replace(labels, columns={**labels.columns, ORDER: order})
    timed = _at_most(timed, _MOST_RECORDS, rng)
    return said(
        cross_validated(lambda part: _fit(part, others, unit), timed, (), test_fraction, seed)
    )


def _check(labels: Labels) -> None:
    check_enough(labels, LEAST_RECORDS, "a latency")
    if labels.values.min() <= 0:
        raise InputError(f"{labels.metric}: {labels.values.min():g} is not a latency above 0")


def _at_most(labels: Labels, n: int, rng: np.random.Generator) -> Labels:
    return labels if len(labels) <= n else labels.take(rng.permutation(len(labels))[:n])


def _fit(labels: Labels, sources: Sequence[Latency], unit: str) -> Latency:
    features = Features.of(labels.space, labels.population, labels.settings)
    groups = features(labels.population)
    workload = Workload(features, sources, labels.population)
    targets, when = np.log(labels.values), order_of(labels)
    laws, process, spread = _fit_both(workload, groups, targets)
    fitted = workload.averaged(laws)[0] + (0.0 if process is None else process.fitted())
    drift = find_drift(when, targets - fitted)
    if drift is not None:
        laws, process, spread = _fit_both(workload, groups, targets - drift(when))
        spread = float(np.hypot(spread, drift.size))  # the time of a prediction is not known
    starting = laws[0].physics.starting(workload.terms(laws[0].sources))
    return Latency(
        features,
        labels.population,
        laws,
        process,
        spread,
        starting,
        labels.metric,
        unit,
        sources,
        drift,
    )


def _fit_both(
    workload: Workload, groups: Groups, targets: Floats
) -> tuple[list[Law], GP | None, float]:
    """The laws, the process of what they leave over, and the relative spread of a measurement."""
    laws, spread, weights = fit_laws(workload, targets)
    if len(targets) < _PROCESS_FROM:
        return laws, None, spread
    left = targets - workload.averaged(laws)[0]
    process = _process({**groups, SLOPES: workload.slopes(laws[0])}, left, weights, spread)
    return laws, process, process.noise_std


def _process(groups: Groups, left: Floats, weights: Floats, spread: float) -> GP:
    """What physics leaves over, (n,); outliers have little weight."""
    start = None
    for _ in range(_ROUNDS):
        process = gp.fit(
            KERNEL,
            groups,
            left,
            start=start,
            subset=300,
            inflation=1 / weights,
            centre=(0.0, max(2 * spread, 0.02)),
        )
        start = process.theta
        weights = physics.student_weights((left - process.fitted()) / process.noise_std)
    return process
