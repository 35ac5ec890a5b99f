"""From a trained supernet and a budget to a file on a device.

Search proposes a few archs on predictions; each is extracted and timed for real, those
within the budget are calibrated and scored on validation images, and the best one is timed
again: a time that decided that it is the winner is too short by what luck there was in it.
If it is still within the budget it is evaluated on the test set, exported and checked; else
the next best is tried. Networks delivered for other budgets take part, so that a larger
budget never gets a worse network than a smaller one. Where none is within the budget, or
measured and predicted disagree by more than a predictor's uncertainty explains, the
predictor is fitted anew with what was measured and search asked again. What was predicted
and what was measured stand side by side, and is added to the run's records.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from onceforall import devices
from onceforall.errors import InputError
from onceforall.pipeline.delivering import Card, Timed, calibrated_and_timed, deliver
from onceforall.pipeline.evidence import Evidence, disagrees
from onceforall.pipeline.limits import Limits, counted
from onceforall.progress import say
from onceforall.search import Infeasible, Limit, Objective, search
from onceforall.space import Arch, Population

CANDIDATES = 4  # archs timed for real, a round
EVALUATIONS = 5000  # archs that search asks the predictors for
ROUNDS = 5  # of search and timing, until one is within the budget


def specialize(evidence: Evidence, limits: Limits, out: Path, *, seed: int = 0) -> Card:
    """The best network within the limits, as files in the folder `out`: `network.safetensors`,
    `network.onnx` and `card.json`.

    Raises:
        Infeasible: no arch meets the limits; says what could be met.
        InputError: the folder exists, or nothing within the latency limit was found by measuring.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; name another folder or remove it first")
    return deliver(evidence, str(limits), choose(evidence, limits, seed=seed), out, limits)


def choose(evidence: Evidence, limits: Limits, *, seed: int = 0) -> Timed:
    """The best network within the limits, measured to be within them; nothing is delivered yet.

    Raises:
        Infeasible: no arch meets the limits; says what could be met.
        InputError: nothing within the latency limit was found by measuring.
    """
    found: list[float] = []  # latencies measured last, ms
    most = np.inf if limits.latency_ms is None else limits.latency_ms
    tightened = limits.latency_ms
    # latencies, ms, of the archs measured to be within the limits
    fitting = _delivered_within(evidence, limits)
    over: dict[Arch, float] = {}  # likewise, of those that were not when measured again
    for turn in range(ROUNDS):
        try:
            proposed = propose(evidence, replace(limits, latency_ms=tightened), seed)
        except Infeasible:
            if not fitting and not found:
                raise
            if not fitting:
                break  # what was measured says more than what is predicted by now
            proposed = []  # by prediction nothing is left, but something measured fits
        proposed = [arch for arch in proposed if arch not in fitting and arch not in over]
        within: dict[Arch, float] = {}
        refitted = False
        if proposed:
            networks = [evidence.supernet.extract(arch).eval() for arch in proposed]
            found = evidence.measure_latencies(networks, proposed)
            times = dict(zip(proposed, found, strict=True))
            within = {arch: time for arch, time in times.items() if time <= most}
            fitting |= within
            refitted = _refit(evidence, limits, times, list(within))
        if fitting and (turn > 0 or not refitted or not proposed):
            failed: dict[Arch, float] = {}
            winner = _winner(evidence, limits, fitting, failed)
            if winner is not None:
                return winner
            over |= failed
            found = list(failed.values())
            _refit(evidence, limits, failed, [])
        elif within:
            say(
                f"{limits}: measured otherwise than predicted; searching again with predictors"
                " fitted anew"
            )
            continue
        say(
            f"{limits}: the {len(found)} archs measured take {min(found):.4g} ms and more;"
            " searching again with what was measured"
        )
        beyond = float(np.median(found)) / most
        tightened = min(tightened or np.inf, most) / min(max(beyond, 1.02), 1.5)
    raise InputError(
        f"limit latency: at most {limits.latency_ms:g} ms was not met by measuring: the archs"
        f" measured last take {min(found):.4g} ms and more"
    )


