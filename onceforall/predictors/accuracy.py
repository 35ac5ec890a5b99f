"""The accuracy predictor: a Gaussian process on what an arch is, chosen by leave-one-out error.

Knows labels (archs with a measured value) and their covariates; no networks. Which kernel is used
is decided anew for each set of records among `CANDIDATES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import InputError, choices
from onceforall.predictors import gp
from onceforall.predictors.base import (
    Floats,
    Prediction,
    Predictor,
    held_out,
    kind_of,
    prefixed,
    under,
)
from onceforall.predictors.features import Features, Groups, Range, outside, range_of
from onceforall.predictors.gp import GP, Kernel
from onceforall.records import Labels
from onceforall.space import Population, Space

SIZE, STAGES = ("size", "resolution"), ("depth", "kernel", "expand", "width")
CANDIDATES: dict[str, Kernel] = {
    "size and stages": Kernel(
        ("blocks",), ((("size",), ("resolution",), (*STAGES, "stage_macs")),)
    ),
    "sums": Kernel(("blocks", *STAGES), ((SIZE,), ((*SIZE, *STAGES, "stage_macs"),))),
}
PRIOR = "prior"  # the group of another predictor's output
LEAST_RECORDS = 5
_FOLDS_BELOW = 200  # with fewer records the held-out error is taken by cross-validation
_MOST_LEVELS = 16
_LEVEL_SCALE = 2.0  # of a covariate's indicators: the prior spread of levels, labels' std


class Accuracy(Predictor):
    """A fitted accuracy predictor. Made by `fit_accuracy` and `load`."""

    kind: ClassVar[str] = "accuracy"

    def __init__(
        self,
        features: Features,
        known: Range,
        covariates: Mapping[str, Sequence[str]],
        process: GP,
        metric: str,
        unit: str,
        prior: Predictor | None = None,
        prior_scale: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """`known` is the range of the archs learnt from, `covariates` the levels of each;
        `prior_scale` the offset and scale by which the prior's output is made a feature."""
        self.space, self.metric, self.unit, self.report = features.space, metric, unit, None
        self.features, self.known, self.process = features, known, process
        self.covariates = {name: tuple(levels) for name, levels in covariates.items()}
        self.prior, self.prior_scale = prior, prior_scale

    @property
    def covariate_names(self) -> tuple[str, ...]:
        return tuple(self.covariates)

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        groups = self.features(population)
        if self.prior is not None:
            groups[PRIOR] = _prior_group(self.prior, self.prior_scale, population)
        hidden = np.zeros(len(population))  # variance of levels that were not given
        for name, levels in self.covariates.items():
            shares, spread = self._level_shares(name, levels, covariates, len(population))
            groups[_group(name)] = shares * _LEVEL_SCALE
            hidden += spread
        unknown = set(covariates) - set(self.covariates)
        if unknown:
            raise InputError(
                f"covariate {sorted(unknown)[0]!r} was not learnt;"
                f" this predictor has {choices(self.covariates) or 'none'}"
            )
        mean, std = self.process.predict(groups)
        std = np.sqrt(std**2 + self.process.noise_std**2 + hidden)
        return Prediction(mean, std, outside(groups, self.known))

    def _level_shares(
        self,
        name: str,
        levels: tuple[str, ...],
        given: Mapping[str, ArrayLike],
        n: int,
    ) -> tuple[Floats, Floats]:
        """(n, levels) the weight of each level, and (n,) the variance between levels where none,
        or one that was not learnt, is given."""
        counts = self.process.groups[_group(name)].sum(0)
        shares = np.tile(counts / counts.sum(), (n, 1))
        effect = self._level_effects(name)
        spread = np.full(
            n, float(np.average((effect - np.average(effect, weights=counts)) ** 2, weights=counts))
        )
        if name in given:
            texts = np.broadcast_to(np.asarray(given[name]).astype(np.str_), (n,))
            for i, level in enumerate(levels):
                rows = texts == level
                shares[rows] = np.eye(len(levels))[i]
                spread[rows] = 0
        return shares, spread

    def _level_effects(self, name: str) -> Floats:
        """(levels,) posterior mean of each level's effect, in the unit of the metric."""
        group = _group(name)
        at = self.process.kernel.linear.index(group)
        learnt = self.process.groups[group]
        variance = np.exp(self.process.theta[at]) / learnt.shape[1]
        effects = variance * _LEVEL_SCALE * (learnt.T @ self.process.weights)
        return np.asarray(self.process.scale * effects)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        process, held = self.process.state()
        data = {
            "features": self.features.state(),
            "metric": self.metric,
            "unit": self.unit,
            "covariates": {k: list(v) for k, v in self.covariates.items()},
            "process": process,
        }
        arrays = prefixed("range.", self.known) | prefixed("process.", held)
        if self.prior is not None:
            inner, held = self.prior.state()
            data["prior"] = {"kind": self.prior.kind, "data": inner, "scale": self.prior_scale}
            arrays |= prefixed("prior.", held)
        return data, arrays

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        prior = None
        if "prior" in data:
            kind = kind_of(data["prior"]["kind"])
            prior = kind.restore(space, data["prior"]["data"], under("prior.", arrays))
        return cls(
            Features.restore(space, data["features"]),
            under("range.", arrays),
            data["covariates"],
            GP.restore(data["process"], under("process.", arrays)),
            data["metric"],
            data["unit"],
            prior,
            tuple(data["prior"]["scale"]) if prior else (0.0, 1.0),
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
    is another predictor, of any unit, whose output is learnt from as a feature.

    Raises:
        InputError: too few labels, or all the same.
    """
    _check(labels)
    prior = None if prior is None else prior.on(labels.space)
    levels = {name: _levels(labels, name) for name in covariates}
    rng = np.random.default_rng(seed)
    n = len(labels)
    order = rng.permutation(n)
    if n < _FOLDS_BELOW:
        parts = [order[i::5] for i in range(min(5, n))]
    else:
        parts = [order[: max(1, round(n * test_fraction))]]
    means, stds, values = [], [], []
    for part in parts:
        train = labels.take(np.setdiff1d(order, part))
        given = {name: labels.columns[name][part] for name in levels}
        predicted = _fit(train, levels, unit, prior).predict(labels.population[part], **given)
        assert predicted.std is not None
        means.append(predicted.mean)
        stds.append(predicted.std)
        values.append(labels.values[part])
    whole = _fit(labels, levels, unit, prior)
    whole.report = held_out(
        np.concatenate(means), np.concatenate(stds), np.concatenate(values), n - len(parts[0])
    )
    return whole


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
    try:
        return float(cell).is_integer()
    except ValueError:
        return bool(cell.strip())


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


def _levels(labels: Labels, name: str) -> tuple[str, ...]:
    if name not in labels.columns:
        raise InputError(
            f"covariate {name!r} is not a column of the records;"
            f" there are {choices(labels.columns) or 'no others'}"
        )
    levels = tuple(sorted({str(text) for text in labels.columns[name]}))
    if len(levels) > max(2, len(labels) // 2):
        raise InputError(
            f"covariate {name!r} has {len(levels)} levels for {len(labels)} records; a covariate is"
            " a column of few different values"
        )
    return levels


def _group(covariate: str) -> str:
    return f"covariate {covariate}"


def _groups(train: Labels, levels: Mapping[str, tuple[str, ...]]) -> Groups:
    groups = Features.of(train.space, train.population)(train.population)
    for name, known in levels.items():
        groups[_group(name)] = _LEVEL_SCALE * (
            train.columns[name][:, None] == np.array(known)
        ).astype(float)
    return groups


def _fit(
    labels: Labels, levels: Mapping[str, tuple[str, ...]], unit: str, prior: Predictor | None
) -> Accuracy:
    """With the candidate of least leave-one-out error."""
    groups = _groups(labels, levels)
    more, scale = tuple(_group(name) for name in levels), (0.0, 1.0)
    if prior is not None:
        told = prior.predict(labels.population).mean
        scale = float(told.mean()), float(told.std()) or 1.0
        groups[PRIOR] = _prior_group(prior, scale, labels.population)
        more += (PRIOR,)
    best: tuple[float, GP] | None = None
    for candidate in CANDIDATES.values():
        kernel = Kernel((*candidate.linear, *more), candidate.smooth)
        process = gp.fit(kernel, groups, labels.values)
        error = float(np.mean((process.leave_one_out()[0] - labels.values) ** 2))
        if best is None or error < best[0]:
            best = error, process
    assert best is not None
    features = Features.of(labels.space, labels.population)
    return Accuracy(features, range_of(groups), levels, best[1], labels.metric, unit, prior, scale)


def _prior_group(prior: Predictor, scale: tuple[float, float], population: Population) -> Floats:
    """(n, 1) the prior's output as a feature."""
    return ((prior.predict(population).mean - scale[0]) / scale[1])[:, None]
