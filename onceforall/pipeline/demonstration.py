"""The whole job on small images, end to end: train, record, fit, search, specialise, export."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onceforall import data, training
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.files import write_json
from onceforall.pipeline.delivering import Card, deliver, reference
from onceforall.pipeline.evidence import Evidence
from onceforall.pipeline.gathering import gather_evidence
from onceforall.pipeline.limits import Limits
from onceforall.pipeline.runs import open_run
from onceforall.pipeline.specializing import choose, objective, specialize
from onceforall.progress import say
from onceforall.report import gather, profile_delivered, write_explorer
from onceforall.report.plots import Point, score_latency
from onceforall.search import Infeasible, pareto
from onceforall.space import Population
from onceforall.training import Settings, load_settings
from onceforall.training.scale import described

BUDGETS = 3  # where none are given
FRONT = 12  # latencies at which the best score is predicted, to place the budgets
MARGIN = 1.03  # of a budget over the predicted latency of what it is meant for
RAISED = 1.1  # times the budget before, where that gives no other network
SAMPLES = 50  # archs of which there are score records, and as many of latency
CLOUD = 1500  # random sub-networks in the plot's background


def demo(
    out: Path,
    budgets_ms: Sequence[float] | None = None,
    data_name: str | None = None,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs everything in the folder `out` and returns what was found, as plain data.

    Fashion-MNIST where it can be had, otherwise scikit-learn's digits, saying so.
    """
    for budget in budgets_ms or ():
        Limits(latency_ms=budget)  # refused before the long work, not after it
    started = time.monotonic()
    settings, found = _data(data_name, changes)
    name = settings.data.name
    recipe = "digits" if name == "digits" else "small"
    training.train(out, settings, found, about=described(recipe, settings, found))
    trained = time.monotonic()
    run = open_run(out)
    evidence = gather_evidence(run, found, Target(), score_samples=SAMPLES, latency_samples=SAMPLES)
    rows = _specialised(evidence, out / "networks", budgets_ms)
    plot: str | None = str(out / "accuracy-latency.png")
    try:
        _plot(evidence, rows, name, Path(str(plot)))
    except InputError as error:  # matplotlib is an extra
        say(str(error))
        plot = None
    page = out / "report.html"
    profile_delivered(out)
    write_explorer(gather(out), page)
    result = {
        "data": name,
        "run": str(out),
        "networks": [row.to_dict() for row in rows],
        "plot": plot,
        "report": str(page),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_training": round(trained - started, 1),
    }
    write_json(out / "demo.json", result)
    return result


def _data(name: str | None, changes: Sequence[str]) -> tuple[Settings, data.Data]:
    """The recipe for a data set and the data as the recipe wants it."""
    recipe = "digits" if name == "digits" else "small"
    settings = load_settings(recipe, [f"data.name={name or 'fashion-mnist'}", *changes])
    try:
        return settings, data.load(settings.data)
    except InputError as error:
        if name is not None:
            raise
        say(f"{error}\nusing scikit-learn's digits instead")
        return _data("digits", changes)


def _specialised(evidence: Evidence, out: Path, budgets_ms: Sequence[float] | None) -> list[Card]:
    """The smallest network, one for each budget, the largest: by rising latency."""
    space = evidence.supernet.space
    smallest = reference(evidence, "smallest", space.smallest(), out / "smallest")
    largest = reference(evidence, "largest", space.largest(), out / "largest")
    rows, highest = [smallest], largest.latency_measured_ms
    if budgets_ms is None:
        for budget in _placed(evidence, smallest.latency_measured_ms, highest):
            rows.append(_another(evidence, budget, rows, highest, out))
        return [*rows, largest]
    for budget in budgets_ms:
        limits = Limits(latency_ms=budget)
        say(f"searching for {limits}")
        rows.append(specialize(evidence, limits, out / str(limits)))
    return [*rows, largest]


def _another(
    evidence: Evidence, budget_ms: float, rows: Sequence[Card], highest_ms: float, out: Path
) -> Card:
    """The best network within a budget. If that is one of those before, as what the budget was
    meant for took longer than predicted, the budget is raised until there is another, or up to
    `highest_ms`."""
    before = {row.arch for row in rows}
    budget_ms = max(budget_ms, *(RAISED * row.limits.get("latency_ms", 0.0) for row in rows))
    while True:
        limits = Limits(latency_ms=_rounded_up(budget_ms))
        say(f"searching for {limits}")
        chosen = choose(evidence, limits)
        if chosen.arch not in before or budget_ms >= highest_ms:
            return deliver(evidence, str(limits), chosen, out / str(limits), limits)
        say(f"{limits}: {chosen.arch} again, so the budget is raised")
        budget_ms *= RAISED


def _placed(evidence: Evidence, low: float, high: float) -> list[float]:
    """Budgets, ms, at which the score is predicted to rise by equal steps from that of the smallest
    network, which takes `low`, to the best below `high`; evenly spaced where none is predicted."""
    space, value = evidence.supernet.space, objective(evidence)
    asked = np.linspace(low, high, FRONT + 1)[1:]

    def latency(population: Population) -> np.ndarray:
        return evidence.latency_predictor.predict(population).mean

    try:
        found = pareto(space, value, {"latency": latency}, budgets={"latency": asked.tolist()})
        best = np.maximum.accumulate([result.value for result in found])
    except Infeasible:  # the predictor puts even the smallest network above the first of them
        best = np.array([-np.inf])
    least = float(value(space.encode([space.smallest()]))[0])
    shares = np.arange(1, BUDGETS + 1) / (BUDGETS + 1)
    if best[-1] <= least:
        return [_rounded_up(low + share * (high - low)) for share in shares]
    first = [int(np.argmax(best >= least + share * (best[-1] - least))) for share in shares]
    return [_rounded_up(MARGIN * asked[i]) for i in first]


def _rounded_up(value: float) -> float:
    """Two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


def _plot(evidence: Evidence, rows: Sequence[Card], name: str, path: Path) -> None:
    population = evidence.supernet.space.sample(np.random.default_rng(0), CLOUD)
    latencies = evidence.latency_predictor.predict(population).mean
    scores = evidence.score_predictor.predict(population).mean
    points = [
        Point(row.name, row.latency_measured_ms, row.test, row.limits.get("latency_ms"))
        for row in rows
    ]
    title = (
        f"One supernet, trained once on {name}; {evidence.target}, {evidence.target.threads} thread"
    )
    cloud = list(zip(latencies.tolist(), scores.tolist(), strict=True))
    metric = evidence.metric
    quantity = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
    score_latency(points, cloud, quantity, title, path)
