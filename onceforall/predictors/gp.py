"""Gaussian processes over groups of features: `GP`.

The kernel is a sum: one linear kernel for each named group (a Bayesian linear model whose
weights in a group share a variance), and any number of squared-exponential kernels with one
length a group. Variances, lengths and noise maximise the marginal likelihood (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, section 5.4.1) times a wide prior that
keeps few records from over-fitting them. This file knows arrays, no archs and no records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Groups = Mapping[str, Floats]  # name -> (n, features)

_JITTER = 1e-8  # of the labels' variance, added to the diagonal
_PRIOR_WIDTH = 2.0  # of the logarithms of variances and lengths
_CHUNK = 2048  # rows at a time in prediction


@dataclass(frozen=True)
class Kernel:
    """Which groups of features have a linear kernel, and which share a squared-exponential one.

    In `smooth` each entry is one kernel: a tuple of parts, each with a length of its own; a part is
    a tuple of groups.
    """

    linear: tuple[str, ...]
    smooth: tuple[tuple[tuple[str, ...], ...], ...] = ()
    smooth_start: float = -1.0  # logarithm of the variance to start from, and the prior's centre

    def present(self, groups: Groups) -> Kernel:
        """Without the groups that are not there."""
        smooth = []
        for parts in self.smooth:
            kept = tuple(tuple(g for g in part if g in groups) for part in parts)
            kept = tuple(part for part in kept if part)
            if kept:
                smooth.append(kept)
        return Kernel(tuple(g for g in self.linear if g in groups), tuple(smooth))

    @property
    def size(self) -> int:
        """Number of parameters, the noise included."""
        return len(self.linear) + sum(1 + len(parts) for parts in self.smooth) + 1


@dataclass(frozen=True, eq=False)
class GP:
    """A fitted process. All variances are in units of `scale` squared."""

    kernel: Kernel
    theta: Floats  # logarithms: linear variances, (variance, lengths) of each smooth, noise
    groups: dict[str, Floats]  # of the records, (n, features)
    targets: Floats  # (n,)
    offset: float
    scale: float
    inflation: Floats | None = None  # (n,) factors of the noise variance; None: all 1
    weights: Floats = field(init=False)  # (n,)
    _factor: Floats = field(init=False)  # lower Cholesky factor of kernel + noise

    def __post_init__(self) -> None:
        covariance = self.covariance(self.groups, self.groups)
        covariance[np.diag_indices_from(covariance)] += _noise(self.noise, self.inflation)
        factor = cholesky(covariance, lower=True)
        object.__setattr__(self, "_factor", factor)
        object.__setattr__(self, "weights", cho_solve((factor, True), self._standard))

    @property
    def _standard(self) -> Floats:
        return (self.targets - self.offset) / self.scale

    @property
    def noise(self) -> float:
        return float(np.exp(self.theta[-1]))

    def covariance(self, a: Groups, b: Groups) -> Floats:
        """(n, m) of the latent function between two sets."""
        linear, smooth, _ = _unpack(self.kernel, self.theta)
        total = np.zeros((len(next(iter(a.values()))), len(next(iter(b.values())))))
        left, right = [], []
        for variance, name in zip(linear, self.kernel.linear, strict=True):
            weight = np.sqrt(np.exp(variance) / a[name].shape[1])
            left.append(weight * a[name])
            right.append(weight * b[name])
        if left:
            total += np.hstack(left) @ np.hstack(right).T
        for (variance, lengths), parts in zip(smooth, self.kernel.smooth, strict=True):
            x = np.hstack([_part(a, p, w) for p, w in zip(parts, lengths, strict=True)])
            y = np.hstack([_part(b, p, w) for p, w in zip(parts, lengths, strict=True)])
            total += np.exp(variance - 0.5 * _squared(x, y))
        return total

    def variance(self, groups: Groups) -> Floats:
        """(n,) prior variance of the latent function."""
        linear, smooth, _ = _unpack(self.kernel, self.theta)
        total = np.full(len(next(iter(groups.values()))), sum(np.exp(v) for v, _ in smooth))
        for value, name in zip(linear, self.kernel.linear, strict=True):
            total += np.exp(value) * (groups[name] ** 2).mean(1)
        return total

    def predict(self, groups: Groups) -> tuple[Floats, Floats]:
        """(n,) mean, and standard deviation of the latent function (no noise), of the targets."""
        n = len(next(iter(groups.values())))
        mean, std = np.empty(n), np.empty(n)
        for start in range(0, n, _CHUNK):
            part = {k: v[start : start + _CHUNK] for k, v in groups.items()}
            cross = self.covariance(part, self.groups)
            mean[start : start + _CHUNK] = cross @ self.weights
            solved = solve_triangular(self._factor, cross.T, lower=True)
            left = self.variance(part) - (solved**2).sum(0)
            std[start : start + _CHUNK] = np.sqrt(np.maximum(left, 0))
        return self.offset + self.scale * mean, self.scale * std

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain data and arrays that `restore` makes the process from again."""
        data = {
            "linear": self.kernel.linear,
            "smooth": self.kernel.smooth,
            "offset": self.offset,
            "scale": self.scale,
        }
        arrays: dict[str, NDArray[Any]] = {"theta": self.theta, "targets": self.targets}
        if self.inflation is not None:
            arrays["inflation"] = self.inflation
        return data, arrays | {f"group.{k}": v for k, v in self.groups.items()}

    @classmethod
    def restore(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> GP:
        smooth = tuple(tuple(tuple(part) for part in parts) for parts in data["smooth"])
        prefix = "group."
        return cls(
            Kernel(tuple(data["linear"]), smooth),
            arrays["theta"],
            {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)},
            arrays["targets"],
            data["offset"],
            data["scale"],
            arrays.get("inflation"),
        )

    @property
    def noise_std(self) -> float:
        return self.scale * float(np.sqrt(self.noise))

    def fitted(self) -> Floats:
        """(n,) the latent function at the records."""
        own = 1.0 if self.inflation is None else self.inflation
        return self.targets - self.scale * (self.noise * own + _JITTER) * self.weights

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """(n,) mean and standard deviation (noise included) of each target from all others, with
        these parameters; Rasmussen and Williams, section 5.4.2."""
        inverse = cho_solve((self._factor, True), np.eye(len(self.targets)))
        diagonal = np.diag(inverse)
        mean = self._standard - self.weights / diagonal
        return self.offset + self.scale * mean, self.scale / np.sqrt(diagonal)


