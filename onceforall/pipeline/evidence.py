"""What is known of one supernet on one device: measured scores and latencies, and the predictors
fitted to them.

`gather_evidence` collects the records that are not there yet and fits both predictors on
them. Records are kept in the run's folder, and what is measured later is added to them;
predictors are fitted anew each time, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from onceforall import devices
from onceforall.data import Data
from onceforall.devices import Target
from onceforall.families.settings import changed
from onceforall.pipeline import collecting
from onceforall.pipeline.runs import Run
from onceforall.predictors import Predictor, Report, fit_accuracy, fit_latency
from onceforall.progress import say
from onceforall.records import Labels, read_labels
from onceforall.space import Arch
from onceforall.supernet import Metric, Score, SuperNet, Task, calibrated, score, torch_device

FAR = 2.5  # standard deviations between a prediction and a measurement that disagree
TIMING_ROUNDS = 15


@dataclass
class Evidence:
    """Measured values of a supernet's archs, and the predictors fitted to them; both grow.

    Attributes:
        images: of validation that the score records stand on.
        risk: standard deviations taken off a predicted score in search.
        delivered: archs that were specialised so far, with the latest of their latencies, ms.
        scores: the metric on all validation images of the archs that were candidates so far.
        score_file: of the score records, to which what is scored is added; None: to none.
        latency_file: likewise, of latencies.
    """

    supernet: SuperNet
    data: Data
    target: Target
    task: Task
    score_predictor: Predictor
    latency_predictor: Predictor
    score_labels: Labels
    latency_labels: Labels
    images: int
    risk: float = 1.0
    delivered: dict[Arch, float] = field(default_factory=dict)
    scores: dict[Arch, float] = field(default_factory=dict)
    score_file: Path | None = None
    latency_file: Path | None = None

    @property
    def metric(self) -> Metric:
        """What archs are scored by."""
        return self.task.metric

    def measure_latencies(
        self, networks: Sequence[nn.Module | Path], archs: Sequence[Arch]
    ) -> list[float]:
        """Median times of the archs' networks, or of their files, ms; records of them, unless
        something else kept the machine busy."""
        family = self.supernet.family
        shapes = [collecting.shape_of(family, arch) for arch in archs]
        pairs = list(zip(networks, shapes, strict=True))
        found = devices.measure_many(self.target, pairs, TIMING_ROUNDS)
        if self.latency_file is not None and not devices.disturbed(self.target):
            collecting.add_latencies(self.latency_file, family, self.target, archs, found)
        return [latency.median_ms for latency in found]

    def measure_score(self, arch: Arch) -> float:
        """The metric on the validation images that the score records stand on, and a record of it;
        that on all of them is kept in `scores`."""
        network = calibrated(self.supernet, arch, self.data)
        first = self._score(network, arch, 0, self.images)
        if self.score_file is not None:
            collecting.add_score(
                self.score_file, self.supernet, self.data, self.images, arch, first
            )
        self.scores[arch] = (first + self._score(network, arch, self.images, None)).value
        return first.value

    def _score(self, network: nn.Module, arch: Arch, start: int, limit: int | None) -> Score:
        images = self.data.validation
        return score(network, arch.resolution, images, self.metric, start=start, limit=limit)

    def refit_latency(self, archs: Sequence[Arch], times_ms: Sequence[float]) -> None:
        """Fits the latency predictor anew with what was just measured."""
        self.latency_labels = _with(self.latency_labels, archs, times_ms)
        self.latency_predictor = fit_latency(self.latency_labels)

    def refit_score(self, archs: Sequence[Arch], values: Sequence[float]) -> None:
        """Fits the score predictor anew with what was just measured, on the images that the
        records stand on."""
        self.score_labels = _with(self.score_labels, archs, values)
        self.score_predictor = fit_accuracy(self.score_labels, unit=self.metric.unit)


def disagrees(predictor: Predictor, archs: Sequence[Arch], values: Sequence[float]) -> bool:
    """Whether any measured value is farther from its prediction than the predictor's own
    uncertainty explains."""
    if not archs:
        return False
    predicted = predictor.predict(predictor.space.encode(archs))
    if predicted.std is None:
        return False
    return bool((np.abs(values - predicted.mean) > FAR * predicted.std).any())


def _with(labels: Labels, archs: Sequence[Arch], values: Sequence[float]) -> Labels:
    return replace(
        labels,
        population=np.concatenate([labels.population, labels.space.encode(archs)]),
        values=np.concatenate([labels.values, values]),
        columns={},
    )


def gather_evidence(
    run: Run,
    data: Data,
    target: Target,
    *,
    score_samples: int = 100,
    latency_samples: int = 100,
    images: int | None = None,
    risk: float = 1.0,
    seed: int = 0,
    on: str | None = None,
) -> Evidence:
    """Collects what records are missing, fits the predictors, and says their held-out errors.

    Args:
        on: where the supernet is put, and networks are extracted, calibrated and scored: "cuda" or
            "cpu"; the GPU where there is one, if left out.

    Raises:
        InputError: too few samples, or records that are not of this supernet, its data, this
            machine and its runtime.
    """
    supernet, metric = run.supernet.to(torch_device(on)), run.task.metric
    space, family, settings = supernet.space, supernet.family, changed(supernet.family)
    scores, times = run.score_file, run.folder / f"latency-{target}.jsonl"
    collecting.latencies_in(times, target)  # refused before the long work, not after it
    images = collecting.scored_on(scores, supernet, data, images, metric)
    collecting.collect_scores(supernet, data, score_samples, scores, images, seed, metric)
    score_labels = read_labels(scores, space, metric.name, settings=settings)
    score_predictor = fit_accuracy(score_labels, unit=metric.unit, seed=seed)
    if score_predictor.report is not None:
        error = f"{score_predictor.report.rmse:.2g} {metric.difference}"
        _say_error(metric.label, error, score_predictor.report)
    collecting.collect_latencies(family, target, latency_samples, times, seed + 1)
    labels = read_labels(
        times, space, collecting.LATENCY, positive=True, device=str(target), settings=settings
    )
    latency_predictor = fit_latency(labels, seed=seed)
    if latency_predictor.report is not None:
        error = f"{latency_predictor.report.mape:.1f}%"
        _say_error("latency", error, latency_predictor.report)
    return Evidence(
        supernet,
        data,
        target,
        run.task,
        score_predictor,
        latency_predictor,
        score_labels,
        labels,
        images,
        risk,
        score_file=scores,
        latency_file=times,
    )


def _say_error(of: str, error: str, report: Report) -> None:
    say(
        f"{of} predictor: error {error}, Kendall tau {report.kendall_tau:.2f} on held-out archs"
        f" ({report.n_train} records)"
    )
