"""From a run to evidence: the records that are not there yet are collected, and predictors fitted
on all of them, anew each time, which takes seconds: `gather_evidence`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onceforall.data import Data
from onceforall.devices import Target
from onceforall.families.settings import changed
from onceforall.pipeline import collecting
from onceforall.pipeline.evidence import Evidence, Start
from onceforall.pipeline.limits import TOLD
from onceforall.pipeline.priors import Prior
from onceforall.pipeline.recording import MEASURED
from onceforall.pipeline.runs import Run
from onceforall.predictors import Report, fit_latency
from onceforall.progress import say
from onceforall.records import Labels, Store, read_labels
from onceforall.supernet import torch_device


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
    prior: Prior | None = None,
    start: Start | None = None,
) -> Evidence:
    """Collects what records are missing, fits the predictors, and says their held-out errors.

    Args:
        start: the records to begin with, where a call that was interrupted is gone on with; all
            there are, if left out.
        on: where the supernet is put, and networks are extracted, calibrated and scored: "cuda" or
            "cpu"; the GPU where there is one, if left out.
        prior: of the score predictor.

    Raises:
        InputError: too few samples, or records that are not of this supernet, its data, this
            runtime.
    """
    supernet, metric = run.supernet.to(torch_device(on)), run.task.metric
    space, family, settings = supernet.space, supernet.family, changed(supernet.family)
    scores, times = run.score_file, collecting.latency_file(run.folder, target)
    images = collecting.scored_on(scores, supernet, data, images, metric)
    collecting.collect_scores(supernet, data, score_samples, scores, images, seed, metric)
    score_labels = read_labels(scores, space, metric.name, settings=settings)
    if start is not None:
        score_labels = score_labels.take(np.arange(start.scores))
    hint = None if prior is None else prior.predictor
    score_predictor = collecting.fit_scores(score_labels, space, metric, hint, seed)
    if score_predictor.report is not None:
        error = f"{score_predictor.report.rmse:.2g} {metric.difference}"
        _say_error(metric.label, error, score_predictor.report)
    collecting.collect_latencies(family, target, latency_samples, times, seed + 1)
    labels = collecting.latency_labels(family, target, times)
    if start is not None:
        labels = labels.take(np.arange(start.latencies))
    latency_predictor = fit_latency(labels, seed=seed)
    if latency_predictor.report is not None:
        error = f"{latency_predictor.report.mape:.1f}%"
        _say_error("latency", error, latency_predictor.report)
    files = (scores, times, run.folder / MEASURED)
    store = Store(*files)
    earlier = store if start is None else Store(*files, first=start.kept)
    evidence = Evidence(
        supernet,
        data,
        target,
        run.task,
        score_predictor,
        latency_predictor,
        score_labels,
        labels,
        images,
        start or Start(len(score_labels), len(labels), earlier.counts),
        _told(labels),
        risk,
        folder=run.folder,
        score_file=scores,
        latency_file=times,
        store=store,
        prior=prior,
        resumed=start is not None,
    )
    evidence.recall(earlier)
    return evidence


def _say_error(of: str, error: str, report: Report) -> None:
    say(
        f"{of} predictor: error {error}, Kendall tau {report.kendall_tau:.2f} on held-out archs"
        f" ({report.n_train} records)"
    )


def _told(labels: Labels) -> dict[str, Labels]:
    """What the latency records say beside times, as labels of their own."""
    found = {}
    for name in TOLD:
        if name in labels.columns and (labels.columns[name] != "").all():
            values = labels.columns[name].astype(float)
            if (values > 0).all():
                found[name] = replace(labels, metric=name, values=values, columns={})
    return found