def fit(
    kernel: Kernel,
    groups: Groups,
    targets: Floats,
    *,
    start: Floats | None = None,
    subset: int = 500,
    iterations: int = 80,
    refine: int = 6,
    inflation: Floats | None = None,
    centre: tuple[float, float] | None = None,
    rng: np.random.Generator | None = None,
) -> GP:
    """The process with the best parameters for these targets, (n,).

    With more than `subset` targets the parameters are found on a random part, then improved by
    `refine` steps on all: a step costs n^3. `inflation` (n,) multiplies the noise variance of each
    target; `centre` is the offset and scale of the targets, by default their mean and spread.
    """
    offset, scale = centre or (float(targets.mean()), float(targets.std()) or 1.0)
    kernel = kernel.present(groups)
    used = {name: groups[name] for name in _names(kernel)}
    standard = (targets - offset) / scale
    theta = prior_mean(kernel) if start is None else start
    n = len(targets)
    if n > subset:
        rng = rng or np.random.default_rng(0)
        rows = rng.permutation(n)[:subset]
        part = None if inflation is None else inflation[rows]
        theta = _maximise(
            kernel, {k: v[rows] for k, v in used.items()}, standard[rows], part, theta, iterations
        )
        iterations = refine
    if iterations:
        theta = _maximise(kernel, used, standard, inflation, theta, iterations)
    return GP(kernel, theta, used, targets, offset, scale, inflation)


