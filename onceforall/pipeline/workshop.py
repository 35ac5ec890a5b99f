"""A supernet with all that specialising it needs: data, device, predictors and their records.

`open_workshop` collects the records that are not there yet and fits both predictors on
them. Records are kept in the run's folder, and what is measured later is added to them;
predictors are fitted anew each time, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onceforall.data import Data
from onceforall.devices import Latency, Target
from onceforall.pipeline import collecting
from onceforall.pipeline.runs import Run
from onceforall.predictors import Predictor, Report, fit_accuracy, fit_latency
from onceforall.progress import say
from onceforall.records import Labels, read_labels
from onceforall.space import Arch
from onceforall.supernet import SuperNet, torch_device

FAR = 2.5  # standard deviations between a prediction and a measurement that disagree


@dataclass
class Workshop:
    """All that specialising needs; the predictors grow with what is measured.

    Attributes:
        images: of validation that the accuracy records stand on.
        risk: standard deviations taken off a predicted accuracy in search.
        delivered: archs that were specialised so far, with the latest of their latencies, ms.
        scores: top-1 on all validation images of the archs that were candidates so far.
        accuracy_file: of the accuracy records, to which what is scored is added; None: to none.
        latency_file: likewise, of latencies.
    """

    supernet: SuperNet
    data: Data
    target: Target
    accuracy: Predictor
    latency: Predictor
    accuracy_labels: Labels
    latency_labels: Labels
    images: int
    risk: float = 1.0
    delivered: dict[Arch, float] = field(default_factory=dict)
    scores: dict[Arch, float] = field(default_factory=dict)
    accuracy_file: Path | None = None
    latency_file: Path | None = None

    def keep_latencies(self, archs: Sequence[Arch], times: Sequence[Latency]) -> None:
        """Adds what was just measured to the records."""
        if self.latency_file is not None:
            collecting.add_latencies(self.latency_file, self.target, archs, times)

    def keep_accuracy(self, arch: Arch, top1: float) -> None:
        """Likewise, where the arch has none; `top1` is that on the first `images`."""
        if self.accuracy_file is not None:
            collecting.add_accuracy(
                self.accuracy_file, self.supernet, self.data, self.images, arch, top1
            )

    def learn_latency(self, archs: Sequence[Arch], times_ms: Sequence[float]) -> None:
        """Fits the latency predictor anew with what was just measured."""
        self.latency_labels = _with(self.latency_labels, archs, times_ms)
        self.latency = fit_latency(self.latency_labels)

    def learn_accuracy(self, archs: Sequence[Arch], top1s: Sequence[float]) -> None:
        """Fits the accuracy predictor anew with what was just measured, on the images that the
        records stand on."""
        self.accuracy_labels = _with(self.accuracy_labels, archs, top1s)
        self.accuracy = fit_accuracy(self.accuracy_labels)


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


def open_workshop(
    run: Run,
    data: Data,
    target: Target,
    *,
    accuracy_samples: int = 100,
    latency_samples: int = 100,
    images: int | None = None,
    risk: float = 1.0,
    seed: int = 0,
    on: str | None = None,
) -> Workshop:
    """Collects what records are missing, fits the predictors, and says their held-out errors.

    Args:
        on: where the supernet is put, and networks are extracted, calibrated and scored: "cuda" or
            "cpu"; the GPU where there is one, if left out.

    Raises:
        InputError: too few samples, or records that are not of this supernet, its data, this
            machine and its runtime.
    """
    supernet = run.supernet.to(torch_device(on))
    space, family = supernet.space, supernet.family
    scores, times = run.folder / "accuracy.jsonl", run.folder / f"latency-{target}.jsonl"
    collecting.latencies_in(times, target)  # refused before the long work, not after it
    images = collecting.scored_on(scores, supernet, data, images)
    collecting.accuracies(supernet, data, accuracy_samples, scores, images, seed)
    scored = read_labels(scores, space, collecting.TOP1)
    accuracy = fit_accuracy(scored, seed=seed)
    if accuracy.report is not None:
        _say_error("accuracy", f"{accuracy.report.rmse:.2f} points", accuracy.report)
    collecting.latencies(family, target, latency_samples, times, seed + 1)
    labels = read_labels(times, space, collecting.LATENCY, positive=True, device=str(target))
    latency = fit_latency(labels, seed=seed)
    if latency.report is not None:
        _say_error("latency", f"{latency.report.mape:.1f}%", latency.report)
    return Workshop(
        supernet,
        data,
        target,
        accuracy,
        latency,
        scored,
        labels,
        images,
        risk,
        accuracy_file=scores,
        latency_file=times,
    )


def _say_error(of: str, error: str, report: Report) -> None:
    say(
        f"{of} predictor: error {error}, Kendall tau {report.kendall_tau:.2f} on held-out archs"
        f" ({report.n_train} records)"
    )
