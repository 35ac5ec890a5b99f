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

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from onceforall import devices
from onceforall.costs import cost, cost_table
from onceforall.errors import InputError
from onceforall.export import Exported, export
from onceforall.families import Family
from onceforall.files import write_json
from onceforall.pipeline.collecting import digest, shape_of
from onceforall.pipeline.workshop import Workshop, disagrees
from onceforall.progress import say
from onceforall.search import Infeasible, Limit, Objective, search
from onceforall.search.feasibility import decide
from onceforall.space import Arch, Population
from onceforall.supernet import Accuracy, accuracy, calibrated, save_network

CANDIDATES = 4  # archs timed for real, a round
EVALUATIONS = 5000  # archs that search asks the predictors for
ROUNDS = 5  # of search and timing, until one is within the budget
TIMING_ROUNDS = 15


@dataclass(frozen=True)
class Limits:
    """What an arch may cost; None: anything."""

    latency_ms: float | None = None
    macs: float | None = None
    params: float | None = None
    peak_activation_bytes: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise InputError(f"{name}: {value:g} is not above 0")
        if all(value is None for value in vars(self).values()):
            raise InputError("limits: none given")

    def __str__(self) -> str:
        """Short and fit for a file's name."""
        parts = []
        if self.latency_ms is not None:
            parts.append(f"{self.latency_ms:g}ms")
        if self.macs is not None:
            parts.append(f"{self.macs / 1e6:g}M-macs")
        if self.params is not None:
            parts.append(f"{self.params / 1e6:g}M-params")
        if self.peak_activation_bytes is not None:
            parts.append(f"{self.peak_activation_bytes / 1024:g}KiB")
        return "-".join(parts)


@dataclass(frozen=True)
class Special:
    """A specialised network: predicted beside measured."""

    name: str
    arch: Arch
    params: int
    macs: int
    peak_activation_bytes: int
    top1_predicted: float | None  # percent, validation
    top1_validation: float
    top1_test: float
    latency_predicted_ms: float | None
    latency_measured_ms: float  # of the network as delivered, after it was chosen
    latency_qualified_ms: float | None = None  # as a candidate; None: it was none
    disturbed: bool = False  # whether the machine was busy otherwise while it was measured
    limits: dict[str, float] = field(default_factory=dict)
    device: str = ""
    folder: str = ""
    max_abs_diff: float | None = None  # of the exported file's logits, against PyTorch
    uncovered: tuple[str, ...] = ()  # operations that MACs and activations leave out

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "arch": str(self.arch), "uncovered": list(self.uncovered)}


