"""What a search maximises, who checks what it found, and whose archs it searches.

Knows predictors' files; nothing of limits and of how results are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onceforall.families import Family
    from onceforall.predictors import Predictor
    from onceforall.search import Candidate, Objective, Result
    from onceforall.space import Arch, Space

SECOND = "a linear model of the same records"


@dataclass(frozen=True)
class Origin:
    """Where the searched archs come from: their family is made when it is asked for, because a
    predictor can be of a family that is not here."""

    name: str
    settings: Mapping[str, Any]

    def family(self) -> Family:
        from onceforall.cli.nets import family_named

        if not self.settings:
            return family_named(self.name)
        from onceforall.families.settings import made_again

        return made_again(self.name, self.settings, "--accuracy")


class LowerBound:
    """An accuracy predictor as an objective: mean minus risk standard deviations."""

    def __init__(self, predictor: Predictor, risk: float) -> None:
        import numpy as np

        self.predictor, self._np = predictor, np
        self.exact = getattr(predictor, "table", None)
        probe = predictor.predict(predictor.space.encode([predictor.space.largest()]))
        self.risk = risk if probe.std is not None else 0.0

    @property
    def objective(self) -> Objective:
        return self.exact if self.exact is not None else self._lower

    def _lower(self, population: Any) -> Any:
        found = self.predictor.predict(population)
        if found.std is None or self.risk == 0:
            return self._np.asarray(found.mean, float)
        return found.mean - self.risk * found.std

    def facts(self, arch: Arch) -> dict[str, Any]:
        found = self.predictor.predict(self.predictor.space.encode([arch]))
        facts: dict[str, Any] = {"accuracy": float(found.mean[0])}
        if found.std is not None:
            facts["uncertainty"] = float(found.std[0])
        facts["extrapolates"] = bool(found.extrapolates[0])
        return facts


@dataclass(frozen=True)
class Checker:
    """What another predictor than the one that was searched on says of an arch."""

    name: str
    space: Space
    value: Callable[[Any], Any]  # of a population

    def __call__(self, arch: Arch) -> float:
        return float(self.value(self.space.encode([arch]))[0])


def checker_of(bound: LowerBound, second: Path | None, space: Space) -> Checker | None:
    """The predictor that is named; else a second opinion, where the first one has its records."""
    from onceforall.predictors import Accuracy, SecondOpinion

    if second is not None:
        return Checker(str(second), space, mean_of(loaded(second, space)))
    if isinstance(bound.predictor, Accuracy):
        return Checker(SECOND, space, SecondOpinion(bound.predictor))
    return None


def facts_of(
    found: Result | Candidate, bound: LowerBound, checker: Checker | None
) -> dict[str, Any]:
    """Plain data of an arch that was found: predicted, limited, checked."""
    facts = {
        "arch": str(found.arch),
        "resolution": found.arch.resolution,
        **bound.facts(found.arch),
        "limits": found.limits,
    }
    if checker is not None:
        facts["checked"] = checker(found.arch)
    return facts


def loaded(path: Path, space: Space) -> Predictor:
    from onceforall import predictors

    return predictors.load(path, space)


def mean_of(predictor: Predictor) -> Callable[[Any], Any]:
    return lambda population: predictor.predict(population).mean
