"""The accuracy predictor: Gaussian processes on what an arch is, weighed by how well each predicts
records that it left out. So is the scale they are fitted on: the metric's own, or that of the
logarithm of what it lacks, where effects multiply.

Knows labels (archs with a measured value) and the circumstances of their measuring; no networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.blas import on_one_thread
from onceforall.predictors import gp
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
from onceforall.predictors.circumstances import Covariate
from onceforall.predictors.features import OTHERS, outside, range_of
from onceforall.predictors.gp import GP
from onceforall.predictors.inputs import Inputs
from onceforall.predictors.kernels import Kernel
from onceforall.records import Labels
from onceforall.space import Population, Space

SUMS = {
    "depth": -4.5,
    "kernel": -4.5,
    "expand": -4.0,
    "width": -4.5,
    OTHERS: -4.5,
}  # linear, with centres
LINEAR, CENTRES = ("blocks", *SUMS), (-4.0, *SUMS.values())
CANDIDATES: dict[str, Kernel] = {
    "blocks at a size": Kernel(
        LINEAR,
        (
            (("size",), ("resolution",), ("stage_macs",)),
            (("blocks",), ("size",), ("resolution",)),
        ),
        CENTRES,
    ),
    "sums at a size": Kernel(
        LINEAR,
        (
            (("size",), ("resolution",), ("stage_macs",)),
            (tuple(SUMS), ("size",), ("resolution",)),
        ),
        CENTRES,
    ),
}
LEAST_RECORDS = 5
_TEMPER = 0.5  # of the leave-one-out likelihoods that weigh the candidates
_LEAST_WEIGHT = 0.1  # a candidate of less is left out
_CHUNK = 2048  # archs at a time: what is computed between stays in the cache
_CHOSEN_ON = 1500  # records that the candidates are weighed on: a left-out error costs n^3
_MOST_RECORDS = 5000  # a random part of more is used: a process costs n^2 of memory
_LIMIT_AT = 2.0  # of a bent scale: above the highest value, in ranges of the values
_SUBSET = 400  # records that the kernel's parameters are found on


@dataclass(frozen=True)
class Scale:
    """What the processes are fitted on: the metric itself, or minus the logarithm of its distance
    to a limit above it."""

    limit: float | None = None

    @classmethod
    def bent(cls, values: Floats) -> Scale:
        """With a limit so far above the values that the slope is 3/2 as steep at the highest as
        at the lowest: top-1 from 66 to 77% has 99%."""
        return cls(float(values.max() + _LIMIT_AT * np.ptp(values)))

    def of(self, values: Floats) -> Floats:
        return values if self.limit is None else -np.log(self.limit - values)

    def log_slope(self, values: Floats) -> float:
        """Sum of the logarithms of the slope at the values: likelihoods are compared by it."""
        return 0.0 if self.limit is None else float(-np.log(self.limit - values).sum())

    def back(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Median and standard deviation of the metric."""
        if self.limit is None:
            return mean, std
        lacks = np.exp(-mean)
        return self.limit - lacks, lacks * std


