"""How long a network takes, from what it has to do: `Physics`.

A device starts operations and computes them; the slower of the two holds up the other. With terms
that are each multiplied by a factor that is never negative,

    latency = (starts^p + computes^p)^(1/p)

which is a sum for p = 1 and the larger of the two for large p. The factors are fitted in relative
error, robustly (a Student-t likelihood: measured latencies have long upper tails), with a prior on
the logarithm of each (`Belief`), so that ten records are enough. How well a belief foretold the
records is its evidence (Laplace's approximation; MacKay, Information Theory, Inference, and
Learning Algorithms, 2003, section 28.1), by which beliefs can be weighed. Knows arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import gammaln

Floats = NDArray[np.float64]

FREEDOM = 4.0  # degrees of freedom of the Student-t: few, for long tails
LEAST_SPREAD = 0.004  # relative: no timing repeats better
_USUAL_SPREAD, _SPREAD_RECORDS = 0.03, 2.0  # what is thought of the spread, as if so many told it
_ROUNDS = 8
_SCALE = 3.0  # prior width of the logarithm of the latency


@dataclass(frozen=True)
class Belief:
    """What is thought of a device before it is measured: (centre, width) of the logarithm of the
    time for starting over that for computing and of the power p, and the width of each factor's
    about its share."""

    balance: tuple[float, float] = (0.0, 2.0)
    power: tuple[float, float] = (float(np.log(3.0)), 0.6)
    share: float = 1.0


# Both count; or so much computing, or so many small operations, that the other is hidden.
BELIEFS = (Belief(), Belief(balance=(-5.0, 1.0)), Belief(balance=(5.0, 1.0)))


@dataclass(frozen=True, eq=False)
class Terms:
    """What takes time: (n, k) things to start and (n, m) things to compute, in any unit, and the
    share that each is thought to have among its kind."""

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
        widths: how far each of these was thought to be uncertain.
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
        evidence: logarithm of the probability of the records under the belief.
    """

    law: Physics
    weights: Floats
    spread: float
    unsure: Floats
    evidence: float


def fit(terms: Terms, log_latency: Floats, belief: Belief = BELIEFS[0]) -> Fit:
    """The most probable factors for measured latencies, (n,) logarithms."""
    scaled = np.hstack([terms.starts, terms.computes])
    means = np.maximum(scaled.mean(0), 1e-300)
    scaled = scaled / means
    first, n = terms.starts.shape[1], len(log_latency)
    shares = np.log(np.concatenate([terms.start_shares, terms.compute_shares]))
    balance, power = belief.balance, belief.power
    centre = np.array([np.median(log_latency), balance[0], *shares, power[0]])
    widths = np.array([_SCALE, balance[1], *[belief.share] * len(shares), power[1]])
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
        told = np.sum(weights * residual**2) + _SPREAD_RECORDS * _USUAL_SPREAD**2
        spread = max(LEAST_SPREAD, float(np.sqrt(told / (n + _SPREAD_RECORDS))))
    slopes = _slopes(theta, scaled, first) * widths
    known = slopes.T @ (slopes * weights[:, None]) / spread**2 + np.eye(len(theta))
    away = (theta - centre) / widths
    evidence = (
        np.sum(_log_student(residual, spread))
        - 0.5 * away @ away
        - _SPREAD_RECORDS * (np.log(spread) + 0.5 * (_USUAL_SPREAD / spread) ** 2)
        - 0.5 * np.linalg.slogdet(known)[1]
    )
    unsure = np.asarray(np.linalg.inv(known), np.float64)
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