def _winner(
    evidence: Evidence, limits: Limits, fitting: dict[Arch, float], failed: dict[Arch, float]
) -> Timed | None:
    """The best of the archs within the limits that is so still when it is timed once more, as it
    will be delivered; None: none is. Those that are not go from `fitting` to `failed`.

    Times of a machine that is busy otherwise speak against nobody: the network is the winner then,
    and its card says so."""
    most = np.inf if limits.latency_ms is None else limits.latency_ms
    while fitting:
        arch = max(fitting, key=evidence.scores.__getitem__)
        again = calibrated_and_timed(evidence, arch)
        qualified, now = fitting[arch], again.latency_ms
        if now <= most or again.disturbed:
            evidence.delivered[arch] = qualified if again.disturbed else now
            if now > most:
                say(
                    f"{limits}: {now:.4g} ms when measured again, while something else kept this"
                    f" machine busy; it took {qualified:.4g} ms before"
                )
            return replace(again, qualified_ms=qualified)
        say(f"{limits}: {arch} takes {now:.4g} ms when measured again; trying the next best")
        failed[arch] = now
        del fitting[arch]
        if arch in evidence.delivered:
            evidence.delivered[arch] = now
    return None


def _refit(
    evidence: Evidence, limits: Limits, times: dict[Arch, float], within: list[Arch]
) -> bool:
    """Scores the archs within the limits, and fits anew whichever predictor is at odds with what
    was measured; whether one was. The latency predictor is, too, where nothing is within."""
    archs, found = list(times), list(times.values())
    fresh = [arch for arch in within if arch not in evidence.scores]
    scores = [evidence.measure_score(arch) for arch in fresh]
    refitted = False
    if devices.disturbed(evidence.target):
        say(
            f"{limits}: something else keeps this machine busy; what is timed now may seem too slow"
        )
    elif limits.latency_ms is not None and (
        not within or disagrees(evidence.latency_predictor, archs, found)
    ):
        evidence.refit_latency(archs, found)
        refitted = True
    if disagrees(evidence.score_predictor, fresh, scores):
        evidence.refit_score(fresh, scores)
        refitted = True
    return refitted


def propose(evidence: Evidence, limits: Limits, seed: int) -> list[Arch]:
    """The few best archs within the limits by prediction, best first."""
    space = evidence.supernet.space
    result = search(
        space,
        objective(evidence),
        _search_limits(evidence, limits),
        evaluations=EVALUATIONS,
        seed=seed,
        top=CANDIDATES,
    )
    return [candidate.arch for candidate in result.candidates] or [result.arch]


def _delivered_within(evidence: Evidence, limits: Limits) -> dict[Arch, float]:
    """Archs delivered before that meet the limits, with the latency as it was measured then."""
    counts = counted(evidence.supernet.family, limits)
    most = np.inf if limits.latency_ms is None else limits.latency_ms
    return {
        arch: time
        for arch, time in evidence.delivered.items()
        if time <= most
        and not any(x.excess(x.value(evidence.supernet.space.encode([arch])))[0] for x in counts)
    }


def objective(evidence: Evidence) -> Objective:
    """What search maximises: the predicted score less `evidence.risk` standard deviations."""

    def lower_bound(population: Population) -> np.ndarray:
        predicted = evidence.score_predictor.predict(population)
        if predicted.std is None:
            return predicted.mean
        return predicted.mean - evidence.risk * predicted.std

    return lower_bound


def _search_limits(evidence: Evidence, limits: Limits) -> list[Limit]:
    found = []
    if limits.latency_ms is not None:
        found.append(
            Limit(
                "latency",
                lambda population: evidence.latency_predictor.predict(population).mean,
                at_most=limits.latency_ms,
                unit="ms",
            )
        )
    return found + counted(evidence.supernet.family, limits)
