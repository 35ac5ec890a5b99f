"""Explanations of a latency, weighed by how well each foretold the records: `Law`.

That starting operations, computing, or both take the time; and where other devices are known, that
the new one is like one of them, or a mixture. Knows features and `physics`; no process, no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from onceforall.predictors import physics
from onceforall.predictors.base import Floats
from onceforall.predictors.features import Features
from onceforall.predictors.physics import BELIEFS, Belief, Physics, Terms
from onceforall.space import Population

_LEAST_SHARE = 0.02  # a law of less is left out
_MIXTURE_BALANCE = (0.0, 3.0)
_ALIKE = 0.3, 0.1  # how far the balance, and the rest, of a device like another one may differ


class Source(Protocol):
    """Another device, whose latencies are known.

    Attributes:
        starting: 0 to 1, how much starting operations weighs against computing on it.
        power: logarithm of the p that joins the two.
    """

    starting: float

    @property
    def power(self) -> float: ...

    def parts(self, population: Population) -> tuple[Floats, Floats]:
        """(n,) logarithms of the time for starting and for computing."""
        ...


@dataclass(frozen=True, eq=False)
class Law:
    """One explanation of the latency.

    Attributes:
        sources: the devices (by place) whose starting and computing times it is made of; none:
            operations and MACs.
        physics: what each of these counts.
        unsure: covariance of the factors, in prior widths.
        share: how much it is believed beside the others.
    """

    sources: tuple[int, ...]
    physics: Physics
    unsure: Floats
    share: float


class Seen:
    """A population as laws see it: terms of physics, or of other devices."""

    def __init__(
        self, features: Features, sources: Sequence[Source], population: Population
    ) -> None:
        self.features, self.sources, self.population = features, sources, population

    @cached_property
    def _own(self) -> Terms:
        return self.features.physics(self.population)

    @cached_property
    def _parts(self) -> tuple[Floats, Floats]:
        """(n, sources) times for starting and for computing."""
        parts = [source.parts(self.population) for source in self.sources]
        return (
            np.exp(np.stack([starts for starts, _ in parts], 1)),
            np.exp(np.stack([computes for _, computes in parts], 1)),
        )

    def terms(self, sources: Sequence[int]) -> Terms:
        """Of a law. A device weighs in each kind as much as it tells of it: one that only waits
        for operations to start tells little of computing."""
        if not sources:
            return self._own
        rows = list(sources)
        starting = np.clip([self.sources[i].starting for i in rows], 0.02, 0.98)
        return Terms(
            self._parts[0][:, rows],
            self._parts[1][:, rows],
            starting / starting.sum(),
            (1 - starting) / (1 - starting).sum(),
        )

    def beliefs(self) -> list[tuple[tuple[int, ...], Belief]]:
        """What a device may be thought to be like, before it is measured."""
        found: list[tuple[tuple[int, ...], Belief]] = [((), belief) for belief in BELIEFS]
        if len(self.sources) > 1:
            found.append((tuple(range(len(self.sources))), Belief(_MIXTURE_BALANCE)))
        for i, source in enumerate(self.sources):
            starts, computes = (part[:, i].mean() for part in self._parts)
            balance, rest = _ALIKE
            belief = Belief((float(np.log(starts / computes)), balance), (source.power, rest), rest)
            found.append(((i,), belief))
        return found


def weighed(seen: Seen, log_latency: Floats) -> tuple[list[Law], float, Floats]:
    """The laws for measured latencies, (n,) logarithms, the one believed most first; the relative
    spread about them; and (n,) Student-t weights of the records."""
    fits = [(of, physics.fit(seen.terms(of), log_latency, b)) for of, b in seen.beliefs()]
    fits.sort(key=lambda pair: -pair[1].evidence)
    best = fits[0][1]
    shares = np.exp([fit.evidence - best.evidence for _, fit in fits])
    shares[shares < _LEAST_SHARE * shares.sum()] = 0
    shares /= shares.sum()
    laws = [
        Law(of, fit.law, fit.unsure, float(share))
        for (of, fit), share in zip(fits, shares, strict=True)
        if share > 0
    ]
    return laws, float(shares @ [fit.spread for _, fit in fits]), best.weights


def slopes(law: Law, seen: Seen) -> Floats:
    """(n, parameters) change of the log-latency for one prior width of each factor."""
    return law.physics.slopes(seen.terms(law.sources))


def averaged(laws: Sequence[Law], seen: Seen) -> tuple[Floats, Floats]:
    """(n,) mean and variance of the logarithm by all laws, each believed as much as its share."""
    shares = np.array([law.share for law in laws])
    means = np.stack([law.physics(seen.terms(law.sources)) for law in laws])
    mean = shares @ means
    variance = shares @ (means - mean) ** 2
    for law in laws:
        by_factor = slopes(law, seen)
        own = np.einsum("ij,jk,ik->i", by_factor, law.unsure, by_factor)
        variance = variance + law.share * np.maximum(own, 0)
    return mean, variance
