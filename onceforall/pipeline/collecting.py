"""Records: scores of a supernet's archs, latencies of a family's archs on a device.

Records are appended one by one, so that nothing is lost when the work is stopped, and a
file that has some of them is gone on with, where they are of the same supernet and data,
or of the same machine and runtime. What commands that measure single networks have left beside
the file (`MEASURED`) is taken over where all agrees.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from onceforall import devices
from onceforall.costs import Shape, layer_table, unique_layers
from onceforall.data import Data
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.layers import Layer
from onceforall.families.settings import changed
from onceforall.pipeline.recording import (
    BUSY,
    FEW,
    FILE,
    LATENCY,
    MEASURED,
    latency_records,
    score_facts,
    score_record,
)
from onceforall.predictors import Accuracy, Predictor, choose, fit_accuracy, stalled
from onceforall.progress import say, track
from onceforall.records import (
    Labels,
    Record,
    Store,
    add,
    add_all,
    appending,
    comparable,
    read_jsonl,
    read_labels,
    refuse_others,
)
from onceforall.space import Arch, Population, Space, Table
from onceforall.supernet import (
    TOP1,
    Metric,
    Score,
    SuperNet,
    calibrated,
    score,
)
from onceforall.training import Group

FIRST_ROUND, NEXT_ROUNDS = 50, 20  # archs labelled before a predictor is asked, and each time
ROUNDS = 7  # of timing, a network
BLOCK_SECONDS = 0.005  # of timing, a block and round
ALONE = Group()  # one process
T = TypeVar("T")


def wanted(family: Family, have: Collection[Arch], n: int, seed: int) -> list[Arch]:
    """Archs to measure, so that there are n with those there are: the smallest, the largest, then
    others of all sizes, far from each other. Where the space has fewer, all of them."""
    space = family.space
    if space.size <= n:
        return [arch for arch in space if arch not in have]
    ends = [arch for arch in (space.smallest(), space.largest()) if arch not in have]
    more = n - len(have) - len(ends)
    if more <= 0:
        return ends[: max(0, n - len(have))]
    known = space.encode([*have, *ends])
    rng = np.random.default_rng((seed, len(have)))
    chosen = choose(space, None, known, more, rng, settings=changed(family))
    return [*ends, *space.decode(chosen)]


def collect_scores(
    supernet: SuperNet,
    data: Data,
    n: int,
    path: Path,
    images: int | None = None,
    seed: int = 0,
    metric: Metric = TOP1,
    group: Group = ALONE,
) -> int:
    """Appends scores until the file has those of n archs; returns how many were added.

    Every arch is scored on the same validation images: the first `images` of them, or as many as
    those that the file has. It is scored where the supernet lives. The processes of a `group` score
    an arch each at a time; the first writes, and the records are those of one process.

    Raises:
        InputError: the file has archs of another supernet, or that were scored on other images.
    """
    missing = _of_first(
        group,
        lambda: wanted(supernet.family, _archs(scores_in(path, supernet, data, metric)), n, seed),
    )
    _score_archs(supernet, data, missing, path, images, metric, group)
    return len(missing)


def _of_first(group: Group, work: Callable[[], T]) -> T:
    """What the first process finds, which alone reads and writes the file, in all of them."""
    return group.gather(group.together(lambda: work() if group.first else None))[0]  # type: ignore[return-value]


def _score_archs(
    supernet: SuperNet,
    data: Data,
    archs: Sequence[Arch],
    path: Path,
    images: int | None,
    metric: Metric,
    group: Group = ALONE,
) -> None:
    limit = _of_first(group, lambda: scored_on(path, supernet, data, images, metric))
    facts = score_facts(supernet, data, limit)
    known = _of_first(group, lambda: _beside(path, archs, metric.name, facts))
    have = {record.arch for record in known}
    missing = [arch for arch in archs if arch not in have]
    by_resolution = sorted(missing, key=lambda arch: arch.resolution)  # images are decoded once
    turns = [by_resolution[i : i + group.size] for i in range(0, len(missing), group.size)]

    def scored(turn: list[Arch]) -> list[Record]:
        """Of the arch that is this process's in a turn; of none in the last one, perhaps."""
        records = []
        for arch in turn[group.rank : group.rank + 1]:
            network = calibrated(supernet, arch, data)
            found = score(network, arch.resolution, data.validation, metric, limit=limit)
            records.append(score_record(supernet, arch, found, facts))
        return records

    with appending(path) if group.first else nullcontext() as file:
        if file is not None:
            for record in known:
                add(file, record)
        for turn in track(turns, f"{metric.label} records") if group.first else turns:
            every = group.gather(group.together(lambda turn=turn: scored(turn)))  # type: ignore[misc]
            for record in (r for records in every for r in records):
                if file is not None:
                    add(file, record)


