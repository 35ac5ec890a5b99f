"""A run as plain data: `gather`. What the explorer shows, and tables of results.

Of the run's own files alone: log, records, cards, settings. Predictors are fitted from the records,
and search proposes networks on them. Knows nothing of pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import onceforall
from onceforall.families import Family
from onceforall.report.folder import Folder, read_folder
from onceforall.report.measured import Measured, measured_latencies, measured_scores
from onceforall.report.networks import delivered, described, plain, proposed
from onceforall.report.table import table_of
from onceforall.search import Infeasible, pareto
from onceforall.space import Arch

CLOUD = 4000  # random archs of the space, predicted
BUDGETS = 12  # latencies at which search proposes a network, on each device
EVALUATIONS = 300  # predictions of search, a budget
SECONDS = 20.0  # that search may take on a device
MARGIN = 1.02  # of a budget over the predicted latency of what is proposed for it
LINES = 2000  # of the training's log at most, evenly
SAME = ("machine", "system", "processor", "runtime")  # facts of a device's records


def gather(run: Path) -> dict[str, Any]:
    """What a run's folder holds and what follows from it, as plain data for JSON. Keys: `run`,
    `notes` (what is missing, for people), `networks`, `proposals`, `ends`, `score`, `devices`,
    `table` of all records, `training`.

    Raises:
        InputError: no such folder, or nothing of a run is in it.
    """
    folder = read_folder(run)
    family = folder.family
    scores: Measured | None = None
    latencies: dict[str, Measured] = {}
    if family is not None:
        scores = measured_scores(folder, family.space)
        for device in dict.fromkeys(device for _, device in folder.latencies):
            found = measured_latencies(folder, device, family.space)
            if found is not None:
                latencies[device] = found
    networks = [delivered(folder, place, card) for place, card in folder.cards.items()]
    devices = dict.fromkeys([*latencies, *(network["device"] for network in networks)])
    proposals = []
    if family is not None and scores is not None and scores.predictor is not None:
        for device, found in latencies.items():
            if found.predictor is not None:
                proposals += _proposals(folder, family, device, scores, found)
    ends = _ends(folder, family, devices)
    if family is not None:
        for network in [*networks, *proposals, *ends]:
            _predict(network, family, scores, latencies.get(network["device"]))
    data = {
        "onceforall": onceforall.__version__,
        "run": _about(folder, family),
        "networks": sorted(networks, key=lambda n: (n["device"], n["latency_measured_ms"])),
        "proposals": proposals,
        "ends": ends,
        "score": None if scores is None else _quality(scores),
        "devices": [
            _device(folder, family, device, scores, latencies.get(device)) for device in devices
        ],
        "table": None if family is None else table_of(folder, family, scores, latencies),
        "training": _training(folder),
    }
    return plain(data | {"notes": list(dict.fromkeys(folder.notes))})


def _about(folder: Folder, family: Family | None) -> dict[str, Any]:
    """The run, its data and its metric."""
    facts, training = folder.facts, folder.facts.get("training")
    training = training if isinstance(training, dict) else {}
    card = next((card for card in folder.cards.values() if "data" in card), {})
    data = facts.get("data") or card.get("data") or training.get("data") or {}
    return {
        "name": folder.path.resolve().name,
        "folder": str(folder.path),
        "finished": folder.finished,
        "family": card.get("arch", "").partition("@")[0] if family is None else family.name,
        "networks_in_space": None if family is None else str(family.space.size),
        "largest_stages": None if family is None else _most(family),
        "metric": {"name": folder.metric, "label": folder.label, "unit": folder.unit},
        "data": data,
        "supernet": card.get("supernet"),
        "settings": {k: v for k, v in training.items() if k not in ("phases", "data")},
        "phases": training.get("phases") or [],
    }


def _most(family: Family) -> list[int] | None:
    """Blocks of each stage at most; None: the family has no stages."""
    return [stage.blocks for stage in family.space.stages] if family.space.staged else None


def _ends(folder: Folder, family: Family | None, devices: Any) -> list[dict[str, Any]]:
    """The largest network of the space, to compare with, on each device."""
    if family is None:
        return []
    largest = described(family.space.largest(), family)
    return [
        largest
        | {"id": f"largest {d}", "name": "largest", "kind": "end", "device": d, "limits": {}}
        for d in [*devices] or [""]
    ]


def _proposals(
    folder: Folder, family: Family, device: str, scores: Measured, latency: Measured
) -> list[dict[str, Any]]:
    """What search would try for budgets all over the space's range on a device: the predicted
    front, by rising latency."""
    space = family.space
    low, high = (float(latency.mean(space.encode([a]))[0]) for a in _both(family))
    budgets = np.linspace(low, max(high, low), BUDGETS + 1)[1:].tolist()
    try:
        found = pareto(
            space,
            scores.cautious,
            {"latency": latency.mean},
            budgets={"latency": budgets},
            evaluations=EVALUATIONS * BUDGETS,
            seconds=SECONDS,
        )
    except Infeasible:  # predicted latencies do not rise with size: too few records
        return []
    rows: dict[Arch, dict[str, Any]] = {}
    best = -np.inf
    for result in sorted(found, key=lambda r: r.limits["latency"]):
        if result.value > best and result.arch not in rows:
            best = result.value
            limit = float(f"{MARGIN * result.limits['latency']:.3g}")
            name = f"proposed for {limit:g} ms"
            rows[result.arch] = proposed(folder, device, result.arch, name, limit)
    return list(rows.values())


def _both(family: Family) -> tuple[Arch, Arch]:
    return family.space.smallest(), family.space.largest()


def _predict(
    network: dict[str, Any], family: Family, scores: Measured | None, latency: Measured | None
) -> None:
    """Adds what is predicted of a network, with half of the 90% interval. Where its card says what
    was predicted before it was measured, that stays, with the interval of a fit that had not seen
    it."""
    arch = Arch.parse(network["arch"])
    if arch not in family.space:
        return
    for found, key in ((scores, "score_predicted"), (latency, "latency_predicted_ms")):
        if found is None:
            continue
        mean, interval, beyond = found.predict([arch], family.space)
        half = float(interval[0])
        if network.get(key) is None:
            network[key] = float(mean[0])
        else:
            half = found.unseen.get(arch, half)
        network[key.replace("predicted", "interval")] = half
        if beyond[0]:
            network["extrapolates"] = True


def _quality(found: Measured) -> dict[str, Any]:
    """Of a predictor: its records, its errors on held-out ones, and these one by one."""
    return {
        "records": len(found.labels),
        "error": found.error,
        "held_out": found.held_out(),
        "spread": found.spread(),
        "repeats": found.repeats(),
        "drift": found.drift,
    }


def _device(
    folder: Folder,
    family: Family | None,
    device: str,
    scores: Measured | None,
    latency: Measured | None,
) -> dict[str, Any]:
    """A device: what it is, its predictor, and random archs of the space as they are predicted."""
    found: dict[str, Any] = {"name": device, "facts": {}, "cloud": None, "latency": None}
    cards = [card for card in folder.cards.values() if card["device"] == device]
    found["facts"] = {k: cards[0][k] for k in SAME if cards and k in cards[0]}
    if latency is None:
        return found
    columns = latency.labels.columns
    found["facts"] |= {k: str(columns[k][0]) for k in SAME if k in columns}
    found["latency"] = _quality(latency)
    fitted = scores is not None and scores.predictor is not None and latency.predictor is not None
    if family is not None and fitted:
        assert scores is not None
        population = family.space.sample(np.random.default_rng(0), CLOUD)
        found["cloud"] = {
            "latency": plain(latency.mean(population).tolist(), 4),
            "score": plain(scores.mean(population).tolist(), 4),
        }
    return found


def _training(folder: Folder) -> dict[str, Any] | None:
    """The log: columns of what was read every few steps, and the scores of whole networks."""
    if not folder.log:
        return None
    lines = [line for line in folder.log if "loss" in line]
    kept = lines[:: max(1, -(-len(lines) // LINES))]
    names = ("step", "loss", f"train_{folder.metric}", "images_per_second")
    prefix = f"{folder.metric}_"
    ends = [
        {"step": line["step"], "of": key.removeprefix(prefix), "value": _number(value)}
        for line in folder.log
        for key, value in line.items()
        if key.startswith(prefix)
    ]
    phases, last = dict[str, int](), 0
    for line in folder.log:
        phases.setdefault(str(line.get("phase", "")), last)
        last = line["step"]
    return {
        "columns": {name: [_number(line.get(name)) for line in kept] for name in names},
        "ends": ends,
        "phases": [{"name": name, "from": step} for name, step in phases.items() if name],
        "seconds": max((_number(x.get("seconds")) or 0.0 for x in folder.log), default=None),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None
