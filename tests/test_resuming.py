"""`specialize`, interrupted anywhere and called again: the same networks, and nothing twice."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onceforall import devices
from onceforall.data import Images
from onceforall.devices import Latency, Target
from onceforall.errors import InputError
from onceforall.export import Opened
from onceforall.pipeline import (
    Card,
    Limits,
    Run,
    collecting,
    gather_evidence,
    open_run,
    recording,
    specialize_all,
    specializing,
)
from onceforall.pipeline import evidence as evidences
from onceforall.pipeline.journal import NAME
from onceforall.records import Record, Store, add_all, read_jsonl
from onceforall.search import Infeasible
from onceforall.space import Arch
from onceforall.supernet.tasks import TOP1, Metric, Score

TARGETS = (Target(), Target(precision="int8"), Target(batch=2))


class Interrupted(Exception):  # noqa: N818
    pass


class Machine:
    """Times and scores that depend on weights and target alone, so that runs can be compared and a
    larger budget has a larger network; stops the call at its n-th measurement."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.spent = 0
        self.timed: Counter[str] = Counter()
        self.scored: Counter[str] = Counter()
        patch.setattr(devices, "measure_many", self.measure)
        patch.setattr(devices, "disturbed", lambda target: False)
        patch.setattr(specializing, "EVALUATIONS", 300)
        patch.setattr(collecting, "score", judged)

        def counted(*given: Any, **more: Any) -> Score:
            self.spend()
            found = judged(*given, **more)
            self.scored["scores"] += 1
            return found

        patch.setattr(evidences, "score", counted)

    def spend(self) -> None:
        self.spent += 1
        if self.left is not None:
            if self.left == 0:
                raise Interrupted
            self.left -= 1

    def measure(
        self, target: Target, networks: list, rounds: int = 0, visits: int = 1
    ) -> list[Latency]:
        self.spend()
        found = []
        for network, (_, side, _) in networks:
            self.timed[f"{target} file" if isinstance(network, Path) else f"{target}"] += 1
            ms = 1e-8 * (weights_of(network) + 20_000) * side * (1 + (target.batch > 1))
            found.append(Latency(ms, ms, ms, 9, noise=0.01))
        return found


def judged(
    network: Opened | nn.Module,
    resolution: int,
    images: Images,
    metric: Metric = TOP1,
    *,
    start: int = 0,
    limit: int | None = None,
) -> Score:
    """The larger, the better."""
    n = (len(images) if limit is None else min(start + limit, len(images))) - start
    size = weights_of(network.path if isinstance(network, Opened) else network)
    hits = n * size / (size + 20_000)
    return Score.of(metric, torch.tensor([n, hits, n], dtype=torch.float64), n)


def weights_of(network: Path | nn.Module) -> float:
    if isinstance(network, Path):
        return network.stat().st_size / 4
    return sum(p.numel() for p in network.parameters())


def fresh(digits_run: Path, to: Path) -> Run:
    """The same run, of which nothing was measured yet."""
    to.mkdir()
    for name in ("supernet.safetensors", "settings.json", "data.json"):
        (to / name).write_bytes((digits_run / name).read_bytes())
    return open_run(to)


def call(run: Run) -> list[Card]:
    budgets = [Limits(latency_ms=ms) for ms in (0.009, 0.014)]
    return specialize_all(run, dict.fromkeys(TARGETS[:2], budgets), samples=12, images=100)


def plain(cards: list[Card], run: Run) -> list[dict[str, Any]]:
    return [
        {**card.to_dict(), "folder": str(Path(card.folder).relative_to(run.folder))}
        for card in cards
    ]


