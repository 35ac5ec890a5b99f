"""Pictures of results, as PNG files. Knows numbers and labels; nothing of networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.errors import MissingExtraError
from onceforall.files import write_atomically

NEAR = 0.005  # of the range of the scores: two that near are shown as one


@dataclass(frozen=True)
class Point:
    """A network in the plane of latency and score."""

    label: str
    latency_ms: float
    score: float
    budget_ms: float | None = None  # None: a reference, found without a budget


def score_latency(
    points: Sequence[Point],
    cloud: Sequence[tuple[float, float]],
    quantity: str,
    title: str,
    path: Path,
) -> None:
    """Score against latency: the networks found, and a cloud of (latency, score) predicted for
    random sub-networks behind them. `quantity` is what the score is called: "top-1, %".

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "a plot") from None
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes: Any = figure.add_subplot()
    if cloud:
        axes.scatter(
            [x for x, _ in cloud],
            [y for _, y in cloud],
            s=6,
            color="#c8ccd0",
            linewidths=0,
            label="random sub-networks (predicted)",
        )
    found = sorted((p for p in points if p.budget_ms is not None), key=lambda p: p.latency_ms)
    others = [p for p in points if p.budget_ms is None]
    axes.plot(
        [p.latency_ms for p in found],
        [p.score for p in found],
        "o-",
        color="#0b6e4f",
        markersize=6,
        label="found for a budget (measured)",
    )
    axes.plot(
        [p.latency_ms for p in others],
        [p.score for p in others],
        "s",
        color="#8a4f9e",
        markersize=6,
        label="smallest and largest (measured)",
    )
    for i, (label, latency, score) in enumerate(_labels([*found, *others])):
        axes.annotate(
            label,
            (latency, score),
            textcoords="offset points",
            xytext=(7, -11 if i % 2 else 6),
            fontsize=8,
        )
    for point in found:
        axes.axvline(point.budget_ms, color="#0b6e4f", alpha=0.25, linewidth=0.8, linestyle="--")
    axes.margins(x=0.09)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel(quantity)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, loc="lower right")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _labels(points: Sequence[Point]) -> list[tuple[str, float, float]]:
    """(label, x, y) of each place: points too close to be distinguished share one."""
    places: list[tuple[list[str], Point]] = []
    scores = [point.score for point in points]
    apart = NEAR * (max(scores) - min(scores))
    for point in sorted(points, key=lambda p: p.budget_ms or 0):
        for labels, other in places:
            near = abs(point.latency_ms - other.latency_ms) < 0.05 * other.latency_ms
            if near and abs(point.score - other.score) <= apart:
                labels.append(point.label)
                break
        else:
            places.append(([point.label], point))
    return [(", ".join(labels), p.latency_ms, p.score) for labels, p in places]
