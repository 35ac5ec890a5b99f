"""A supernet with all that specialising it needs: data, device, predictors and their records.

`open_workshop` collects the records that are not there yet and fits both predictors on
them. Records are kept in the run's folder; predictors are fitted anew each time, which
takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onceforall import collecting
from onceforall.data import Data
from onceforall.devices import Target
from onceforall.predictors import Predictor, Report, fit_accuracy, fit_latency
from onceforall.progress import say
from onceforall.records import Labels, read_labels
from onceforall.runs import Run
from onceforall.space import Arch
from onceforall.supernet import SuperNet

FAR = 2.5  # standard deviations between a prediction and a measurement that disagree


@dataclass
class Workshop:
    """All that specialising needs; the predictors grow with what is measured.

    Attributes:
        images: of validation that the accuracy records stand on.
        risk: standard deviations taken off a predicted accuracy in search.
        delivered: archs that were specialised so far, with their measured latency, ms.
        scores: top-1 on all validation images of the archs that were candidates so far.
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
) -> Workshop:
    """Collects what records are missing, fits the predictors, and says their held-out errors.

    Raises:
        InputError: too few samples, or records that do not belong to this run.
    """
    space, family = run.supernet.space, run.supernet.family
    scores = run.folder / "accuracy.jsonl"
    images = collecting.scored_on(scores, data, images)
    collecting.accuracies(run.supernet, data, accuracy_samples, scores, images, seed)
    scored = read_labels(scores, space, "top1")
    accuracy = fit_accuracy(scored, seed=seed)
    if accuracy.report is not None:
        _say_error("accuracy", f"{accuracy.report.rmse:.2f} points", accuracy.report)
    times = run.folder / f"latency-{target}.jsonl"
    collecting.latencies(family, target, latency_samples, times, seed + 1)
    labels = read_labels(times, space, "latency_ms", positive=True)
    latency = fit_latency(labels, seed=seed)
    if latency.report is not None:
        _say_error("latency", f"{latency.report.mape:.1f}%", latency.report)
    return Workshop(run.supernet, data, target, accuracy, latency, scored, labels, images, risk)


def _say_error(of: str, error: str, report: Report) -> None:
    say(
        f"{of} predictor: error {error}, Kendall tau {report.kendall_tau:.2f} on held-out archs"
        f" ({report.n_train} records)"
    )
