"""The accuracy predictor: Gaussian processes on what an arch is, weighed by how well each foretells
records that it left out, as is the scale they learn on: the metric's own, or that of the logarithm
of what it lacks, where effects multiply.

Knows labels (archs with a measured value) and the circumstances of their measuring; no networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import InputError, choices
from onceforall.predictors import gp
from onceforall.predictors.base import (
    Floats,
    Prediction,
    Predictor,
    cross_validated,
    kind_of,
    prefixed,
    space_from_dict,
    space_to_dict,
    under,
)
from onceforall.predictors.features import Features, Groups, outside, range_of
from onceforall.predictors.gp import GP, Kernel
from onceforall.records import Labels
from onceforall.space import Population, Space

SUMS = {"depth": -4.5, "kernel": -4.5, "expand": -4.0, "width": -4.5}  # linear, with centres
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
PRIOR = "prior"  # the group of another predictor's output, and the centre of its variance
_PRIOR_CENTRE = -1.0
_LEVEL_SCALE = 2.0  # of a covariate's indicators
_LEVEL_CENTRES = (-3.5, -5.5, -5.5)  # of a level's own effect, and of those on size and blocks
_MOST_LEVELS = 16
_TEMPER = 0.5  # of the leave-one-out likelihoods that weigh the candidates
_LEAST_WEIGHT = 0.1  # a candidate of less is left out
_CHUNK = 2048  # archs at a time: what is computed between stays in the cache
_CHOSEN_ON = 1500  # records that the candidates are weighed on: a left-out error costs n^3
_MOST_RECORDS = 5000  # a random part of more is learnt from: a process costs n^2 of memory
_LIMIT_AT = 2.0  # of a bent scale: above the highest value, in ranges of the values
_SUBSET = 400  # records that the kernel's parameters are found on


@dataclass(frozen=True)
class Scale:
    """What the processes learn in place of the metric: the metric itself, or minus the logarithm
    of its distance to a limit above it."""

    limit: float | None = None

    @classmethod
    def bent(cls, values: Floats) -> Scale:
        """With a limit so far above the values that the slope is 3/2 as steep at the highest as
        at the lowest: top-1 from 66 to 77% has 99%."""
        return cls(float(values.max() + _LIMIT_AT * np.ptp(values)))

    def learnt(self, values: Floats) -> Floats:
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


@dataclass(frozen=True)
class Covariate:
    """A circumstance of a measurement: its levels, and the share of the records that had each."""

    name: str
    levels: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def groups(self) -> dict[str, float]:
        """The groups of features it adds, with the centres of their variances: an effect of each
        level, and one that grows with the size and one with the blocks of the arch."""
        names = (self.name, f"{self.name} by size", f"{self.name} by blocks")
        return {f"level {n}": c for n, c in zip(names, _LEVEL_CENTRES, strict=True)}

    def weights(self, given: ArrayLike | None, n: int) -> Floats:
        """(n, levels) the weight of each level: 1 for that of the record, the shares where it is
        not known."""
        weights = np.tile(np.array(self.shares), (n, 1))
        if given is not None:
            texts = np.broadcast_to(np.asarray(given).astype(np.str_), (n,))
            for i, level in enumerate(self.levels):
                weights[texts == level] = np.eye(len(self.levels))[i]
        return weights

    def add(self, groups: Groups, weights: Floats) -> None:
        """Adds the covariate's groups; all are linear in the weights, so that shares give the
        average over the levels."""
        scaled = _LEVEL_SCALE * weights
        parts = [np.ones((len(weights), 1)), groups["size"][:, :1], groups["blocks"]]
        for name, part in zip(self.groups, parts, strict=True):
            groups[name] = (scaled[:, :, None] * part[:, None, :]).reshape(len(weights), -1)


class Accuracy(Predictor):
    """A fitted accuracy predictor. Made by `fit_accuracy` and `load`."""

    kind: ClassVar[str] = "accuracy"

    def __init__(
        self,
        fitted: _Inputs,
        processes: Sequence[tuple[float, GP]],
        scale: Scale,
        metric: str,
        unit: str,
        space: Space,
    ) -> None:
        """`processes` with their weights, whose sum is 1; they learnt on `scale`."""
        self.space, self.metric, self.unit, self.report = space, metric, unit, None
        self.fitted, self.processes, self.scale = fitted, tuple(processes), scale
        self._range = range_of(fitted.features(fitted.population))
        self._inputs = fitted.on(space)

    @property
    def covariate_names(self) -> tuple[str, ...]:
        return tuple(covariate.name for covariate in self.fitted.covariates)

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        for name in covariates:
            if name not in self.covariate_names:
                raise InputError(
                    f"covariate {name!r} was not learnt;"
                    f" this predictor has {choices(self.covariate_names) or 'none'}"
                )
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
        groups, weights = self._inputs.groups(population, given)
        means = np.stack([process.mean(groups) for _, process in self.processes])
        shares = np.array([share for share, _ in self.processes])
        mean = shares @ means
        best = self._best
        variance = best.std(groups) ** 2 + best.noise_std**2 + shares @ (means - mean) ** 2
        variance = variance + self._between(weights)
        return *self.scale.back(mean, np.sqrt(np.maximum(variance, 0))), outside(
            groups, self._range
        )

    @property
    def _best(self) -> GP:
        """The process of the greatest weight, whose uncertainty stands for all."""
        return max(self.processes, key=lambda pair: pair[0])[1]

    def _between(self, weights: Mapping[str, Floats]) -> Floats | float:
        """(n,) the variance between the levels that a measurement may have."""
        total: Floats | float = 0.0
        for covariate in self.fitted.covariates:
            group = next(iter(covariate.groups))
            effects = self._best.scale * _LEVEL_SCALE * self._best.linear_weights(group)
            share = weights[covariate.name]
            total = total + share @ effects**2 - (share @ effects) ** 2
        return total

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        inputs, arrays = self.fitted.state()
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
        inputs = _Inputs.restore(data["inputs"], under("inputs.", arrays))
        groups = inputs.learnt()
        processes = [
            (each["share"], GP.restore(each["process"], under(f"process{i}.", arrays), groups))
            for i, each in enumerate(data["processes"])
        ]
        scale = Scale(data["limit"])
        return cls(inputs, processes, scale, data["metric"], data["unit"], space)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the processes see of an arch: features, covariates, and another predictor's output."""

    features: Features
    population: Population  # (n, genes) the archs learnt from, of `features.whole`
    covariates: tuple[Covariate, ...]
    given: dict[str, NDArray[np.str_]]  # covariate -> (n,) the level of each of these archs
    prior: Predictor | None
    prior_scale: tuple[float, float]  # offset and scale of its output

    def on(self, space: Space) -> _Inputs:
        prior = None if self.prior is None else self.prior.on(space)
        return _Inputs(
            self.features.on(space),
            self.population,
            self.covariates,
            self.given,
            prior,
            self.prior_scale,
        )

    def groups(
        self, population: Population, given: Mapping[str, ArrayLike]
    ) -> tuple[Groups, dict[str, Floats]]:
        """The groups of features, and (n, levels) weights of each covariate."""
        groups = self.features(population)
        weights = {}
        for covariate in self.covariates:
            weight = covariate.weights(given.get(covariate.name), len(population))
            covariate.add(groups, weight)
            weights[covariate.name] = weight
        if self.prior is not None:
            offset, scale = self.prior_scale
            groups[PRIOR] = ((self.prior.predict(population).mean - offset) / scale)[:, None]
        return groups, weights

    def learnt(self) -> Groups:
        """The groups of the archs learnt from."""
        return self.groups(self.population, self.given)[0]

    def more(self) -> dict[str, float]:
        """The groups beside those of the features, with the centres of their variances."""
        more = {k: v for covariate in self.covariates for k, v in covariate.groups.items()}
        return more if self.prior is None else {**more, PRIOR: _PRIOR_CENTRE}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        data: dict[str, Any] = {
            "space": space_to_dict(self.features.whole),
            "covariates": [[c.name, c.levels, c.shares] for c in self.covariates],
        }
        arrays: dict[str, NDArray[Any]] = {"population": self.population}
        arrays |= prefixed("given.", self.given)
        if self.prior is not None:
            inner, held = self.prior.state()
            data["prior"] = {"kind": self.prior.kind, "data": inner, "scale": self.prior_scale}
            arrays |= prefixed("prior.", held)
        return data, arrays

    @classmethod
    def restore(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> _Inputs:
        space, prior, scale = space_from_dict(data["space"]), None, (0.0, 1.0)
        if "prior" in data:
            told = data["prior"]
            prior = kind_of(told["kind"]).restore(space, told["data"], under("prior.", arrays))
            scale = tuple(told["scale"])
        return cls(
            Features.of(space, arrays["population"]),
            arrays["population"],
            tuple(Covariate(n, tuple(v), tuple(s)) for n, v, s in data["covariates"]),
            under("given.", arrays),
            prior,
            scale,
        )


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

    The error is that of a fit that did not see a random part of the labels (`test_fraction`; with
    fewer than 200, of five fits that each left out a fifth); the predictor returned has seen all.
    `covariates` are columns of the labels that hold the circumstances of a measurement (which
    part of the images it was taken on): each value is a level with an effect of its own. `prior`
    is another predictor, of any unit, whose output is one more feature. Of more than 5000 labels
    a random 5000 are learnt from.

    Raises:
        InputError: too few labels, all the same, or a covariate of too many levels.
    """
    _check(labels)
    for name in covariates:
        _covariate(labels, name)
    hint = None if prior is None else prior.on(labels.space)
    if len(labels) > _MOST_RECORDS:
        labels = labels.take(np.random.default_rng(seed).permutation(len(labels))[:_MOST_RECORDS])

    def fit(part: Labels) -> Accuracy:
        return _fit(part, covariates, hint, unit)

    return cross_validated(fit, labels, covariates, test_fraction, seed)


def likely_covariates(labels: Labels) -> tuple[str, ...]:
    """The columns that look like circumstances of a measurement: whole numbers or words, of at
    most 16 different ones, each of them on five records or more on average."""
    found = []
    for name, cells in labels.columns.items():
        levels = set(cells.tolist())
        words = all(_is_word(level) for level in levels)
        if words and 2 <= len(levels) <= min(_MOST_LEVELS, len(labels) // 5):
            found.append(name)
    return tuple(found)


def _is_word(cell: str) -> bool:
    """A whole number without a point, or no number at all."""
    try:
        float(cell)
    except ValueError:
        return bool(cell.strip())
    return cell.strip().isdigit()


def _check(labels: Labels) -> None:
    if len(labels) < LEAST_RECORDS:
        raise InputError(
            f"{labels.metric}: {len(labels)} records; an accuracy predictor needs at least"
            f" {LEAST_RECORDS}"
        )
    if np.ptp(labels.values) == 0:
        raise InputError(
            f"{labels.metric}: all {len(labels)} records are {labels.values[0]:g};"
            " there is nothing to learn from"
        )


def _covariate(labels: Labels, name: str) -> Covariate:
    if name not in labels.columns:
        raise InputError(
            f"covariate {name!r} is not a column of the records;"
            f" there are {choices(labels.columns) or 'no others'}"
        )
    levels, counts = np.unique(labels.columns[name], return_counts=True)
    if len(levels) > max(2, len(labels) // 2):
        raise InputError(
            f"covariate {name!r} has {len(levels)} levels for {len(labels)} records; a covariate is"
            " a column of few different values"
        )
    return Covariate(name, tuple(levels.tolist()), tuple((counts / counts.sum()).tolist()))


def _fit(labels: Labels, covariates: Sequence[str], prior: Predictor | None, unit: str) -> Accuracy:
    prior_scale = (0.0, 1.0)
    if prior is not None:
        told = prior.predict(labels.population).mean
        prior_scale = float(told.mean()), float(told.std()) or 1.0
    inputs = _Inputs(
        Features.of(labels.space, labels.population),
        labels.population,
        tuple(_covariate(labels, name) for name in covariates),
        {name: labels.columns[name] for name in covariates},
        prior,
        prior_scale,
    )
    groups = inputs.learnt()
    kernels = [kernel.with_linear(inputs.more()) for kernel in CANDIDATES.values()]
    scales = (Scale(), Scale.bent(labels.values))
    if len(labels) <= _CHOSEN_ON:
        scale, kept = _chosen(kernels, scales, groups, labels.values)
    else:
        rows = np.random.default_rng(0).permutation(len(labels))[:_CHOSEN_ON]
        some = {name: values[rows] for name, values in groups.items()}
        scale, kept = _chosen(kernels, scales, some, labels.values[rows])
        learnt = scale.learnt(labels.values)
        kept = [(share, process.on(groups, learnt)) for share, process in kept]
    return Accuracy(inputs, kept, scale, labels.metric, unit, labels.space)


def _chosen(
    kernels: Sequence[Kernel], scales: Sequence[Scale], groups: Groups, values: Floats
) -> tuple[Scale, list[tuple[float, GP]]]:
    """The scale on which a left-out record is most likely, and the processes of weight on it."""
    found = []
    for scale in scales:
        learnt = scale.learnt(values)
        processes = [gp.fit(k, groups, learnt, subset=_SUBSET, refine=0) for k in kernels]
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
