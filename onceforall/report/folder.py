"""What a run's folder holds, read as far as it can be: `read_folder`.

A run may be unfinished, or one of records alone; what is missing or damaged is noted in a line and
the rest is read. Knows files; nothing is fitted or computed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.settings import made_again
from onceforall.files import read_json
from onceforall.space import Arch
from onceforall.supernet import CLASSIFICATION, checkpoint, tasks

LATENCY = "latency_ms"  # the metric of latency records
SCORES, LOG = "accuracy.jsonl", "metrics.jsonl"
_CARD = ("arch", "device", "latency_measured_ms", "params", "macs")  # of a delivered network


@dataclass
class Folder:
    """What was found.

    Attributes:
        facts: of the supernet's checkpoint; without one, the settings of its training.
        family: None: nothing says which, or it cannot be made here.
        metric, label, unit: what networks are scored by.
        cards: of delivered networks, by the folder of each within the run's.
        latencies: file and device of each device's latency records.
        notes: what is missing or damaged, for people.
    """

    path: Path
    finished: bool
    facts: dict[str, Any]
    family: Family | None = None
    metric: str = "top1"
    label: str = "top-1"
    unit: str = "%"
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    latencies: list[tuple[Path, str]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def scores(self) -> Path:
        """The file of score records, which may not be there."""
        return self.path / SCORES


def read_folder(path: Path) -> Folder:
    """Reads what there is.

    Raises:
        InputError: no such folder, or nothing of a run is in it.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run")
    weights, settings = path / "supernet.safetensors", path / "settings.json"
    found = Folder(path, weights.exists(), {})
    for file, read in ((weights, checkpoint.describe), (settings, _settings)):
        if file.exists() and not found.facts:
            try:
                found.facts = read(file)
            except InputError as error:
                found.notes.append(str(error))
    found.cards = dict(_cards(found))
    found.latencies = _latencies(found)
    found.log = _log(path / LOG)
    first = _first(found)
    if not (found.facts or found.log or first or settings.exists() or weights.exists()):
        raise InputError(
            f"{path}: holds no run: no settings.json, supernet.safetensors, {SCORES},"
            " latency-*.jsonl or card.json"
        )
    if settings.exists() and not found.finished:
        found.notes.append("The training is not finished: this is what there is so far.")
    _name_metric(found)
    found.family = _family(found, first)
    return found


def _settings(path: Path) -> dict[str, Any]:
    """Of a run that has no checkpoint yet, as a checkpoint's facts have them."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: not the settings of a run")
    return {"training": found}


def _cards(found: Folder) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(found.path.rglob("card.json")):
        place = path.parent.relative_to(found.path)
        if any(part.startswith(".") for part in place.parts):
            continue
        try:
            card = read_json(path)
            Arch.parse(str(card["arch"]))
        except InputError as error:
            found.notes.append(str(error))
        except (KeyError, TypeError):
            found.notes.append(f"{path}: not the card of a delivered network")
        else:
            if all(key in card for key in _CARD):
                yield str(place), card


def _latencies(found: Folder) -> list[tuple[Path, str]]:
    """Each device of each file, in the order of its first record."""
    pairs: dict[tuple[Path, str], None] = {}
    for path in sorted(found.path.glob("latency-*.jsonl")):
        for line in _lines(path):
            if line.get("metric") == LATENCY:
                pairs[path, str(line.get("device", ""))] = None
    return list(pairs)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, those left out that are damaged."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


def _log(path: Path) -> list[dict[str, Any]]:
    """The lines of the training's log that name a step."""
    return [line for line in _lines(path) if isinstance(line.get("step"), int)]


def _first(found: Folder) -> dict[str, Any] | None:
    """A record or a card: what names the family where no checkpoint does."""
    for path in (found.scores, *(path for path, _ in found.latencies)):
        for line in _lines(path):
            return line
    return next(iter(found.cards.values()), None)


def _name_metric(found: Folder) -> None:
    """What networks are scored by: as the task says, or as the records do."""
    training = found.facts.get("training")
    name = training.get("task", tasks.USUAL) if isinstance(training, dict) else None
    metric = CLASSIFICATION.metric
    if name is not None:
        try:
            metric = tasks.get(name).metric
        except InputError as error:
            found.notes.append(str(error))
            name = None
    found.metric, found.label, found.unit = metric.name, metric.label, metric.unit
    if name is None:
        for line in _lines(found.scores):
            named = str(line.get("metric", metric.name))
            if named != metric.name:
                found.metric = found.label = named
                found.unit = str(line.get("unit", ""))
            return


def _family(found: Folder, first: dict[str, Any] | None) -> Family | None:
    facts = found.facts
    training = facts.get("training") if isinstance(facts.get("training"), dict) else {}
    try:
        if "family" in facts:
            where = str(found.path / "supernet.safetensors")
            return made_again(facts["family"], facts.get("settings", {}), where)
        if first is not None and "arch" in first:
            name, settings = Arch.parse(str(first["arch"])).family, first.get("settings", {})
            return made_again(name, settings, str(found.path))
        if training and "family" in training:
            return made_again(training["family"], {}, str(found.path / "settings.json"))
    except InputError as error:
        found.notes.append(f"Of the family only its archs' names are known: {error}")
    return None