def test_interrupted_at_any_moment_it_finds_the_same_and_measures_nothing_twice(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    whole = fresh(digits_run, tmp_path / "whole")
    wanted = plain(call(whole), whole)
    timed, scored = machine.timed.copy(), machine.scored.copy()
    assert len({row["arch"] for row in wanted}) >= 2
    assert not (whole.folder / "specialized" / NAME).exists()
    for steps in [machine.spent // 3]:
        machine.timed.clear()
        machine.scored.clear()
        run = fresh(digits_run, tmp_path / f"every{steps}")
        interruptions = 0
        while True:
            machine.left = steps
            try:
                found = call(run)
                break
            except Interrupted:
                interruptions += 1
        assert interruptions >= 2
        assert plain(found, run) == wanted
        assert machine.timed == timed
        assert machine.scored["scores"] <= scored["scores"] + interruptions
        for name in ("accuracy.jsonl", "latency-onnxruntime-cpu.jsonl", "measured.jsonl"):
            mine, other = read_jsonl(run.folder / name), read_jsonl(whole.folder / name)
            assert [(r.arch, r.metric, r.value) for r in mine] == [
                (r.arch, r.metric, r.value) for r in other
            ]
    machine.left = 0
    assert plain(call(whole), whole) == wanted  # a second call: all was delivered before
    machine.left = None
    limits, out = Limits(latency_ms=0.009), tmp_path / "out"
    (card,) = specialize_all(whole, {TARGETS[0]: [limits]}, out, samples=12, images=100)
    assert card.validation >= wanted[0]["top1_validation"]
    assert card.latency_measured_ms <= 0.009


def test_the_best_that_an_earlier_call_measured_is_chosen(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether search proposes it or not: three archs that no predictor thinks much of, the best
    by what the files say not within the budget, the second not measured in rounds enough."""
    machine = Machine(monkeypatch)
    run = fresh(digits_run, tmp_path / "run")
    (first,) = specialize_all(run, {TARGETS[0]: [Limits(latency_ms=0.009)]}, samples=12, images=100)
    data, space = run.data(), run.supernet.space
    archs = space.decode(space.sample(np.random.default_rng(9), 2))
    archs.append(Arch.parse("mbv3_mini@12/16:5x2/24:3x2/40:3x2"))
    of = recording.score_facts(run.supernet, data, len(data.validation))
    times = [Latency(ms, ms, ms, 9, noise=0.01) for ms in (0.02, 0.008, 0.0081)]
    records = recording.latency_records(run.supernet.family, TARGETS[0], archs, times)
    few = replace(records[1], provenance={**records[1].provenance, recording.FEW: True})
    add_all(run.folder / f"latency-{TARGETS[0]}.jsonl", [records[0], few, records[2]])
    scores = [
        Record(arch, "top1", top1, "%", provenance=of)
        for arch, top1 in zip(archs, (99.9, 99.8, 99.7), strict=True)
    ]
    add_all(run.folder / recording.MEASURED, scores)
    limits, out = Limits(latency_ms=0.009), tmp_path / "out"
    (card,) = specialize_all(run, {TARGETS[0]: [limits]}, out, samples=12, images=100)
    assert card.arch == archs[2] != first.arch
    assert (card.validation, card.latency_qualified_ms) == (99.7, 0.0081)
    assert machine.timed[f"{TARGETS[0]} file"] == len({first.arch, card.arch})


def test_what_is_not_of_the_call_is_refused_at_once(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    machine.left = 0
    run = fresh(digits_run, tmp_path / "run")
    with pytest.raises(InputError, match="limit sram_bytes: onnxruntime-cpu does not tell it"):
        specialize_all(run, {TARGETS[0]: [Limits(sram_bytes=1e5)]})
    taken = run.folder / "specialized" / "onnxruntime-cpu" / "0.5ms"
    taken.mkdir(parents=True)
    (taken / "card.json").write_text(json.dumps({"supernet": "another"}))
    with pytest.raises(InputError, match=r"0.5ms: exists already, and holds no network of supern"):
        specialize_all(run, {TARGETS[0]: [Limits(latency_ms=0.5)]})
    (run.folder / "specialized" / NAME).write_text("[]")
    with pytest.raises(InputError, match="is not what an interrupted call left; remove it"):
        specialize_all(run, {TARGETS[0]: [Limits(latency_ms=0.6)]})


def test_a_budget_that_one_device_cannot_meet_leaves_the_others_theirs(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    run = fresh(digits_run, tmp_path / "run")
    never, easy = Limits(latency_ms=1e-6), Limits(latency_ms=0.05)
    with pytest.raises(Infeasible, match="at most 1e-06 ms cannot be met"):
        specialize_all(run, {TARGETS[0]: [never, easy], TARGETS[2]: [easy]}, samples=12, images=100)
    delivered = sorted(p.parent.parent.name for p in run.folder.rglob("card.json"))
    assert delivered == [str(TARGETS[0]), str(TARGETS[2])]


def test_limits_on_files_are_exact(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    run = fresh(digits_run, tmp_path / "run")
    budgets = [Limits(file_bytes=size) for size in (120_000, 150_000)]
    cards = specialize_all(run, {TARGETS[0]: budgets}, samples=12, images=100)
    for card, limits in zip(cards, budgets, strict=True):
        assert card.file_bytes is not None
        assert card.file_bytes == (Path(card.folder) / card.file).stat().st_size
        assert limits.file_bytes is not None
        assert card.file_bytes <= limits.file_bytes


def test_what_a_device_tells_is_a_limit(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device elsewhere that tells the memory it took."""
    run = fresh(digits_run, tmp_path / "run")

    def measure(target: Target, networks: list, rounds: int = 0, visits: int = 1) -> list[Latency]:
        found = []
        for network, (_, side, _) in networks:
            weights = weights_of(network)
            ms = 1e-8 * (weights + 20_000) * side
            found.append(Latency(ms, ms, ms, 1, facts={"sram_bytes": 3 * side**2 + weights / 100}))
        return found

    monkeypatch.setattr(devices, "measure_many", measure)
    monkeypatch.setattr(devices, "disturbed", lambda target: False)
    monkeypatch.setattr(type(Target().known), "here", False, raising=False)
    found = gather_evidence(
        run, run.data(), Target(), score_samples=12, latency_samples=12, images=100
    )
    from onceforall.pipeline import specialize

    most = float(3 * 12**2 + 500)
    card = specialize(found, Limits(sram_bytes=most), tmp_path / "out")
    assert card.arch.resolution == 12
    assert 0 < card.told["sram_bytes"] <= most


def test_a_store_finds_what_agrees(tmp_path: Path) -> None:
    run_records = tmp_path / "records.jsonl"
    arch = Arch.parse("mbv3_mini@24/16:3x2/24:3x2/40:3x2")
    store = Store(run_records)
    store.add(
        run_records,
        [
            Record(arch, "latency_ms", 1.0, "ms", "here", {"runtime": "a"}),
            Record(arch, "latency_ms", 2.0, "ms", "here", {"runtime": "a", "file": "x"}),
            Record(arch, "latency_ms", 3.0, "ms", "here", {"runtime": "b"}),
        ],
    )
    for known in (store, Store(run_records, tmp_path / "none.jsonl")):

        def value(*args: Any, known: Store = known) -> float | None:
            found = known.find(arch, "latency_ms", *args)
            return None if found is None else found.value

        assert value({"runtime": "a"}, "here") == 2.0
        assert value({"runtime": "a"}, "here", ["file"]) == 1.0
        assert value({}, "here") == 3.0
        assert value({"runtime": "c"}, "here") is None
        assert value({}, "there") is None
