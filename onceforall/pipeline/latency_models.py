"""Latencies of a new device, as many as a model of it needs: `collect_until_predicted`.

Networks that span the space are timed in turns; after each group a predictor is fitted, and its
error on held-out records decides whether to go on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onceforall import devices
from onceforall.devices import Target
from onceforall.families import Family
from onceforall.pipeline import collecting
from onceforall.predictors import Report, fit_latency
from onceforall.progress import say
from onceforall.records import Record

LEAST = 3 * devices.TOGETHER  # records before an error is believed
MOST = 1000  # records: what more of them would tell, a model has no use for
AGREEING = 2  # fits in a row whose error is below the target


@dataclass(frozen=True)
class Collected:
    """What was measured.

    Attributes:
        added: records, beside those that were there.
        records: in all.
        report: errors of the last predictor on records that it was not fitted on; None: too few.
        noise: of a single latency, the median of what the records say, percent.
        reached: whether the error is at most the one that was asked for.
    """

    added: int
    records: int
    report: Report | None
    noise: float
    seconds: float
    reached: bool


def collect_until_predicted(
    family: Family,
    target: Target,
    path: Path,
    *,
    error: float = 5.0,
    seconds: float = 180.0,
    seed: int = 0,
) -> Collected:
    """Appends latencies to the file until a predictor fitted on them is at most `error` percent off
    on held-out records (their mean absolute error, twice in a row), or `seconds` are over. The
    last group is begun only if it can be expected to be done in time.

    Raises:
        InputError: as `collecting.latencies_in`.
    """
    started = time.monotonic()
    records = collecting.latencies_in(path, target)
    before, below, longest = len({r.arch for r in records}), 0, 0.0
    report: Report | None = None
    n = before
    while n < min(MOST, family.space.size):
        began = time.monotonic()
        n += collecting.collect_latencies(family, target, n + devices.TOGETHER, path, seed)
        longest = max(longest, time.monotonic() - began)
        spent = time.monotonic() - started
        if n >= LEAST:
            report = _error(family, target, path, seed)
            below = below + 1 if report.mape <= error else 0
            say(
                f"{n} records, {spent:.0f} of at most {seconds:.0f} s: held-out error"
                f" {report.mape:.1f}% (wanted: {error:g}%), Kendall tau {report.kendall_tau:.2f}"
            )
        if below == AGREEING or spent + longest > seconds:
            break
    records = collecting.latencies_in(path, target)
    return Collected(
        n - before,
        n,
        report,
        _noise(records),
        time.monotonic() - started,
        report is not None and report.mape <= error,
    )


def _error(family: Family, target: Target, path: Path, seed: int) -> Report:
    report = fit_latency(collecting.latency_labels(family, target, path), seed=seed).report
    assert report is not None
    return report


def _noise(records: list[Record]) -> float:
    known = [100 * r.provenance["noise"] for r in records if "noise" in r.provenance]
    return float(np.median(known)) if known else 0.0
