"""How long a network takes, from what it has to do: `Law`.

A device starts operations and computes them; the slower of the two holds up the other. With terms
that are each multiplied by a factor that is never negative,

    latency = (starts^p + computes^p)^(1/p)

which is a sum for p = 1 and the larger of the two for large p. The factors are fitted in relative
error, robustly (a Student-t likelihood: measured latencies have long upper tails), with a prior on
the logarithm of each (`Prior`), so that ten records are enough. There are several priors: starting
operations, computing, or both take the time; and where records of other devices are at hand, the
new device is like one of them, or a mixture. The fits are averaged by their evidence (Laplace's
approximation; MacKay, Information Theory, Inference, and Learning Algorithms, 2003, section 28.1).
Knows arrays and features; no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import gammaln

from onceforall.predictors.base import Floats

if TYPE_CHECKING:
    from onceforall.predictors.features import Features
    from onceforall.space import Population

FREEDOM = 4.0  # degrees of freedom of the Student-t: few, for long tails
LEAST_SPREAD = 0.004  # relative: no timing repeats better
_USUAL_SPREAD, _SPREAD_RECORDS = 0.03, 2.0  # the spread's prior, and the records it counts as
_ROUNDS = 8
_SCALE = 3.0  # prior width of the logarithm of the latency
_LEAST_SHARE = 0.02  # a law of less is left out
_MIXTURE_BALANCE = (0.0, 3.0)
_ALIKE = 0.3, 0.1  # how far the balance, and the rest, of a device like another one may differ


@dataclass(frozen=True)
class Prior:
    """Of the factors of a device, before it is measured: (centre, width) of the logarithm of the
    time for starting over that for computing and of the power p, and the width of each factor's
    about its share."""

    balance: tuple[float, float] = (0.0, 2.0)
    power: tuple[float, float] = (float(np.log(3.0)), 0.6)
    share: float = 1.0


# Both count; or so much computing, or so many small operations, that the other is hidden.
PRIORS = (Prior(), Prior(balance=(-5.0, 1.0)), Prior(balance=(5.0, 1.0)))


@dataclass(frozen=True, eq=False)
class Terms:
    """What takes time: (n, k) things to start and (n, m) things to compute, in any unit, and the
    prior share of each among its kind."""

    starts: Floats
    computes: Floats
    start_shares: Floats  # (k,)
    compute_shares: Floats  # (m,)

    def take(self, rows: NDArray[np.intp]) -> Terms:
        return Terms(self.starts[rows], self.computes[rows], self.start_shares, self.compute_shares)


@dataclass(frozen=True, eq=False)
class Physics:
    """Fitted factors.

    Attributes:
        means: (k + m,) the terms are divided by these.
        theta: logarithms of the scale, of starts over computes, of the k + m factors, of p.
        widths: the prior width of each of these.
    """

    means: Floats
    theta: Floats
    widths: Floats

    @property
    def power(self) -> float:
        """Logarithm of p."""
        return float(self.theta[-1])

    def __call__(self, terms: Terms) -> Floats:
        """(n,) logarithm of the latency."""
        starts, computes = self.parts(terms)
        power = np.exp(self.theta[-1])
        return np.logaddexp(power * starts, power * computes) / power

    def parts(self, terms: Terms) -> tuple[Floats, Floats]:
        """(n,) logarithms of the time for starting and for computing."""
        scaled = np.hstack([terms.starts, terms.computes]) / self.means
        return _parts(self.theta, scaled, terms.starts.shape[1])

    def starting(self, terms: Terms) -> float:
        """0 to 1: how much starting weighs against computing, on average."""
        starts, computes = self.parts(terms)
        return float(np.mean(1 / (1 + np.exp(np.exp(self.theta[-1]) * (computes - starts)))))

    def slopes(self, terms: Terms) -> Floats:
        """(n, parameters) change of the log-latency for one prior width of each parameter."""
        scaled = np.hstack([terms.starts, terms.computes]) / self.means
        return _slopes(self.theta, scaled, terms.starts.shape[1]) * self.widths


@dataclass(frozen=True, eq=False)
class Fit:
    """Factors for measured latencies, and how sure they are.

    Attributes:
        weights: (n,) Student-t weights of the records, at most about 1.
        spread: relative, of the bulk of the records about the law.
        unsure: covariance of the factors, in prior widths.
        evidence: logarithm of the probability of the records under the prior.
    """

    physics: Physics
    weights: Floats
    spread: float
    unsure: Floats
    evidence: float


def fit(terms: Terms, log_latency: Floats, prior: Prior = PRIORS[0]) -> Fit:
    """The most probable factors for measured latencies, (n,) logarithms."""
    scaled = np.hstack([terms.starts, terms.computes])
    means = np.maximum(scaled.mean(0), 1e-300)
    scaled = scaled / means
    first, n = terms.starts.shape[1], len(log_latency)
    shares = np.log(np.concatenate([terms.start_shares, terms.compute_shares]))
    balance, power = prior.balance, prior.power
    centre = np.array([np.median(log_latency), balance[0], *shares, power[0]])
    widths = np.array([_SCALE, balance[1], *[prior.share] * len(shares), power[1]])
    theta, weights, spread = centre, np.ones(n), 0.1
    for _ in range(_ROUNDS):
        root = np.sqrt(weights) / spread

        def errors(at: Floats, root: Floats = root) -> Floats:
            misfit = root * (_log_latency(at, scaled, first) - log_latency)
            return np.concatenate([misfit, (at - centre) / widths])

        def jacobian(at: Floats, root: Floats = root) -> Floats:
            return np.vstack([root[:, None] * _slopes(at, scaled, first), np.diag(1 / widths)])

        theta = least_squares(errors, theta, jac=jacobian, max_nfev=60).x
        residual = log_latency - _log_latency(theta, scaled, first)
        weights = student_weights(residual / spread)
        squares = np.sum(weights * residual**2) + _SPREAD_RECORDS * _USUAL_SPREAD**2
        spread = max(LEAST_SPREAD, float(np.sqrt(squares / (n + _SPREAD_RECORDS))))
    slopes = _slopes(theta, scaled, first) * widths
    precision = slopes.T @ (slopes * weights[:, None]) / spread**2 + np.eye(len(theta))
    away = (theta - centre) / widths
    evidence = (
        np.sum(_log_student(residual, spread))
        - 0.5 * away @ away
        - _SPREAD_RECORDS * (np.log(spread) + 0.5 * (_USUAL_SPREAD / spread) ** 2)
        - 0.5 * np.linalg.slogdet(precision)[1]
    )
    unsure = np.asarray(np.linalg.inv(precision), np.float64)
    return Fit(Physics(means, theta, widths), weights, spread, unsure, float(evidence))


def _log_student(residual: Floats, spread: float) -> Floats:
    """(n,) logarithm of the density."""
    constant = gammaln((FREEDOM + 1) / 2) - gammaln(FREEDOM / 2) - 0.5 * np.log(FREEDOM * np.pi)
    tails = (FREEDOM + 1) / 2 * np.log1p((residual / spread) ** 2 / FREEDOM)
    return np.asarray(constant - np.log(spread) - tails)


def student_weights(standard: Floats) -> Floats:
    """Weights of residuals in units of the spread: those of the EM algorithm for a Student-t."""
    return (FREEDOM + 1) / (FREEDOM + standard**2)


def _parts(theta: Floats, scaled: Floats, first: int) -> tuple[Floats, Floats]:
    factors = np.exp(theta[2:-1])
    starts = np.log(scaled[:, :first] @ factors[:first]) + theta[0] + theta[1] / 2
    computes = np.log(scaled[:, first:] @ factors[first:]) + theta[0] - theta[1] / 2
    return starts, computes


def _log_latency(theta: Floats, scaled: Floats, first: int) -> Floats:
    starts, computes = _parts(theta, scaled, first)
    power = np.exp(theta[-1])
    return np.logaddexp(power * starts, power * computes) / power


def _slopes(theta: Floats, scaled: Floats, first: int) -> Floats:
    """(n, parameters) derivatives of `_log_latency`."""
    starts, computes = _parts(theta, scaled, first)
    power = np.exp(theta[-1])
    weight = 1 / (1 + np.exp(np.clip(power * (computes - starts), -500, 500)))  # of starting
    factors = np.exp(theta[2:-1])
    share = scaled * factors
    share[:, :first] *= (weight / share[:, :first].sum(1))[:, None]
    share[:, first:] *= ((1 - weight) / share[:, first:].sum(1))[:, None]
    whole = np.logaddexp(power * starts, power * computes) / power
    by_power = weight * starts + (1 - weight) * computes - whole
    columns = [np.ones_like(starts), weight - 0.5, *share.T, by_power]
    return np.stack(columns, 1)


# --- laws: what physics says beside records of other devices


class Source(Protocol):
    """A predictor of another device's latencies.

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
    """The fit under one prior.

    Attributes:
        sources: the devices (by place) whose starting and computing times it is made of; none:
            operations and MACs.
        physics: what each of these counts.
        unsure: covariance of the factors, in prior widths.
        share: its posterior probability among all laws.
    """

    sources: tuple[int, ...]
    physics: Physics
    unsure: Floats
    share: float


