"""The one timing loop of all devices.

A latency is the median over many runs. Several networks are timed in turns, a short
stretch each per round, so that a machine that slows down for a while slows all of them
down and not one. Knows callables, nothing of networks or runtimes.

A call may have a method `stretch`, a context manager that is entered around each of its
stretches: for settings of the process that the call needs, that must not stay, and that take
too long to be set within what is timed. A call may have a method `times(seconds)`, which runs for
about so long and returns the milliseconds of single runs: what runs elsewhere has another clock.
Its attribute `facts` is what else the runs told (SRAM, cycles); the energy of a run is added
where the system tells it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from scipy.special import stdtrit

from onceforall.devices.energy import Meter

ROUNDS = 9
STRETCH_SECONDS = 0.02  # of one network in one round
NOISY = 0.05  # half the width of an interval, as a share of the median
ENERGY = "energy_mj"  # of a run, among the facts
MEDIAN_ERROR = 1.2533  # of a median, in errors of a mean
FEWEST_RUNS = 3  # of one network in one round, however slow


@dataclass(frozen=True)
class Latency:
    """Milliseconds per run: the median over rounds of each round's median, and percentiles over
    all runs; of several visits the medians over them. `noise` is half the width of the median's
    95% interval, as a share of it: from how far the rounds' medians lie apart (1.4826 times their
    median absolute deviation stands for a standard deviation, 1.2533 of which over the root of
    their number is the error of a median), or from how far visits lie apart (Student's t of their
    standard deviation) where that is more. None: of one round nothing can be said."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    noise: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)  # what the call told

    @property
    def noisy(self) -> bool:
        """Whether the interval is too wide for networks to be compared by it."""
        return self.noise is not None and self.noise > NOISY


def time_calls(
    calls: Sequence[Callable[[], object]],
    rounds: int = ROUNDS,
    stretch_seconds: float = STRETCH_SECONDS,
) -> list[Latency]:
    """Times each call, in turns. Each stretch begins with one run that is not counted, which finds
    caches and frequency as the network before left them."""
    medians: list[list[float]] = [[] for _ in calls]
    times: list[list[float]] = [[] for _ in calls]
    energies: list[list[float]] = [[] for _ in calls]  # mJ a run, where the system tells it
    meter = Meter()
    for _ in range(rounds):
        for i, call in enumerate(calls):
            elsewhere = getattr(call, "times", None)
            with getattr(call, "stretch", nullcontext)():
                if elsewhere is None:
                    call()
                    meter.spent_mj()
                    stretch = _stretch(call, stretch_seconds)
                    spent = meter.spent_mj()
                    if spent is not None and not getattr(call, "on_gpu", False):
                        energies[i].append(spent / len(stretch))
                else:
                    stretch = elsewhere(stretch_seconds)
            medians[i].append(median(stretch))
            times[i] += stretch
    facts = [dict(getattr(call, "facts", {})) for call in calls]
    for told, spent_each in zip(facts, energies, strict=True):
        told |= {ENERGY: median(spent_each)} if spent_each else {}
    return [_latency(m, sorted(t), f) for m, t, f in zip(medians, times, facts, strict=True)]


def over_visits(visits: Sequence[Latency]) -> Latency:
    """One latency of several that were taken at different times, of the same file opened anew."""
    if len(visits) == 1:
        return visits[0]
    medians = np.array([visit.median_ms for visit in visits])
    middle, n = float(np.median(medians)), len(visits)
    between = float(stdtrit(n - 1, 0.975) * MEDIAN_ERROR * medians.std(ddof=1) / n**0.5 / middle)
    within = median(visit.noise or 0.0 for visit in visits) / n**0.5
    return Latency(
        middle,
        median(visit.p10_ms for visit in visits),
        median(visit.p90_ms for visit in visits),
        sum(visit.runs for visit in visits),
        max(between, within),
        visits[-1].facts,
    )


def _stretch(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each run of about `seconds` of runs."""
    found: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while True:
        start = clock()
        call()
        stop = clock()
        found.append(1000 * (stop - start))
        if stop > end and len(found) >= FEWEST_RUNS:
            return found


def _latency(medians: list[float], times: list[float], facts: dict[str, Any]) -> Latency:
    last = len(times) - 1
    middle = median(medians)
    noise = None
    if len(medians) > 1:
        spread = median(abs(m - middle) for m in medians)
        noise = 1.96 * MEDIAN_ERROR * 1.4826 * spread / len(medians) ** 0.5 / middle
    low, high = times[round(0.1 * last)], times[round(0.9 * last)]
    return Latency(middle, low, high, len(times), noise, facts)
