"""What an accuracy predictor sees of an arch: its features, the circumstances of its measuring
(`Covariate`), and another predictor's output. Knows labels; fits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import InputError, choices
from onceforall.predictors.base import Floats, Predictor, kind_of, prefixed, under
from onceforall.predictors.features import Features, Groups
from onceforall.records import Labels
from onceforall.space import Population, Space

PRIOR = "prior"  # the group of another predictor's output, and the centre of its variance
_PRIOR_CENTRE = -1.0
LEVEL_SCALE = 2.0  # of a covariate's indicators
_LEVEL_CENTRES = (-3.5, -5.5, -5.5)  # of a level's own effect, and of those on size and blocks
_MOST_LEVELS = 16


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
        scaled = LEVEL_SCALE * weights
        parts = [np.ones((len(weights), 1)), groups["size"][:, :1], groups["blocks"]]
        for name, part in zip(self.groups, parts, strict=True):
            by_level = scaled[:, :, None] * part[:, None, :]
            groups[name] = by_level.reshape(len(weights), weights.shape[1] * part.shape[1])


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the processes see of an arch: features, covariates, and another predictor's output."""

    features: Features
    population: Population  # (n, genes) the archs learnt from, of `features.whole`
    covariates: tuple[Covariate, ...]
    given: dict[str, NDArray[np.str_]]  # covariate -> (n,) the level of each of these archs
    prior: Predictor | None
    prior_scale: tuple[float, float]  # offset and scale of its output

    def on(self, space: Space) -> Inputs:
        prior = None if self.prior is None else self.prior.on(space)
        return Inputs(
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
            "space": self.features.whole.to_dict(),
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
    def restore(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Inputs:
        space, prior, scale = Space.from_dict(data["space"]), None, (0.0, 1.0)
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


def covariate_of(labels: Labels, name: str) -> Covariate:
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
