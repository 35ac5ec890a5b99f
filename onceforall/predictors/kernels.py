"""Covariances over groups of features: `Kernel`.

The kernel is a sum: one linear kernel for each named group (a Bayesian linear model whose
weights in a group share a variance), and any number of squared-exponential kernels with one
length a group. Knows arrays, no archs and no records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.predictors.base import Floats, Groups

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """Which groups of features have a linear kernel, and which share a squared-exponential one.

    In `smooth` each entry is one kernel: a tuple of parts, each with a length of its own; a part is
    a tuple of groups. The centres are the prior means of the logarithms of the linear groups'
    variances, of a smooth kernel's variance and lengths, and of the noise's variance, where the
    targets' variance is 1.
    """

    linear: tuple[str, ...]
    smooth: tuple[tuple[tuple[str, ...], ...], ...] = ()
    centres: tuple[float, ...] = ()  # one a linear group; none: -1 for each
    smooth_centre: tuple[float, float] = (1.5, 1.3)
    noise_centre: float = -4.7

    def with_linear(self, centres: Mapping[str, float]) -> Kernel:
        """With more linear groups, by name."""
        return replace(
            self,
            linear=(*self.linear, *centres),
            centres=(*self._centres, *centres.values()),
        )

    def present(self, groups: Groups) -> Kernel:
        """Without the groups that are not there."""
        smooth = []
        for parts in self.smooth:
            kept = tuple(tuple(g for g in part if g in groups) for part in parts)
            kept = tuple(part for part in kept if part)
            if kept:
                smooth.append(kept)
        pairs = [p for p in zip(self.linear, self._centres, strict=True) if p[0] in groups]
        return replace(
            self,
            linear=tuple(name for name, _ in pairs),
            centres=tuple(centre for _, centre in pairs),
            smooth=tuple(smooth),
        )

    @property
    def _centres(self) -> tuple[float, ...]:
        return self.centres or (-1.0,) * len(self.linear)

    @property
    def groups(self) -> list[str]:
        """The names of the groups that it is over."""
        parts = [name for smooth in self.smooth for part in smooth for name in part]
        return list(dict.fromkeys([*self.linear, *parts]))

    def prior_mean(self) -> Floats:
        """The centres of all parameters, in the order of `GP.theta`."""
        theta = list(self._centres)
        for parts in self.smooth:
            theta += [self.smooth_centre[0], *[self.smooth_centre[1]] * len(parts)]
        return np.array([*theta, self.noise_centre])


def unpack(kernel: Kernel, theta: Floats) -> tuple[Floats, list[tuple[float, Floats]], float]:
    at = len(kernel.linear)
    linear, smooth = theta[:at], []
    for parts in kernel.smooth:
        smooth.append((float(theta[at]), theta[at + 1 : at + 1 + len(parts)]))
        at += 1 + len(parts)
    return linear, smooth, float(theta[at])


def scaled_part(groups: Groups, part: Sequence[str], length: float) -> Floats:
    """(n, d) features so scaled that squared distances are in squared lengths; a part counts the
    same whatever its number of features."""
    joined = np.hstack([groups[name] for name in part])
    return joined * (np.exp(-length) / np.sqrt(joined.shape[1]))


def squared(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """(n, m) squared distances."""
    distance = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * (x @ y.T)
    return np.maximum(distance, 0)


@dataclass(frozen=True, eq=False)
class Scaling:
    """The features of a smooth kernel, in lengths."""

    parts: tuple[tuple[str, ...], ...]
    lengths: Floats

    def left(self, groups: Groups, rows: slice = slice(None)) -> Singles:
        """(n, d + 2), whose product with `right` is -1/2 of the squared distances."""
        x = self._scaled(groups, rows)
        half = -0.5 * np.einsum("ij,ij->i", x, x)
        return np.column_stack([x, half, np.ones_like(half)])

    def right(self, groups: Groups) -> Singles:
        """(d + 2, n)"""
        x = self._scaled(groups, slice(None))
        half = -0.5 * np.einsum("ij,ij->i", x, x)
        return np.ascontiguousarray(np.column_stack([x, np.ones_like(half), half]).T)

    def _scaled(self, groups: Groups, rows: slice) -> Singles:
        some = {name: groups[name][rows] for part in self.parts for name in part}
        scaled = [scaled_part(some, p, w) for p, w in zip(self.parts, self.lengths, strict=True)]
        return np.hstack(scaled).astype(np.float32)
