"""What a run has delivered, as plain rows: `front_of`.

Knows the cards in a run's folder, nothing of how they were made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onceforall.files import read_json
from onceforall.supernet import Metric

TAKEN = ("params", "macs", "peak_activation_bytes", "file_bytes", "arch")  # as the cards have them


class Front(list[dict[str, Any]]):
    """A row a delivered network, by device and measured latency; `pandas.DataFrame(front)` takes
    it as it is.

    A row has `budget` (its name: 0.05ms, smallest, ...), `device` (without the precision),
    `precision`, the metric as `top1_predicted`, `top1_validation`, `top1_test`, the latencies
    `latency_predicted_ms`, `latency_measured_ms`, `best` (no network here of the same device is
    both as fast and better, on validation images), params, macs, peak_activation_bytes,
    file_bytes, arch, `file` and `card`, the paths.
    """

    def __init__(self, rows: list[dict[str, Any]], cards: list[dict[str, Any]], metric: Metric):
        super().__init__(rows)
        self._cards, self._metric = cards, metric

    def __repr__(self) -> str:
        from onceforall.report.networks import network_tables

        if not self:
            return "no network was delivered yet"
        return network_tables(self._cards, self._metric, "in the rows", where=False)


def front_of(folder: Path, metric: Metric) -> Front:
    """The networks of all cards in a run's folder.

    Raises:
        InputError: a card is not JSON.
    """
    pairs = []
    for path in sorted(folder.rglob("card.json")):
        card = read_json(path)
        if isinstance(card, dict) and f"{metric.name}_validation" in card:
            pairs.append((card, _row(card, path, metric)))
    pairs.sort(key=lambda pair: (pair[1]["device"], pair[1]["latency_measured_ms"]))
    rows = [row for _, row in pairs]
    for row in rows:
        row["best"] = not any(_beats(other, row, metric) for other in rows)
    return Front(rows, [card for card, _ in pairs], metric)


def _row(card: dict[str, Any], path: Path, metric: Metric) -> dict[str, Any]:
    scores = [f"{metric.name}_{part}" for part in ("predicted", "validation", "test")]
    return {
        "budget": card["name"],
        "device": card["device"].removesuffix(f"-{card['runs_in']}"),
        "precision": card["runs_in"],
        **{name: card[name] for name in scores},
        "latency_predicted_ms": card["latency_predicted_ms"],
        "latency_measured_ms": card["latency_measured_ms"],
        "best": True,
        **{name: card[name] for name in TAKEN},
        "file": str(path.with_name(card["file"])),
        "card": str(path),
    }


def _beats(other: dict[str, Any], row: dict[str, Any], metric: Metric) -> bool:
    score, time = f"{metric.name}_validation", "latency_measured_ms"
    if other["device"] != row["device"] or other[time] > row[time]:
        return False
    if other[score] == row[score]:
        return bool(other[time] < row[time])
    return bool(other[score] > row[score])
