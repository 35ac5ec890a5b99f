"""What an accuracy predictor is fitted on: the features of archs, the circumstances of their
records, and another predictor's output as a prior. Fits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import ArrayLike, NDArray

from onceforall.predictors.base import Groups, Predictor, kind_of, prefixed, under
from onceforall.predictors.circumstances import Covariates
from onceforall.predictors.features import Features
from onceforall.records import Labels
from onceforall.space import Population, Space

PRIOR, _PRIOR_CENTRE = "prior", -1.0  # the group of the prior's output, the centre of its variance


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of the processes for any arch, and the archs that they are fitted on."""

    features: Features
    population: Population  # (n, genes) the training archs, of `features.whole`
    covariates: Covariates
    prior: Predictor | None
    prior_scale: tuple[float, float]  # offset and scale of its output

    @classmethod
    def of(cls, labels: Labels, covariates: Sequence[str], prior: Predictor | None) -> Inputs:
        scale = (0.0, 1.0)
        if prior is not None:
            output = prior.predict(labels.population).mean
            scale = float(output.mean()), float(output.std()) or 1.0
        features = Features.of(labels.space, labels.population, labels.settings)
        known = Covariates.of(labels, covariates)
        return cls(features, labels.population, known, prior, scale)

    def on(self, space: Space) -> Inputs:
        prior = None if self.prior is None else self.prior.on(space)
        return replace(self, features=self.features.on(space), prior=prior)

    def groups(self, population: Population, given: Mapping[str, ArrayLike]) -> Groups:
        """The groups of features; covariates that are not given are averaged over."""
        groups = self.features(population)
        groups |= self.covariates.groups(groups, given)
        if self.prior is not None:
            offset, scale = self.prior_scale
            groups[PRIOR] = ((self.prior.predict(population).mean - offset) / scale)[:, None]
        return groups

    def training(self) -> Groups:
        """The groups of the training archs."""
        return self.groups(self.population, self.covariates.given)

    @property
    def centres(self) -> dict[str, float]:
        """The groups beside those of the features, with the centres of their variances."""
        own = {} if self.prior is None else {PRIOR: _PRIOR_CENTRE}
        return {**self.covariates.centres, **own}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        covariates, arrays = self.covariates.state()
        data: dict[str, Any] = {
            "space": self.features.whole.to_dict(),
            "settings": dict(self.features.settings),
            "covariates": covariates,
        }
        arrays["population"] = self.population
        if self.prior is not None:
            inner, held = self.prior.state()
            data["prior"] = {"kind": self.prior.kind, "data": inner, "scale": self.prior_scale}
            arrays |= prefixed("prior.", held)
        return data, arrays

    @classmethod
    def restore(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Inputs:
        space, prior, scale = Space.from_dict(data["space"]), None, (0.0, 1.0)
        if "prior" in data:
            of = data["prior"]
            prior = kind_of(of["kind"]).restore(space, of["data"], under("prior.", arrays))
            scale = tuple(of["scale"])
        return cls(
            Features.of(space, arrays["population"], data.get("settings", {})),
            arrays["population"],
            Covariates.restore(data["covariates"], arrays),
            prior,
            scale,
        )