def prior_mean(kernel: Kernel) -> Floats:
    """Logarithms of the parameters that are thought likely before any target is seen."""
    theta = [-1.0] * len(kernel.linear)
    for parts in kernel.smooth:
        theta += [kernel.smooth_start, *[np.log(3.0)] * len(parts)]
    return np.array([*theta, -3.0])


def _noise(variance: float, inflation: Floats | None) -> Floats | float:
    """What is added to the diagonal."""
    return variance * (1.0 if inflation is None else inflation) + _JITTER


def _names(kernel: Kernel) -> list[str]:
    parts = [name for smooth in kernel.smooth for part in smooth for name in part]
    return list(dict.fromkeys([*kernel.linear, *parts]))


def _unpack(kernel: Kernel, theta: Floats) -> tuple[Floats, list[tuple[float, Floats]], float]:
    at = len(kernel.linear)
    linear, smooth = theta[:at], []
    for parts in kernel.smooth:
        smooth.append((float(theta[at]), theta[at + 1 : at + 1 + len(parts)]))
        at += 1 + len(parts)
    return linear, smooth, float(theta[at])


def _part(groups: Groups, part: Sequence[str], length: float) -> Floats:
    """(n, d) features so scaled that squared distances are in squared lengths; a part counts the
    same whatever its number of features."""
    joined = np.hstack([groups[name] for name in part])
    return joined * (np.exp(-length) / np.sqrt(joined.shape[1]))


def _squared(x: Floats, y: Floats) -> Floats:
    """(n, m) squared distances."""
    distance = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * (x @ y.T)
    return np.maximum(distance, 0)


def _maximise(
    kernel: Kernel,
    groups: Groups,
    targets: Floats,
    inflation: Floats | None,
    start: Floats,
    iterations: int,
) -> Floats:
    """The parameters of greatest marginal likelihood times prior."""
    n = len(targets)
    linear = [groups[name] @ groups[name].T / groups[name].shape[1] for name in kernel.linear]
    distances = []
    for parts in kernel.smooth:
        distances.append([_squared(p, p) for p in (_part(groups, part, 0.0) for part in parts)])
    centre = prior_mean(kernel)

    def loss(theta: Floats) -> tuple[float, Floats]:
        variances, smooth, noise = _unpack(kernel, theta)
        terms = [np.exp(v) * k for v, k in zip(variances, linear, strict=True)]
        covariance = sum(terms, np.zeros((n, n)))
        curved = []
        for (variance, lengths), squares in zip(smooth, distances, strict=True):
            exponent = sum(
                (np.exp(-2 * w) * d for w, d in zip(lengths, squares, strict=True)),
                np.zeros((n, n)),
            )
            curved.append(np.exp(variance - 0.5 * exponent))
            covariance += curved[-1]
        covariance[np.diag_indices(n)] += _noise(np.exp(noise), inflation)
        try:
            factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e12, np.zeros_like(theta)
        inverse = cho_solve((factor, True), np.eye(n), check_finite=False)
        weights = inverse @ targets
        value = 0.5 * targets @ weights + np.log(np.diag(factor)).sum()
        slope = 0.5 * (inverse - np.outer(weights, weights))  # of the value by the covariance
        gradient = [float(np.vdot(slope, term)) for term in terms]
        for (_, lengths), squares, term in zip(smooth, distances, curved, strict=True):
            by_term = slope * term
            gradient.append(float(by_term.sum()))
            gradient += [
                float(np.exp(-2 * w) * np.vdot(by_term, d))
                for w, d in zip(lengths, squares, strict=True)
            ]
        share = np.diag(slope) if inflation is None else np.diag(slope) * inflation
        gradient.append(float(np.exp(noise) * share.sum()))
        away = (theta - centre) / _PRIOR_WIDTH
        return float(value + 0.5 * away @ away), np.array(gradient) + away / _PRIOR_WIDTH

    bounds = [(-12.0, 8.0)] * len(start)
    found: Any = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
    )
    return np.asarray(found.x, np.float64)
