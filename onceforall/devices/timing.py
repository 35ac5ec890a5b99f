"""The one timing loop of all devices.

A latency is the median over many runs. Several networks are timed in turns, a short
stretch each per round, so that a machine that slows down for a while slows all of them
down and not one. Knows callables, nothing of networks or runtimes.

A call may have a method `stretch`, a context manager that is entered around each of its
stretches: for settings of the process that the call needs, that must not stay, and that take
too long to be set within what is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

ROUNDS = 9
STRETCH_SECONDS = 0.02  # of one network in one round
FEWEST_RUNS = 3  # of one network in one round, however slow


@dataclass(frozen=True)
class Latency:
    """Milliseconds per run: the median over rounds of each round's median, and percentiles over
    all runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


def time_calls(
    calls: Sequence[Callable[[], object]],
    rounds: int = ROUNDS,
    stretch_seconds: float = STRETCH_SECONDS,
) -> list[Latency]:
    """Times each call, in turns. Each stretch begins with one run that is not counted, which finds
    caches and frequency as the network before left them."""
    medians: list[list[float]] = [[] for _ in calls]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for i, call in enumerate(calls):
            with getattr(call, "stretch", nullcontext)():
                call()
                stretch = _stretch(call, stretch_seconds)
            medians[i].append(median(stretch))
            times[i] += stretch
    return [_latency(m, sorted(t)) for m, t in zip(medians, times, strict=True)]


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


def _latency(medians: list[float], times: list[float]) -> Latency:
    last = len(times) - 1
    return Latency(median(medians), times[round(0.1 * last)], times[round(0.9 * last)], len(times))
