"""The circumstances of other people's records: covariates of an accuracy, the drift of a latency.

Records that this package collects have neither: all archs are scored on the same images, and timed
in turns. Published ones do: archs scored on different parts of the images (`Covariates`), and
devices that changed their pace over a session (`Drift`). A predictor holds one of these beside its
model. Knows labels and features; fits no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import InputError, choices
from onceforall.predictors.base import Floats, Groups, prefixed, under
from onceforall.records import Labels

# --- covariates: each value of a column is a level with an effect of its own

LEVEL_SCALE = 2.0  # of a covariate's indicators
_LEVEL_CENTRES = (-3.5, -5.5, -5.5)  # of a level's own effect, and of those on size and blocks
_MOST_LEVELS = 16


@dataclass(frozen=True)
class Covariate:
    """A circumstance of a measurement: its levels, and the share of the records that had each."""

    name: str
    levels: tuple[str, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, labels: Labels, name: str) -> Covariate:
        """That of a column.

        Raises:
            InputError: no such column, or one of too many values.
        """
        if name not in labels.columns:
            raise InputError(
                f"covariate {name!r} is not a column of the records;"
                f" there are {choices(labels.columns) or 'no others'}"
            )
        levels, counts = np.unique(labels.columns[name], return_counts=True)
        if len(levels) > max(2, len(labels) // 2):
            raise InputError(
                f"covariate {name!r} has {len(levels)} levels for {len(labels)} records;"
                " a covariate is a column of few different values"
            )
        return cls(name, tuple(levels.tolist()), tuple((counts / counts.sum()).tolist()))

    @property
    def centres(self) -> dict[str, float]:
        """The groups of features it adds, with the centres of their variances: an effect of each
        level, and one that grows with the size and one with the blocks of the arch."""
        names = (self.name, f"{self.name} by size", f"{self.name} by blocks")
        return {f"level {n}": c for n, c in zip(names, _LEVEL_CENTRES, strict=True)}

    def weights(self, given: ArrayLike | None, n: int) -> Floats:
        """(n, levels) the weight of each level: 1 for that of the record, the shares where it is
        not given."""
        weights = np.tile(np.array(self.shares), (n, 1))
        if given is not None:
            texts = np.broadcast_to(np.asarray(given).astype(np.str_), (n,))
            for i, level in enumerate(self.levels):
                weights[texts == level] = np.eye(len(self.levels))[i]
        return weights

    def groups(self, of: Groups, weights: Floats) -> dict[str, Floats]:
        """Its groups, for archs of these features; all are linear in the weights, so that shares
        give the average over the levels."""
        scaled = LEVEL_SCALE * weights
        parts = [np.ones((len(weights), 1)), of["size"][:, :1], of["blocks"]]
        return {
            name: (scaled[:, :, None] * part[:, None, :]).reshape(
                len(weights), weights.shape[1] * part.shape[1]
            )
            for name, part in zip(self.centres, parts, strict=True)
        }


@dataclass(frozen=True, eq=False)
class Covariates:
    """The covariates of records, and what each record had."""

    each: tuple[Covariate, ...]
    given: Mapping[str, NDArray[np.str_]]  # name -> (n,) the level of each record

    @classmethod
    def of(cls, labels: Labels, names: Sequence[str]) -> Covariates:
        found = tuple(Covariate.of(labels, name) for name in names)
        return cls(found, {name: labels.columns[name] for name in names})

    @property
    def centres(self) -> dict[str, float]:
        """The groups of features they add, with the centres of their variances."""
        return {name: c for covariate in self.each for name, c in covariate.centres.items()}

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        return {covariate.name: covariate.levels for covariate in self.each}

    def groups(self, of: Groups, given: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        """The groups they add to the features of archs that were measured so."""
        n = len(next(iter(of.values())))
        added: dict[str, Floats] = {}
        for covariate in self.each:
            added |= covariate.groups(of, covariate.weights(given.get(covariate.name), n))
        return added

    def variance(
        self, weights: Callable[[str], Floats], given: Mapping[str, ArrayLike], n: int
    ) -> Floats | float:
        """(n,) the variance between the levels that a measurement may have; `weights` gives those
        of the linear model of a group, in the unit of the metric."""
        total: Floats | float = 0.0
        for covariate in self.each:
            effects = LEVEL_SCALE * weights(next(iter(covariate.centres)))
            share = covariate.weights(given.get(covariate.name), n)
            total = total + share @ effects**2 - (share @ effects) ** 2
        return total

    def state(self) -> tuple[list[Any], dict[str, NDArray[Any]]]:
        """Plain data and arrays that `restore` makes them from again."""
        return [[c.name, c.levels, c.shares] for c in self.each], prefixed("given.", self.given)

    @classmethod
    def restore(cls, data: Sequence[Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        each = tuple(Covariate(name, tuple(v), tuple(s)) for name, v, s in data)
        return cls(each, under("given.", arrays))


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


# --- drift: the residuals of a model should not depend on when they were measured

ORDER = "order"  # the covariate and column that says when a record was measured
LEAST_RECORDS = 60
_WINDOWS = (2, 4, 8, 16, 32, 64, 128)  # neighbours, on both sides together
_SHUFFLES = 40  # of the order: none of them may be predicted as well
_LEAST_GAIN = 0.01  # of the mean absolute residual


@dataclass(frozen=True, eq=False)
class Drift:
    """The pace over a session, as the logarithm of its ratio to the usual one.

    Attributes:
        order: (n,) ascending: when, in the unit it was given in.
        levels: (n,) log-ratio at that time.
    """

    order: Floats
    levels: Floats

    def __call__(self, order: Floats) -> Floats:
        """(m,) log-ratio at these times, interpolated; outside the session that of its end."""
        return np.interp(order, self.order, self.levels)

    @property
    def size(self) -> float:
        """Standard deviation over the session, relative."""
        return float(self.levels.std())


def find_drift(order: Floats, residuals: Floats) -> Drift | None:
    """The drift in the residuals of a model, (n,) logarithms: where the median of the neighbours
    in the measuring order, which outliers do not move, predicts them better than it does in any
    of 40 random orders. None where it does not."""
    if len(residuals) < LEAST_RECORDS:
        return None
    by_time = np.argsort(order, kind="stable")
    time, ordered = order[by_time], residuals[by_time] - np.median(residuals)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(residuals)) for _ in range(_SHUFFLES)]
    plain = float(np.abs(ordered).mean())
    best: tuple[float, int] | None = None
    for window in _WINDOWS:
        if 4 * window > len(residuals):
            break
        error = _error(ordered, window)
        usual = min(_error(ordered[shuffled], window) for shuffled in orders)
        if (
            error < usual
            and error < (1 - _LEAST_GAIN) * plain
            and (best is None or error < best[0])
        ):
            best = error, window
    if best is None:
        return None
    levels = _neighbours(ordered, best[1], own=True)
    return Drift(time, levels - np.median(levels))


def _error(residuals: Floats, window: int) -> float:
    """Mean absolute error of predicting each from its neighbours."""
    return float(np.abs(residuals - _neighbours(residuals, window, own=False)).mean())


def _neighbours(residuals: Floats, window: int, *, own: bool) -> Floats:
    """(n,) median of the `window` nearest in the order, itself left out or in; at the ends the
    window is mirrored."""
    half = window // 2
    padded = np.pad(residuals, half, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    if not own:
        windows = np.delete(windows, half, axis=1)
    return np.median(windows, axis=1)


def order_of(labels: Labels) -> Floats:
    """(n,) when each was measured: the column `order`, or the place in the file."""
    if ORDER not in labels.columns:
        return np.arange(len(labels), dtype=float)
    return times(labels.columns[ORDER], len(labels))


def times(given: ArrayLike, n: int) -> Floats:
    """(n,) of a column or of one value for all.

    Raises:
        InputError: names the record whose time is not a finite number.
    """
    cells = np.broadcast_to(np.asarray(given), (n,))
    found = np.empty(n)
    for row, cell in enumerate(cells):
        try:
            found[row] = float(cell)
        except ValueError:
            found[row] = np.nan
        if not np.isfinite(found[row]):
            raise InputError(f"{ORDER}: {str(cell)!r}, of record {row + 1}, is not a finite number")
    return found
