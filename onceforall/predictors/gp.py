"""Gaussian processes over groups of features: `GP`.

The variances and lengths of the kernel and the noise maximise the marginal likelihood (Rasmussen
and Williams, Gaussian Processes for Machine Learning, 2006, section 5.4.1) times a wide prior that
keeps few records from over-fitting them. Knows arrays, no archs and no records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, eigh
from scipy.optimize import minimize

from onceforall.predictors.base import Floats, Groups
from onceforall.predictors.kernels import (
    Kernel,
    Scaling,
    Singles,
    scaled_part,
    squared,
    unpack,
)

_JITTER = 1e-8  # of the labels' variance, added to the diagonal
_PRIOR_WIDTH = 1.5  # of the logarithms of variances and lengths
_MEAN_PIVOTS, _STD_PIVOTS = 800, 192  # records that stand for all in prediction
_CHUNK = 1024  # rows at a time in prediction: what is computed between stays in the cache


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
        linear, smooth, _ = unpack(self.kernel, self.theta)
        total = np.zeros((len(next(iter(a.values()))), len(next(iter(b.values())))))
        left, right = [], []
        for variance, name in zip(linear, self.kernel.linear, strict=True):
            weight = np.sqrt(np.exp(variance) / a[name].shape[1])
            left.append(weight * a[name])
            right.append(weight * b[name])
        if left:
            total += np.hstack(left) @ np.hstack(right).T
        for (variance, lengths), parts in zip(smooth, self.kernel.smooth, strict=True):
            x = np.hstack([scaled_part(a, p, w) for p, w in zip(parts, lengths, strict=True)])
            y = np.hstack([scaled_part(b, p, w) for p, w in zip(parts, lengths, strict=True)])
            total += np.exp(variance - 0.5 * squared(x, y))
        return total

    def predict(self, groups: Groups) -> tuple[Floats, Floats]:
        """(n,) mean, and standard deviation of the latent function (no noise), of the targets.

        With many records some of them stand for all (`_pivots`), in single precision.
        """
        return self.mean(groups), self.std(groups)

    def mean(self, groups: Groups) -> Floats:
        """(n,) the mean alone."""
        n = len(next(iter(groups.values())))
        linear, smooth = self._compact
        total = np.zeros(n)
        for name, weights in linear.items():
            total += groups[name] @ weights
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            for scale, centres, few in smooth:
                total[rows] += np.exp(scale.left(groups, rows) @ centres) @ few
        return self.offset + self.scale * total

    def std(self, groups: Groups) -> Floats:
        """(n,) the standard deviation alone."""
        n = len(next(iter(groups.values())))
        roots, linear, smooth, half = self._explained
        _, terms, _ = unpack(self.kernel, self.theta)
        out = np.full(n, sum(np.exp(variance) for variance, _ in terms))
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            x = np.empty((len(out[rows]), len(linear)), np.float32)
            at = 0
            for name, root in roots.items():
                values = groups[name][rows]
                to = at + values.shape[1]
                np.multiply(values, root, out=x[:, at:to], casting="unsafe")
                at = to
            cross = x @ linear
            for scale, centres, variance in smooth:
                cross += variance * np.exp(scale.left(groups, rows) @ centres)
            out[rows] += np.einsum("ij,ij->i", x, x)
            cross = cross @ half
            out[rows] -= np.einsum("ij,ij->i", cross, cross)
        return self.scale * np.sqrt(np.maximum(out, 0))

    def linear_weights(self, name: str) -> Floats:
        """(features,) of a group with a linear kernel, in units of `scale`."""
        variance = np.exp(self.theta[self.kernel.linear.index(name)])
        x = self.groups[name]
        return np.asarray(variance / x.shape[1] * (x.T @ self.weights))

    @cached_property
    def _compact(self) -> tuple[dict[str, Floats], list[tuple[Scaling, Singles, Singles]]]:
        """The mean as weights of the linear groups and, for each smooth kernel, as weights of
        some records: those that reproduce its share in the mean at all records best."""
        linear = {name: self.linear_weights(name) for name in self.kernel.linear}
        _, terms, _ = unpack(self.kernel, self.theta)
        smooth = []
        for (variance, lengths), parts in zip(terms, self.kernel.smooth, strict=True):
            scale = Scaling(parts, lengths)
            exponent = scale.left(self.groups) @ scale.right(self.groups)
            covariance = np.exp(variance + exponent.astype(float))
            rows = _pivots(covariance, _MEAN_PIVOTS)
            weights: Floats = self.weights
            if len(rows) < len(covariance):
                wanted = covariance @ self.weights
                weights = np.asarray(np.linalg.lstsq(covariance[:, rows], wanted, rcond=1e-7)[0])
            singles = (np.exp(variance) * weights).astype(np.float32)
            smooth.append((scale, scale.right(self.groups)[:, rows], singles))
        return linear, smooth

    @cached_property
    def _explained(
        self,
    ) -> tuple[dict[str, float], Singles, list[tuple[Scaling, Singles, np.float32]], Singles]:
        """Records z and a matrix H with which the variance is k(x, x) - |k(x, z) H|^2: exact where
        all records are taken, else that of Titsias, AISTATS 2009, equation 6, which is not too
        small. Given as what k(x, z) is computed from, and H."""
        whole = self.covariance(self.groups, self.groups)
        rows = _pivots(whole, _STD_PIVOTS)
        some = whole[:, rows]
        prior = some[rows]
        prior[np.diag_indices_from(prior)] += 1e-8 * np.trace(prior) / len(prior)
        noise = np.broadcast_to(_noise(self.noise, self.inflation), (len(whole),))
        posterior = prior + some.T @ (some / noise[:, None])
        gained = np.linalg.inv(prior) - np.linalg.inv(posterior)
        values, vectors = eigh((gained + gained.T) / 2)
        half = vectors * np.sqrt(np.maximum(values, 0))
        variances, terms, _ = unpack(self.kernel, self.theta)
        roots = {
            name: float(np.sqrt(np.exp(v) / self.groups[name].shape[1]))
            for name, v in zip(self.kernel.linear, variances, strict=True)
        }
        linear = np.hstack([root * self.groups[name][rows] for name, root in roots.items()]).T
        smooth = []
        for (variance, lengths), parts in zip(terms, self.kernel.smooth, strict=True):
            scale = Scaling(parts, lengths)
            smooth.append((scale, scale.right(self.groups)[:, rows], np.float32(np.exp(variance))))
        return roots, linear.astype(np.float32), smooth, half.astype(np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain data and arrays that `restore` makes the process from again, with the groups of
        the records."""
        data = {
            "linear": self.kernel.linear,
            "smooth": self.kernel.smooth,
            "offset": self.offset,
            "scale": self.scale,
        }
        arrays: dict[str, NDArray[Any]] = {"theta": self.theta, "targets": self.targets}
        if self.inflation is not None:
            arrays["inflation"] = self.inflation
        return data, arrays

    @classmethod
    def restore(
        cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], groups: Groups
    ) -> GP:
        smooth = tuple(tuple(tuple(part) for part in parts) for parts in data["smooth"])
        kernel = Kernel(tuple(data["linear"]), smooth)
        return cls(
            kernel,
            arrays["theta"],
            {name: groups[name] for name in kernel.groups},
            arrays["targets"],
            data["offset"],
            data["scale"],
            arrays.get("inflation"),
        )

    def on(self, groups: Groups, targets: Floats) -> GP:
        """A process of the same parameters on other records."""
        used = {name: groups[name] for name in self.groups}
        return GP(self.kernel, self.theta, used, targets, self.offset, self.scale)

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
    inflation: Floats | None = None,
    centre: tuple[float, float] | None = None,
) -> GP:
    """The process with the best parameters for these targets, (n,).

    With more than `subset` targets the parameters are found on a random part: a step costs n^3.
    `inflation` (n,) multiplies the noise variance of each target; `centre` is the offset and scale
    of the targets, by default their mean and spread.
    """
    offset, scale = centre or (float(targets.mean()), float(targets.std()) or 1.0)
    kernel = kernel.present(groups)
    used = {name: groups[name] for name in kernel.groups}
    standard = (targets - offset) / scale
    theta = kernel.prior_mean() if start is None else start
    part, noises, n = used, inflation, len(targets)
    if n > subset:
        rows = np.random.default_rng(0).permutation(n)[:subset]
        part, standard = {k: v[rows] for k, v in used.items()}, standard[rows]
        noises = None if inflation is None else inflation[rows]
    theta = _maximise(kernel, part, standard, noises, theta, iterations)
    return GP(kernel, theta, used, targets, offset, scale, inflation)


def _noise(variance: float, inflation: Floats | None) -> Floats | float:
    """What is added to the diagonal."""
    return variance * (1.0 if inflation is None else inflation) + _JITTER


def _pivots(covariance: Floats, most: int) -> NDArray[np.intp]:
    """Rows that together explain the others best: all, or those of a pivoted Cholesky factor."""
    n = len(covariance)
    if n <= most:
        return np.arange(n)
    left = np.diag(covariance).copy()
    factor = np.zeros((most, n))
    rows = np.empty(most, np.intp)
    for i in range(most):
        rows[i] = row = int(left.argmax())
        if left[row] < 1e-10:
            return rows[:i]
        factor[i] = (covariance[row] - factor[:i, row] @ factor[:i]) / np.sqrt(left[row])
        left = np.maximum(left - factor[i] ** 2, 0)
        left[rows[: i + 1]] = 0
    return rows


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
        distances.append(
            [squared(p, p) for p in (scaled_part(groups, part, 0.0) for part in parts)]
        )
    centre = kernel.prior_mean()

    def loss(theta: Floats) -> tuple[float, Floats]:
        variances, smooth, noise = unpack(kernel, theta)
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