class Workload:
    """What a population has to do: in terms of operations and MACs, or of other devices' times."""

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
        """Those of a law. The share of a device in each kind is how much of its time that kind is:
        one that only waits for operations to start says little of computing."""
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

    def priors(self) -> list[tuple[tuple[int, ...], Prior]]:
        """The priors of a new device, each with the sources of its terms."""
        found: list[tuple[tuple[int, ...], Prior]] = [((), prior) for prior in PRIORS]
        if len(self.sources) > 1:
            found.append((tuple(range(len(self.sources))), Prior(_MIXTURE_BALANCE)))
        for i, source in enumerate(self.sources):
            starts, computes = (part[:, i].mean() for part in self._parts)
            balance, rest = _ALIKE
            prior = Prior((float(np.log(starts / computes)), balance), (source.power, rest), rest)
            found.append(((i,), prior))
        return found

    def slopes(self, law: Law) -> Floats:
        """(n, parameters) change of the log-latency for one prior width of each factor."""
        return law.physics.slopes(self.terms(law.sources))

    def averaged(self, laws: Sequence[Law]) -> tuple[Floats, Floats]:
        """(n,) mean and variance of the log-latency by all laws, weighed by their shares."""
        shares = np.array([law.share for law in laws])
        means = np.stack([law.physics(self.terms(law.sources)) for law in laws])
        mean = shares @ means
        variance = shares @ (means - mean) ** 2
        for law in laws:
            by_factor = self.slopes(law)
            own = np.einsum("ij,jk,ik->i", by_factor, law.unsure, by_factor)
            variance = variance + law.share * np.maximum(own, 0)
        return mean, variance


def fit_laws(workload: Workload, log_latency: Floats) -> tuple[list[Law], float, Floats]:
    """The laws for measured latencies, (n,) logarithms, the most probable first; the relative
    spread about them; and (n,) Student-t weights of the records."""
    fits = [(of, fit(workload.terms(of), log_latency, p)) for of, p in workload.priors()]
    fits.sort(key=lambda pair: -pair[1].evidence)
    best = fits[0][1]
    shares = np.exp([found.evidence - best.evidence for _, found in fits])
    shares[shares < _LEAST_SHARE * shares.sum()] = 0
    shares /= shares.sum()
    laws = [
        Law(of, found.physics, found.unsure, float(share))
        for (of, found), share in zip(fits, shares, strict=True)
        if share > 0
    ]
    return laws, float(shares @ [found.spread for _, found in fits]), best.weights
