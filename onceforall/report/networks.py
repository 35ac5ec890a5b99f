"""Delivered networks as tables for a terminal: predicted beside measured.

Knows the plain data of their cards, and what they are scored by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onceforall.columns import Column, table
from onceforall.errors import choices
from onceforall.supernet import Metric

MILLION = 1_000_000


def network_tables(
    rows: Sequence[Mapping[str, Any]], metric: Metric, rest: str = "--json", where: bool = True
) -> str:
    """A table a device, and the files that were beaten by those of another precision.

    Args:
        rows: what `card.json` holds of each; `picked: False` marks those that were beaten.
        rest: where what a table leaves out can be found.
        where: whether files and archs are shown, too.
    """
    names = list(dict.fromkeys(row["device"] for row in rows))
    parts = []
    for name in names:
        own = [row for row in rows if row["device"] == name]
        title = f"{name}\n" if len(names) > 1 else ""
        parts.append(title + network_table(own, metric, rest, where))
    beaten = [f"{r['folder']}/{r['file']}" for r in rows if not r.get("picked", True)]
    if beaten:
        parts.append("better in another precision: " + choices(beaten))
    return "\n\n".join(parts)


def network_table(
    rows: Sequence[Mapping[str, Any]], metric: Metric, rest: str = "--json", where: bool = True
) -> str:
    """One table, a row a network."""
    scored = f"{metric.label} {metric.unit}".strip()
    many = max((row["params"] for row in rows), default=0) >= MILLION
    columns = [
        Column("budget"),
        Column("params\nM" if many else "params\nk", drop=2),
        Column("MACs\nM", drop=1),
        Column(f"{scored}\npredicted", drop=4),
        Column(f"{scored}\nvalidation"),
        Column(f"{scored}\ntest"),
        Column("ms\npredicted", drop=3),
        Column("ms\nmeasured"),
        Column("file", left=True, below=True),
        Column("arch", left=True, below=True),
    ]
    cells = [
        [
            row["name"],
            f"{row['params'] / (MILLION if many else 1000):.1f}",
            f"{'at least ' if row['uncovered'] else ''}{row['macs'] / MILLION:.2f}",
            _score(row[f"{metric.name}_predicted"], metric),
            _score(row[f"{metric.name}_validation"], metric),
            _score(row[f"{metric.name}_test"], metric),
            _milliseconds(row["latency_predicted_ms"]),
            _milliseconds(row["latency_measured_ms"]),
            f"{row['folder']}/{row['file']}",
            row["arch"].partition("@")[2],
        ]
        for row in rows
    ]
    n = len(columns) if where else len(columns) - 2
    return table(columns[:n], [row[:n] for row in cells], rest)


def _score(value: float | None, metric: Metric) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if metric.unit == "%" else f"{value:.4g}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