def add_score(
    path: Path, supernet: SuperNet, data: Data, images: int, arch: Arch, found: Score
) -> None:
    """Appends what was just scored, as `collect_scores` does, unless the file has it."""
    if arch not in _archs(scores_in(path, supernet, data, found.metric)):
        add_all(path, [score_record(supernet, arch, found, score_facts(supernet, data, images))])


def _beside(
    path: Path, archs: Sequence[Arch], metric: str, of: Mapping[str, Any], device: str = ""
) -> list[Record]:
    """What is known of archs from networks that were measured singly, in the same folder."""
    store = Store(path.with_name(MEASURED))
    found = [store.find(arch, metric, of, device, (FILE, BUSY, FEW)) for arch in archs]
    return [record for record in found if record is not None]


def scores_in(path: Path, supernet: SuperNet, data: Data, metric: Metric = TOP1) -> list[Record]:
    """The records of the metric that a file has, if there is one.

    Raises:
        InputError: they are of another supernet or other data.
    """
    return refuse_others(path, metric.name, "", score_facts(supernet, data, 0))


def scored_on(
    path: Path, supernet: SuperNet, data: Data, images: int | None, metric: Metric = TOP1
) -> int:
    """How many validation images the archs of a file are scored on: those asked for, else those
    that its records name, else all.

    Raises:
        InputError: as `scores_in`, or the records name another number than that asked for.
    """
    most = len(data.validation)
    asked = None if images is None else min(images, most)
    for record in scores_in(path, supernet, data, metric):
        found = record.provenance.get("images", asked)
        if asked is not None and found != asked:
            raise InputError(
                f"{path}: its archs were scored on {found} images, not on {asked}; name another"
                " file, or leave the number of images out"
            )
        asked = found
    return asked or most


@dataclass(frozen=True)
class Labelling:
    """What labelling archs came to."""

    added: int
    errors: tuple[float, ...]  # held-out error of the predictor after each round, in the metric
    settled: bool  # whether that error had stopped falling


def collect_until_settled(
    supernet: SuperNet,
    data: Data,
    most: int,
    path: Path,
    images: int | None = None,
    seed: int = 0,
    metric: Metric = TOP1,
    *,
    cost: Callable[[Population], NDArray[np.float64]] | None = None,
    budgets: Sequence[float] = (),
    prior: Predictor | None = None,
    group: Group = ALONE,
) -> Labelling:
    """Like `collect_scores`, until a predictor's error on held-out archs stops falling or there are
    `most`: archs spread over the space, which no other choice was measured to be better than
    (docs/predictors.md); with `budgets` of a `cost`, after a first round, those near a budget that
    the predictor is least sure of.

    Gone on with, a file is judged by all its rounds, those of earlier times included. `prior`: as
    `fit_scores` has it.
    """
    space, settings = supernet.space, changed(supernet.family)
    most = min(most, space.size)
    least = min(most, FIRST_ROUND)
    added = collect_scores(supernet, data, least, path, images, seed, metric, group)
    errors: list[float] = []

    def judged() -> list[Arch]:
        """Fits a predictor to what there is; the archs to score next, none where it is enough."""
        labels = read_labels(path, space, metric.name, settings=settings)
        for n in range(FIRST_ROUND + len(errors) * NEXT_ROUNDS, len(labels) + 1, NEXT_ROUNDS):
            predictor = fit_scores(labels.take(np.arange(n)), space, metric, prior, seed)
            assert predictor.report is not None
            errors.append(predictor.report.rmse)
            say(f"{n} records: held-out error {errors[-1]:.3g} {metric.difference}")
        if stalled(errors) or len(labels) >= most:
            return []
        rng = np.random.default_rng((seed, len(labels)))
        n = min(NEXT_ROUNDS, most - len(labels))
        asked = predictor if budgets else None
        near: dict[str, Any] = {"cost": cost, "budgets": budgets, "settings": settings}
        chosen = choose(space, asked, labels.population, n, rng, **near)
        return space.decode(chosen)

    while True:
        fresh = _of_first(group, judged)
        if not fresh:
            return Labelling(added, tuple(errors), stalled(errors))
        _score_archs(supernet, data, fresh, path, images, metric, group)
        added += len(fresh)


