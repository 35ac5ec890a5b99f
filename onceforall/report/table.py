"""All archs of a run's records as one table of numbers, a row an arch: `Table`.

A column is a quantity: the score, each device's latency, costs, and what the archs are. Where a
quantity was not measured of an arch it is predicted, and the table says so. Knows records, spaces
and predictors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onceforall.costs import Counted, cost_tables
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.predictors.base import Floats
from onceforall.report.folder import Folder
from onceforall.report.measured import Measured
from onceforall.space import Arch, Gene, Space

COUNTED_AT_MOST = 300  # archs whose costs are counted one by one, where a family has no tables
SUMMED = ("depth",)  # kinds of genes that are added up; others are averaged


def table_of(
    folder: Folder, family: Family, scores: Measured | None, latencies: Mapping[str, Measured]
) -> dict[str, Any]:
    """Columns with a name, a label, a unit, values, and which of them were measured."""
    quantities = {(folder.metric, folder.label, folder.unit): scores} if scores else {}
    quantities |= {
        (device, f"latency, {device}", "ms"): found for device, found in latencies.items()
    }
    measured = {key: _values(found) for key, found in quantities.items()}
    archs, others = _known(family.space, measured.values())
    if others:
        folder.notes.append(
            f"{others} archs of the records are at resolutions that the family has not now; they"
            " are left out of the table."
        )
    columns = []
    for (name, label, unit), found in quantities.items():
        own = measured[name, label, unit]
        predicted, _, _ = found.predict(archs, family.space)
        given = np.array([own.get(arch, np.nan) for arch in archs])
        there = np.isfinite(given)
        values = np.where(there, given, predicted)
        columns.append(_column(name, label, unit, values) | {"measured": _bits(there)})
    columns += _costs(family, archs) + _choices(family.space, archs)
    return {"archs": [str(arch) for arch in archs], "columns": columns, "total": len(archs)}


def _values(found: Measured) -> dict[Arch, float]:
    """The mean of each arch's measurements."""
    labels = found.labels
    sums: dict[Arch, list[float]] = {}
    archs = labels.space.decode(labels.population)
    for arch, value in zip(archs, labels.values.tolist(), strict=True):
        sums.setdefault(arch, []).append(value)
    return {arch: float(np.mean(values)) for arch, values in sums.items()}


def _known(space: Space, measured: Any) -> tuple[list[Arch], int]:
    """The archs that the space has, each once, and how many others there are."""
    every = list(dict.fromkeys(arch for values in measured for arch in values))
    sizes = set(space.resolution)
    archs = [a for a in every if not sizes or a.genes.get("resolution") in sizes]
    return archs, len(every) - len(archs)


def _column(name: str, label: str, unit: str, values: Floats) -> dict[str, Any]:
    return {"name": name, "label": label, "unit": unit, "values": values.tolist()}


def _bits(there: Any) -> str:
    return "".join("1" if x else "0" for x in there)


def _costs(family: Family, archs: list[Arch]) -> list[dict[str, Any]]:
    """MACs and parameters, in millions, where they can be had soon."""
    if not archs:
        return []
    try:
        tables = cost_tables(family)
        population = family.space.encode(archs)
        if len(archs) > COUNTED_AT_MOST and isinstance(tables["macs"], Counted):
            return []
        macs, params = (tables[name](population) / 1e6 for name in ("macs", "params"))
    except InputError:  # operations that nothing is known of
        return []
    return [_column("macs", "MACs", "M", macs), _column("params", "parameters", "M", params)]


def _choices(space: Space, archs: list[Arch]) -> list[dict[str, Any]]:
    """What the archs choose, a column a kind of gene: the sum of the depths of all stages, the mean
    kernel of all blocks. Of texts, which of them."""
    kinds: dict[str, list[Gene]] = {}
    for gene in space.genes:
        if len(gene.values) > 1:
            kinds.setdefault(gene.kind, []).append(gene)
    columns = []
    for kind, genes in kinds.items():
        join = np.sum if kind in SUMMED else np.mean
        values = [_joined(arch, genes, join) for arch in archs]
        several = len(genes) > 1
        label = kind if not several else f"{kind}, sum" if kind in SUMMED else f"{kind}, mean"
        if any(gene.is_text for gene in genes):
            label = f"{kind}, which of {', '.join(str(v) for v in genes[0].values)}"
        columns.append(_column(kind, label, "px" if kind == "resolution" else "", np.array(values)))
    return columns


def _joined(arch: Arch, genes: list[Gene], join: Any) -> float:
    present = [(gene, arch.genes[gene.name]) for gene in genes if gene.name in arch.genes]
    numbers = [gene.index(value) + 1 if gene.is_text else value for gene, value in present]
    return float(join(numbers)) if numbers else float("nan")