class Accuracy(Predictor):
    """A fitted accuracy predictor. Made by `fit_accuracy` and `load`."""

    kind: ClassVar[str] = "accuracy"

    def __init__(
        self,
        inputs: Inputs,
        processes: Sequence[tuple[float, GP]],
        scale: Scale,
        metric: str,
        unit: str,
        space: Space,
    ) -> None:
        """`processes` with their weights, whose sum is 1; they are fitted on `scale`."""
        self.space, self.metric, self.unit, self.report = space, metric, unit, None
        self.inputs, self.processes, self.scale = inputs, tuple(processes), scale
        self._range = range_of(inputs.features(inputs.population))
        self._inputs, self.settings = inputs.on(space), inputs.features.settings

    @property
    def covariate_names(self) -> tuple[str, ...]:
        return tuple(self.covariate_levels)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.inputs.features.notes

    @property
    def covariate_levels(self) -> Mapping[str, Sequence[str]]:
        return self.inputs.covariates.levels

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        self.check_covariates(covariates)
        n = len(population)
        given = {k: np.broadcast_to(np.asarray(v), (n,)) for k, v in covariates.items()}
        parts = [
            self._predict(
                population[i : i + _CHUNK], {k: v[i : i + _CHUNK] for k, v in given.items()}
            )
            for i in range(0, max(n, 1), _CHUNK)
        ]
        mean, std, beyond = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Prediction(mean, std, beyond)

    def _predict(
        self, population: Population, given: Mapping[str, NDArray[Any]]
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        groups, covariates = self._inputs.groups(population, given), self.inputs.covariates
        means = np.stack([process.mean(groups) for _, process in self.processes])
        shares = np.array([share for share, _ in self.processes])
        mean = shares @ means
        best = self._best
        variance = best.std(groups) ** 2 + best.noise_std**2 + shares @ (means - mean) ** 2
        variance = variance + covariates.variance(
            lambda group: best.scale * best.linear_weights(group), given, len(population)
        )
        return *self.scale.back(mean, np.sqrt(np.maximum(variance, 0))), outside(
            groups, self._range
        )

    def features(self, population: Population) -> Groups:
        """The groups of features that the processes take, covariates averaged over."""
        return self._inputs.groups(population, {})

    @property
    def _best(self) -> GP:
        """The process of the greatest weight, whose uncertainty stands for all."""
        return max(self.processes, key=lambda pair: pair[0])[1]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        inputs, arrays = self.inputs.state()
        data: dict[str, Any] = {
            "inputs": inputs,
            "metric": self.metric,
            "unit": self.unit,
            "limit": self.scale.limit,
            "processes": [],
        }
        arrays = prefixed("inputs.", arrays)
        for i, (share, process) in enumerate(self.processes):
            inner, held = process.state()
            data["processes"].append({"share": share, "process": inner})
            arrays |= prefixed(f"process{i}.", held)
        return data, arrays

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        inputs = Inputs.restore(data["inputs"], under("inputs.", arrays))
        groups = inputs.training()
        processes = [
            (each["share"], GP.restore(each["process"], under(f"process{i}.", arrays), groups))
            for i, each in enumerate(data["processes"])
        ]
        scale = Scale(data["limit"])
        return cls(inputs, processes, scale, data["metric"], data["unit"], space)


@on_one_thread
def fit_accuracy(
    labels: Labels,
    covariates: Sequence[str] = (),
    *,
    prior: Predictor | None = None,
    unit: str = "%",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Accuracy:
    """A predictor of `labels.metric`, with its error on held-out labels in `report`.

    The error is that of a fit without a random part of the labels (`test_fraction`; with fewer
    than 200, of five fits that each left out a fifth); the predictor returned is fitted on all.
    `covariates` are columns of the labels that hold the circumstances of a measurement (which
    part of the images it was taken on): each value is a level with an effect of its own. `prior`
    is another predictor, of any unit, whose output is one more feature. Of more than 5000 labels
    a random 5000 are used.

    Raises:
        InputError: too few labels, all the same, or a covariate of too many levels.
    """
    check_enough(labels, LEAST_RECORDS, "an accuracy")
    for name in covariates:
        Covariate.of(labels, name)
    hint = None
    if prior is not None:  # it need not know other resolutions than those it is asked about here
        labels = labels.at_own_resolutions()
        hint = prior.on(labels.space)
    if len(labels) > _MOST_RECORDS:
        labels = labels.take(np.random.default_rng(seed).permutation(len(labels))[:_MOST_RECORDS])

    def fit(part: Labels) -> Accuracy:
        return _fit(part, covariates, hint, unit)

    return said(cross_validated(fit, labels, covariates, test_fraction, seed))


def _fit(labels: Labels, covariates: Sequence[str], prior: Predictor | None, unit: str) -> Accuracy:
    inputs = Inputs.of(labels, covariates, prior)
    groups = inputs.training()
    kernels = [kernel.with_linear(inputs.centres) for kernel in CANDIDATES.values()]
    scales = (Scale(), Scale.bent(labels.values))
    if len(labels) <= _CHOSEN_ON:
        scale, kept = _chosen(kernels, scales, groups, labels.values)
    else:
        rows = np.random.default_rng(0).permutation(len(labels))[:_CHOSEN_ON]
        some = {name: values[rows] for name, values in groups.items()}
        scale, kept = _chosen(kernels, scales, some, labels.values[rows])
        targets = scale.of(labels.values)
        kept = [(share, process.on(groups, targets)) for share, process in kept]
    return Accuracy(inputs, kept, scale, labels.metric, unit, labels.space)


def _chosen(
    kernels: Sequence[Kernel], scales: Sequence[Scale], groups: Groups, values: Floats
) -> tuple[Scale, list[tuple[float, GP]]]:
    """The scale on which a left-out record is most likely, and the processes of weight on it."""
    found = []
    for scale in scales:
        targets = scale.of(values)
        processes = [gp.fit(k, groups, targets, subset=_SUBSET) for k in kernels]
        scores = [_score(process) for process in processes]
        found.append((max(scores) + scale.log_slope(values), scale, processes, scores))
    _, scale, processes, scores = max(found, key=lambda each: each[0])
    weighed = zip(_weights(scores), processes, strict=True)
    return scale, [(share, process) for share, process in weighed if share > 0]


def _score(process: GP) -> float:
    """Logarithm of the likelihood of each record given all others."""
    mean, std = process.leave_one_out()
    standard = (process.targets - mean) / std
    return float(-np.sum(0.5 * standard**2 + np.log(std)))


def _weights(scores: Sequence[float]) -> Floats:
    """Weights by the likelihood of left-out records (pseudo-BMA; Yao et al., Bayesian Analysis 13,
    2018, section 2), tempered, for the records' errors are alike."""
    weights = np.exp(_TEMPER * (np.array(scores) - max(scores)))
    weights /= weights.sum()
    weights[weights < _LEAST_WEIGHT] = 0
    return np.asarray(weights / weights.sum())
