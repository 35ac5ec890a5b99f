"""Whether a device changed its pace while it was measured: `Drift`.

What a model leaves over should not depend on when it was measured. Where neighbours in the
measuring order (a median over them, which outliers do not move) foretell it, the session
drifted. Knows arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_RECORDS = 60
_WINDOWS = (2, 4, 8, 16, 32, 64, 128)  # neighbours, on both sides together
_SHUFFLES = 40  # of the order: none of them may be foretold as well
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


def find(order: Floats, left: Floats) -> Drift | None:
    """The drift in what a model left over, (n,) logarithms; None where there is none to be seen."""
    if len(left) < LEAST_RECORDS:
        return None
    by_time = np.argsort(order, kind="stable")
    time, sorted_left = order[by_time], left[by_time] - np.median(left)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(left)) for _ in range(_SHUFFLES)]
    best: tuple[float, int] | None = None
    for window in _WINDOWS:
        if 4 * window > len(left):
            break
        error = _error(sorted_left, window)
        usual = min(_error(sorted_left[shuffled], window) for shuffled in orders)
        plain = float(np.abs(sorted_left).mean())
        if (
            error < usual
            and error < (1 - _LEAST_GAIN) * plain
            and (best is None or error < best[0])
        ):
            best = error, window
    if best is None:
        return None
    levels = _neighbours(sorted_left, best[1], own=True)
    return Drift(time, levels - np.median(levels))


def _error(left: Floats, window: int) -> float:
    """Mean absolute error of foretelling each from its neighbours."""
    return float(np.abs(left - _neighbours(left, window, own=False)).mean())


def _neighbours(left: Floats, window: int, *, own: bool) -> Floats:
    """(n,) median of the `window` nearest in the order, itself left out or in; at the ends the
    window is mirrored."""
    half = window // 2
    padded = np.pad(left, half, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    if not own:
        windows = np.delete(windows, half, axis=1)
    return np.median(windows, axis=1)
