"""How long a network takes, from what it has to do: `Physics`.

A device starts operations and computes them; the slower of the two holds up the other. With terms
that are each multiplied by a factor that is never negative,

    latency = (starts^p + computes^p)^(1/p)

which is a sum for p = 1 and the larger of the two for large p. The factors are fitted in relative
error, robustly (a Student-t likelihood: measured latencies have long upper tails), with a prior on
the logarithm of each, so that ten records are enough. Knows arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]

FREEDOM = 4.0  # degrees of freedom of the Student-t: few, for long tails
LEAST_SPREAD = 0.004  # relative: no timing repeats better
_ROUNDS = 6
_SCALE, _BALANCE, _SHARE, _POWER = 3.0, 3.0, 1.0, 0.6  # prior widths of the logarithms
_USUAL_POWER = 3.0


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
    """

    means: Floats
    theta: Floats

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
        return _slopes(self.theta, scaled, terms.starts.shape[1]) * _widths(len(self.theta))


def fit(terms: Terms, log_latency: Floats) -> tuple[Physics, Floats, float]:
    """The factors for measured latencies, with (n,) Student-t weights, at most about 1, and the
    relative spread about them."""
    scaled = np.hstack([terms.starts, terms.computes])
    means = np.maximum(scaled.mean(0), 1e-300)
    scaled = scaled / means
    first, n = terms.starts.shape[1], len(log_latency)
    shares = np.log(np.concatenate([terms.start_shares, terms.compute_shares]))
    centre = np.array([np.median(log_latency), 0.0, *shares, np.log(_USUAL_POWER)])
    widths = _widths(len(centre))
    theta, weights, spread = centre, np.ones(n), 0.05
    for _ in range(_ROUNDS):
        root = np.sqrt(weights) / spread

        def errors(at: Floats, root: Floats = root) -> Floats:
            misfit = root * (_log_latency(at, scaled, first) - log_latency)
            return np.concatenate([misfit, (at - centre) / widths])

        def jacobian(at: Floats, root: Floats = root) -> Floats:
            return np.vstack([root[:, None] * _slopes(at, scaled, first), np.diag(1 / widths)])

        theta = least_squares(errors, theta, jac=jacobian, max_nfev=60).x
        residual = log_latency - _log_latency(theta, scaled, first)
        spread = robust_spread(residual)
        weights = student_weights(residual / spread)
    return Physics(means, theta), weights, spread


def robust_spread(residual: Floats) -> float:
    """The standard deviation of the bulk of the residuals, relative; a little more where they are
    few."""
    bulk = 1.4826 * float(np.median(np.abs(residual)))
    return max(LEAST_SPREAD, bulk * (1 + 3 / len(residual)))


def student_weights(standard: Floats) -> Floats:
    """Weights of residuals in units of the spread: those of the EM algorithm for a Student-t."""
    return (FREEDOM + 1) / (FREEDOM + standard**2)


def _widths(count: int) -> Floats:
    return np.array([_SCALE, _BALANCE, *[_SHARE] * (count - 3), _POWER])


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