def fit_scores(
    labels: Labels, space: Space, metric: Metric, prior: Predictor | None = None, seed: int = 0
) -> Accuracy:
    """A predictor of the metric for all archs of a space, with its error on held-out records in
    `report`. `prior` is another predictor of the space, whose output is one more feature."""
    found = fit_accuracy(labels, prior=prior, unit=metric.unit, seed=seed)
    return found if prior is None else found.on(space)


def collect_latencies(family: Family, target: Target, n: int, path: Path, seed: int = 0) -> int:
    """Appends latencies until the file has those of n archs; returns how many were added.

    Networks have fresh weights, which make no difference to the time, and are timed in turns.

    Raises:
        InputError: as `latencies_in`.
    """
    asked = wanted(family, _archs(latencies_in(path, target)), n, seed)
    known = _beside(path, asked, LATENCY, devices.provenance(target), str(target))
    if known:
        add_all(path, known)
    have = {record.arch for record in known}
    missing = [arch for arch in asked if arch not in have]
    together = 1 if target.known.estimated else devices.TOGETHER  # estimates need no turns
    groups = [missing[i : i + together] for i in range(0, len(missing), together)]
    for group in track(groups, "latency records"):
        networks = [(family.build(arch).eval(), shape_of(family, arch)) for arch in group]
        times = devices.measure_many(target, networks, ROUNDS)
        add_all(path, latency_records(family, target, group, times))
    return len(asked)


def latency_file(folder: Path, target: Target) -> Path:
    """Where a run keeps latencies of a target: those of another machine, or of another version of
    the runtime, are left in a file of their own."""
    for n in itertools.count(1):
        path = folder / f"latency-{target}{'' if n == 1 else f'-{n}'}.jsonl"
        known = read_jsonl(path) if path.exists() else []  # a damaged file is said, not passed over
        here = devices.provenance(target)
        if all(comparable(record, here) for record in known):
            return path
    raise AssertionError


def latencies_in(path: Path, target: Target) -> list[Record]:
    """The latency records of the target that a file has, if there is one.

    Raises:
        InputError: they are of another machine, or of another version of the runtime.
    """
    return refuse_others(path, LATENCY, str(target), devices.provenance(target))


def latency_labels(family: Family, target: Target, path: Path) -> Labels:
    """The latencies on the target that a file has, for predictors.

    Raises:
        InputError: as `read_labels`.
    """
    return read_labels(
        path,
        family.space,
        LATENCY,
        positive=True,
        device=str(target),
        settings=changed(family),
    )


def block_latencies(
    family: Family, target: Target, resolutions: Sequence[int] | None = None
) -> Table:
    """Each distinct layer timed by itself: the look-up table whose sums are latencies. It leaves
    out what a runtime gains or loses between layers."""
    layers = unique_layers(family, resolutions)
    groups = [layers[i : i + devices.TOGETHER] for i in range(0, len(layers), devices.TOGETHER)]
    found: dict[tuple[Layer, Shape], float] = {}
    for group in track(groups, "block latencies"):
        calls = []
        for layer, shape in group:
            network = torch.nn.Sequential(layer.build()).eval()
            calls.append(target.prepare(network, shape))
        times = devices.time_calls(calls, ROUNDS, BLOCK_SECONDS)
        found |= {key: time.median_ms for key, time in zip(group, times, strict=True)}
    return layer_table(
        family, lambda layer, shape: found[layer, shape], "sum", resolutions, "latency", "ms"
    )


def _archs(records: Sequence[Record]) -> list[Arch]:
    """Those of records, each once."""
    return list(dict.fromkeys(r.arch for r in records))


def shape_of(family: Family, arch: Arch) -> tuple[int, int, int]:
    """(C, H, W) of the images of an arch."""
    return (family.in_channels, arch.resolution, arch.resolution)