def specialize(shop: Workshop, limits: Limits, out: Path, *, seed: int = 0) -> Special:
    """The best network within the limits, as files in the folder `out`: `network.safetensors`,
    `network.onnx` and `card.json`.

    Raises:
        Infeasible: no arch meets the limits; says what could be met.
        InputError: the folder exists, or nothing within the latency limit was found by measuring.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; name another folder or remove it first")
    found: list[float] = []  # latencies measured last, ms
    most = np.inf if limits.latency_ms is None else limits.latency_ms
    tightened = limits.latency_ms
    fitting = _known(shop, limits)  # latency, ms, of the archs measured to be within the limits
    over: dict[Arch, float] = {}  # likewise, of those that were not when measured again
    for turn in range(ROUNDS):
        try:
            proposed = propose(shop, replace(limits, latency_ms=tightened), seed)
        except Infeasible:
            if not fitting and not found:
                raise
            if not fitting:
                break  # what was measured says more than what is predicted by now
            proposed = []  # by prediction nothing is left, but something measured fits
        proposed = [arch for arch in proposed if arch not in fitting and arch not in over]
        within: dict[Arch, float] = {}
        learnt = False
        if proposed:
            networks = [shop.supernet.extract(arch).eval() for arch in proposed]
            found = _timed(shop, networks, proposed)
            times = dict(zip(proposed, found, strict=True))
            within = {arch: time for arch, time in times.items() if time <= most}
            fitting |= within
            learnt = _learn(shop, limits, times, list(within))
        if fitting and (turn > 0 or not learnt or not proposed):
            failed: dict[Arch, float] = {}
            winner = _winner(shop, limits, fitting, failed)
            if winner is not None:
                return deliver(shop, str(limits), winner, out, limits)
            over |= failed
            found = list(failed.values())
            _learn(shop, limits, failed, [])
        elif within:
            say(f"{limits}: measured otherwise than predicted; searching again with that learnt")
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


@dataclass(frozen=True)
class Timed:
    """A calibrated network, and its latency as it was measured for the card."""

    arch: Arch
    network: nn.Module
    latency_ms: float
    disturbed: bool  # whether the machine was busy otherwise
    qualified_ms: float | None = None  # its latency when it was a candidate


def _winner(
    shop: Workshop, limits: Limits, fitting: dict[Arch, float], failed: dict[Arch, float]
) -> Timed | None:
    """The best of the archs within the limits that is so still when it is timed once more, as it
    will be delivered; None: none is. Those that are not go from `fitting` to `failed`.

    Times of a machine that is busy otherwise speak against nobody: the network is the winner then,
    and its card says so."""
    most = np.inf if limits.latency_ms is None else limits.latency_ms
    while fitting:
        arch = max(fitting, key=shop.scores.__getitem__)
        again = _calibrated_and_timed(shop, arch)
        qualified, now = fitting[arch], again.latency_ms
        if now <= most or again.disturbed:
            shop.delivered[arch] = qualified if again.disturbed else now
            if now > most:
                say(
                    f"{limits}: {now:.4g} ms when measured again, while something else kept this"
                    f" machine busy; it took {qualified:.4g} ms before"
                )
            return replace(again, qualified_ms=qualified)
        say(f"{limits}: {arch} takes {now:.4g} ms when measured again; trying the next best")
        failed[arch] = now
        del fitting[arch]
        if arch in shop.delivered:
            shop.delivered[arch] = now
    return None


def _calibrated_and_timed(shop: Workshop, arch: Arch) -> Timed:
    network = calibrated(shop.supernet, arch, shop.data)
    (time,) = _timed(shop, [network], [arch])
    return Timed(arch, network, time, devices.disturbed(shop.target))


def _learn(shop: Workshop, limits: Limits, times: dict[Arch, float], within: list[Arch]) -> bool:
    """Scores the archs within the limits, and fits anew whichever predictor is at odds with what
    was measured; whether one was. The latency predictor is, too, where nothing is within."""
    archs, found = list(times), list(times.values())
    fresh = [arch for arch in within if arch not in shop.scores]
    scores = [_score(shop, arch) for arch in fresh]
    learnt = False
    if devices.disturbed(shop.target):
        say(
            f"{limits}: something else keeps this machine busy; what is timed now may seem too slow"
        )
    elif limits.latency_ms is not None and (not within or disagrees(shop.latency, archs, found)):
        shop.learn_latency(archs, found)
        learnt = True
    if disagrees(shop.accuracy, fresh, scores):
        shop.learn_accuracy(fresh, scores)
        learnt = True
    return learnt


def _score(shop: Workshop, arch: Arch) -> float:
    """Top-1 on the validation images that the accuracy records stand on; that on all of them is
    kept in `shop.scores`."""
    network = calibrated(shop.supernet, arch, shop.data)
    images = shop.data.validation
    first = accuracy(network, arch.resolution, images, shop.images)
    shop.keep_accuracy(arch, first.top1)
    rest = accuracy(network, arch.resolution, images, start=shop.images)
    hits = first.top1 * first.n + rest.top1 * rest.n
    shop.scores[arch] = hits / max(1, first.n + rest.n)
    return first.top1


def propose(shop: Workshop, limits: Limits, seed: int) -> list[Arch]:
    """The few best archs within the limits by prediction, best first."""
    space = shop.supernet.space
    result = search(
        space,
        objective(shop),
        _search_limits(shop, limits),
        evaluations=EVALUATIONS,
        seed=seed,
        top=CANDIDATES,
    )
    return [candidate.arch for candidate in result.candidates] or [result.arch]


def _known(shop: Workshop, limits: Limits) -> dict[Arch, float]:
    """Archs delivered before that meet the limits, with the latency as it was measured then."""
    counted = _counted_limits(shop.supernet.family, limits)
    most = np.inf if limits.latency_ms is None else limits.latency_ms
    return {
        arch: time
        for arch, time in shop.delivered.items()
        if time <= most
        and not any(x.excess(x.value(shop.supernet.space.encode([arch])))[0] for x in counted)
    }


def objective(shop: Workshop) -> Objective:
    """What search maximises: predicted accuracy less `shop.risk` standard deviations."""

    def lower_bound(population: Population) -> np.ndarray:
        predicted = shop.accuracy.predict(population)
        if predicted.std is None:
            return predicted.mean
        return predicted.mean - shop.risk * predicted.std

    return lower_bound


def _search_limits(shop: Workshop, limits: Limits) -> list[Limit]:
    found = []
    if limits.latency_ms is not None:
        found.append(
            Limit(
                "latency",
                lambda population: shop.latency.predict(population).mean,
                at_most=limits.latency_ms,
                unit="ms",
            )
        )
    return found + _counted_limits(shop.supernet.family, limits)


def _counted_limits(family: Family, limits: Limits) -> list[Limit]:
    """Those that need no measuring."""
    wanted = {name: value for name, value in vars(limits).items() if name != "latency_ms"}
    return [
        Limit(name, cost_table(family, name), at_most=value)
        for name, value in wanted.items()
        if value is not None
    ]


def refuse_impossible(family: Family, limits: Limits) -> None:
    """Decides before the long work what can be decided without it.

    Raises:
        Infeasible: no arch has counts within the limits; says what could be met.
        InputError: what is limited cannot be counted on this family.
    """
    decide(family.space, _counted_limits(family, limits), np.random.default_rng(0))


def _timed(shop: Workshop, networks: Sequence[nn.Module], archs: Sequence[Arch]) -> list[float]:
    family = shop.supernet.family
    pairs = [(n, shape_of(family, arch)) for n, arch in zip(networks, archs, strict=True)]
    found = devices.measure_many(shop.target, pairs, TIMING_ROUNDS)
    if not devices.disturbed(shop.target):
        shop.keep_latencies(archs, found)
    return [latency.median_ms for latency in found]


def deliver(
    shop: Workshop, name: str, timed: Timed, out: Path, limits: Limits | None = None
) -> Special:
    """Evaluates a calibrated network on the test set, exports it, checks the file, and writes the
    card that says it all."""
    arch = timed.arch
    family = shop.supernet.family
    test: Accuracy = accuracy(timed.network, arch.resolution, shop.data.test)
    network = copy.deepcopy(timed.network).cpu()
    shape = shape_of(family, arch)
    counted = cost(network, shape)
    facts = {"arch": str(arch), "resolution": arch.resolution, **shop.data.facts()}
    exported: Exported = export(network, shape, out / "network.onnx", "onnx", facts)
    save_network(out / "network.safetensors", network, family, arch, {"data": shop.data.facts()})
    population = shop.supernet.space.encode([arch])
    given = {} if limits is None else {k: v for k, v in vars(limits).items() if v is not None}
    special = Special(
        name=name,
        arch=arch,
        params=counted.params,
        macs=counted.macs,
        peak_activation_bytes=counted.peak_activation_bytes,
        top1_predicted=float(shop.accuracy.predict(population).mean[0]),
        top1_validation=shop.scores[arch],
        top1_test=test.top1,
        latency_predicted_ms=float(shop.latency.predict(population).mean[0]),
        latency_measured_ms=timed.latency_ms,
        latency_qualified_ms=timed.qualified_ms,
        disturbed=timed.disturbed,
        limits=given,
        device=str(shop.target),
        folder=str(out),
        max_abs_diff=exported.max_abs_diff,
        uncovered=counted.uncovered,
    )
    card = {
        **special.to_dict(),
        "test_images": test.n,
        "data": shop.data.facts(),
        "supernet": digest(shop.supernet),
        **devices.provenance(shop.target),
    }
    write_json(out / "card.json", card)
    return special


def reference(shop: Workshop, name: str, arch: Arch, out: Path) -> Special:
    """A given arch, treated as specialised ones are: the largest and the smallest, to compare."""
    timed = _calibrated_and_timed(shop, arch)
    _score(shop, arch)
    shop.delivered[arch] = timed.latency_ms
    return deliver(shop, name, timed, out)
