"""From a trained supernet and a budget to a file on a device.

Search proposes a few archs on predictions; each is extracted and timed for real, those
within the budget are calibrated and scored on validation images, and the best one is timed
again: a time that decided that it is the winner is too short by what luck there was in it.
If it is still within the budget it is evaluated on the test set, exported and checked; else
the next best is tried. Networks delivered for other budgets take part, so that a larger
budget never gets a worse network than a smaller one; they are what is left where a few rounds
find nothing else. Where none of the proposed is within the budget, or measured and predicted
disagree by more than a predictor's uncertainty explains, the predictor is fitted anew with
what was measured and search asked again, for less than the budget if need be, and nearer to it
where that was too little. What was predicted and what was measured stand side by side, and is
added to the run's records.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path

import numpy as np

from onceforall.errors import InputError, choices
from onceforall.pipeline.delivering import Card, Chosen, deliver, delivered_before
from onceforall.pipeline.evidence import Evidence, disagrees
from onceforall.pipeline.limits import Limits, counted
from onceforall.pipeline.recording import BUSY, LATENCY
from onceforall.predictors import Predictor
from onceforall.progress import say
from onceforall.records import Record
from onceforall.search import Infeasible, Limit, Objective, search
from onceforall.space import Arch, Population

CANDIDATES = 4  # archs timed for real, a round
EVALUATIONS = 5000  # archs that search asks the predictors for
ROUNDS = 5  # of search and timing, until one is within the budget
NEAR = 0.95  # of a limit on what is measured: what takes less leaves room for a better network


class Unmet(InputError):  # noqa: N818  (as `Infeasible`)
    """Nothing that was measured is within the limits."""


def specialize(evidence: Evidence, limits: Limits, out: Path, *, seed: int = 0) -> Card:
    """The best network within the limits, as files in the folder `out`: `network.safetensors`,
    the file of the device's format, `card.json` and `card.md`. What was delivered there before is
    found again.

    Raises:
        Infeasible: no arch meets the limits; says what could be met.
        Unmet: nothing within the limits on what is measured was found.
        InputError: the folder exists and holds something else.
    """
    prior = None if evidence.prior is None else evidence.prior.name
    before = delivered_before(
        out, evidence.supernet, evidence.target, limits, evidence.metric, prior
    )
    if before is not None and not evidence.resumed:
        say(f"{limits}: was delivered before, to {out}")
        device, time = str(evidence.target), before.latency_measured_ms
        evidence.delivered[before.arch] = Record(
            before.arch, LATENCY, time, "ms", device, before.told
        )
        evidence.scores[before.arch] = before.validation
        return before
    chosen = choose(evidence, limits, seed=seed)
    if before is None:
        return deliver(evidence, str(limits), chosen, out, limits)
    if before.arch != chosen.arch:
        raise InputError(f"{out}: exists already, and {chosen.arch} is better now")
    return before


def choose(evidence: Evidence, limits: Limits, *, seed: int = 0) -> Chosen:
    """The best arch within the limits, measured to be within them; nothing is delivered yet.

    Raises:
        Infeasible: no arch meets the limits; says what could be met.
        Unmet: nothing within the limits on what is measured was found.
    """
    found: list[Record] = []  # what was measured last
    tightness = 1.0  # of the limits on what is measured, for search
    fitting = _known_within(evidence, limits)
    fresh: set[Arch] = set()  # those of them that this call proposed
    over: set[Arch] = set()  # archs that were within the limits, and not when measured again
    for turn in range(ROUNDS):
        try:
            proposed = propose(evidence, limits, seed, tightness)
        except Infeasible:
            if not fitting and not found:
                raise
            if not fitting:
                break  # what was measured says more than what is predicted by now
            proposed = []  # by prediction nothing is left, but something measured fits
        proposed = [arch for arch in proposed if arch not in fitting and arch not in over]
        within: list[Record] = []
        refitted = False
        if proposed:
            found = evidence.time_archs(proposed)
            within = [record for record in found if limits.met(record)]
            fitting |= {record.arch: record for record in within}
            fresh |= {record.arch for record in within}
            refitted = _refit(evidence, limits, found, within)
        last = not proposed or turn == ROUNDS - 1
        enough = bool(fresh) and (turn > 0 or not refitted)
        if enough and not last and tightness < 1:
            used = max(_excess(evidence, limits, record) for record in fitting.values())
            if used < NEAR:  # the predictor was fitted anew, too, with what led to tighter limits
                say(f"{limits}: {used:.0%} of it used so far; searching again, nearer to it")
                tightness = min(tightness / used, 1.0)
                continue
        if fitting and (enough or last):
            failed: list[Record] = []
            needed = set(fitting) if last else fresh  # what was known before is not all there is
            winner = _winner(evidence, limits, fitting, failed, needed)
            if winner is not None:
                return winner
            over |= {record.arch for record in failed}
            fresh -= over
            found = failed
            _refit(evidence, limits, failed, [])
        elif within:
            say(
                f"{limits}: measured otherwise than predicted; searching again with predictors"
                " fitted anew"
            )
            continue
        say(f"{limits}: {_missed(limits, found)}; searching again with what was measured")
        beyond = float(np.median([_excess(evidence, limits, record) for record in found]))
        tightness /= min(max(beyond, 1.02), 1.5)
    raise Unmet(f"limits {limits} were not met by measuring: {_missed(limits, found)}")


def _missed(limits: Limits, found: Sequence[Record]) -> str:
    """By how much."""
    asked = {"latency_ms": limits.latency_ms} if limits.latency_ms is not None else {}
    asked |= limits.told
    parts = []
    for name in asked:
        least = min(_value(record, name) for record in found)
        parts.append(f"{least:.4g} {'ms' if name == 'latency_ms' else name}")
    of_file = [] if limits.file_bytes is None else [f"files of more than {limits.file_bytes:g} B"]
    return f"the {len(found)} archs measured last take {choices(parts + of_file)} and more"


def _value(record: Record, name: str) -> float:
    return record.value if name == "latency_ms" else float(record.provenance[name])


def _excess(evidence: Evidence, limits: Limits, record: Record) -> float:
    """The largest of what was measured, as a multiple of its limit."""
    shares = [record.value / limits.most_ms]
    shares += [_value(record, name) / most for name, most in limits.told.items()]
    if limits.file_bytes is not None and record.arch in evidence.files:
        shares.append(evidence.files[record.arch].exported.bytes / limits.file_bytes)
    return max(shares)


def _winner(
    evidence: Evidence,
    limits: Limits,
    fitting: dict[Arch, Record],
    failed: list[Record],
    needed: Set[Arch],
) -> Chosen | None:
    """The best of the archs within the limits that is so still when it is timed once
    more, as it will be delivered, and what it was before; None: none is, or none of `needed` is
    left. Those that are not go from `fitting` to `failed`.

    Times of a machine that is busy otherwise speak against nobody: the network is the winner then,
    and its card says so."""
    while needed & fitting.keys():
        arch = max(fitting, key=evidence.scores.__getitem__)
        qualified, ready = fitting[arch], evidence.file(arch)
        now = evidence.time_file(ready)
        busy = now.provenance.get(BUSY, False)
        small = limits.file_bytes is None or ready.exported.bytes <= limits.file_bytes
        met = limits.met(now)
        if small and (met or busy):
            evidence.delivered[arch] = qualified if busy else now
            if not met:
                say(
                    f"{limits}: {now.value:.4g} ms when measured again, while something else kept"
                    f" this machine busy; it took {qualified.value:.4g} ms before"
                )
            return Chosen(now, qualified.value)
        why = f"takes {now.value:.4g} ms when measured again"
        if not small:
            why = f"is a file of {ready.exported.bytes:,} bytes"
        say(f"{limits}: {arch} {why}; trying the next best")
        failed.append(now)
        evidence.timed[arch] = now
        del fitting[arch]
        if arch in evidence.delivered:
            evidence.delivered[arch] = now
    return None


def _refit(
    evidence: Evidence, limits: Limits, found: Sequence[Record], within: Sequence[Record]
) -> bool:
    """Scores the archs within the limits, and fits anew whichever predictor is at odds with what
    was measured; whether one was. The latency predictor is, too, where nothing is within."""
    archs, times = [record.arch for record in found], [record.value for record in found]
    fresh = [record.arch for record in within if record.arch not in evidence.scores]
    scores = [evidence.measure_score(arch) for arch in fresh]
    refitted = False
    if any(record.provenance.get(BUSY, False) for record in found):
        say(
            f"{limits}: something else keeps this machine busy; what is timed now may seem too slow"
        )
    elif limits.latency_ms is not None and (
        not within or disagrees(evidence.latency_predictor, archs, times)
    ):
        evidence.refit_latency(archs, times)
        refitted = True
    if disagrees(evidence.score_predictor, fresh, scores):
        evidence.refit_score(fresh, scores)
        refitted = True
    return refitted


def propose(evidence: Evidence, limits: Limits, seed: int, tightness: float = 1.0) -> list[Arch]:
    """The few best archs within the limits by prediction, best first; limits on what is measured
    are multiplied by `tightness`."""
    space = evidence.supernet.space
    result = search(
        space,
        objective(evidence),
        _search_limits(evidence, limits, tightness),
        evaluations=EVALUATIONS,
        seed=seed,
        top=CANDIDATES,
    )
    return [candidate.arch for candidate in result.candidates] or [result.arch]


def _known_within(evidence: Evidence, limits: Limits) -> dict[Arch, Record]:
    """Archs delivered before that meet the limits, with the latency as it was measured then; and
    the best few of those that were candidates before, in this call or an earlier one."""
    counts = counted(evidence.supernet.family, limits)

    def within(record: Record) -> bool:
        row = evidence.supernet.space.encode([record.arch])
        return limits.met(record) and not any(x.excess(x.of(row))[0] for x in counts)

    candidates = [evidence.timed[arch] for arch in evidence.scores if arch in evidence.timed]
    best = sorted(filter(within, candidates), key=lambda r: -evidence.scores[r.arch])[:CANDIDATES]
    delivered = filter(within, evidence.delivered.values())
    return {record.arch: record for record in (*best, *delivered)}


def objective(evidence: Evidence) -> Objective:
    """What search maximises: the predicted score less `evidence.risk` standard deviations."""

    def lower_bound(population: Population) -> np.ndarray:
        predicted = evidence.score_predictor.predict(population)
        if predicted.std is None:
            return predicted.mean
        return predicted.mean - evidence.risk * predicted.std

    return lower_bound


def _search_limits(evidence: Evidence, limits: Limits, tightness: float) -> list[Limit]:
    predictors = {}
    if limits.latency_ms is not None:
        predictors["latency"] = (evidence.latency_predictor, limits.latency_ms, "ms")
    for name, most in limits.told.items():
        predictors[name] = (evidence.predict_told(name), most, "mJ" if "mj" in name else "bytes")
    found = [
        Limit(name, partial(_mean, predictor), at_most=tightness * most, unit=unit)
        for name, (predictor, most, unit) in predictors.items()
    ]
    if limits.file_bytes is not None:
        size = evidence.file_sizes
        found.append(Limit("file_bytes", size, at_most=tightness * limits.file_bytes, unit="bytes"))
    return found + counted(evidence.supernet.family, limits)


def _mean(predictor: Predictor, population: Population) -> np.ndarray:
    return predictor.predict(population).mean
