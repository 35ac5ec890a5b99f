"""From a trained run to files: records, predictors, search, extraction, export."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onceforall import collecting, config, data, training
from onceforall.accuracy import accuracy, calibrated
from onceforall.costs import cost_tables
from onceforall.data import Data, Source
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.export import run_onnx
from onceforall.images import in_order
from onceforall.predictors import Prediction, Predictor, stalled
from onceforall.records import read_jsonl
from onceforall.runs import Run, open_run
from onceforall.search import Infeasible
from onceforall.space import Population
from onceforall.specialize import Limits, propose, specialize
from onceforall.weights import load_network
from onceforall.workshop import Workshop, disagrees, open_workshop

CHANGES = [
    "resolutions=[12, 16]",
    "phases=[{name: all, steps: 40, lr: 0.1, archs: 3,"
    " kernel: 2, depth: 3, expand: 3, rule: sandwich, distil: 1.0}]",
]


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load(Source("digits"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    training.train(folder, config.load("digits", CHANGES), digits)
    return open_run(folder)


@pytest.fixture(scope="module")
def shop(run: Run, digits: Data) -> Workshop:
    return open_workshop(run, digits, Target(), accuracy_samples=12, latency_samples=16, images=100)


def test_records_are_kept_and_gone_on_with(run: Run, digits: Data, shop: Workshop) -> None:
    path = run.folder / "accuracy.jsonl"
    records = read_jsonl(path)
    assert len({r.arch for r in records}) == len(records) == 12
    assert {r.arch for r in records} >= {
        shop.supernet.space.smallest(),
        shop.supernet.space.largest(),
    }
    assert all(r.provenance["images"] == 100 for r in records)
    assert collecting.accuracies(run.supernet, digits, 14, path, 100) == 2
    assert collecting.accuracies(run.supernet, digits, 14, path, 100) == 0
    assert read_jsonl(path)[:12] == records
    assert collecting.accuracies(run.supernet, digits, 15, path) == 1
    assert read_jsonl(path)[-1].provenance["images"] == 100
    with pytest.raises(InputError, match="were scored on 100 images, not on 50; name another"):
        collecting.accuracies(run.supernet, digits, 16, path, 50)
    with pytest.raises(InputError, match="were scored on digits, not clothes"):
        collecting.scored_on(path, replace(digits, name="clothes"), None)
    times = read_jsonl(run.folder / "latency-onnxruntime-cpu.jsonl")
    assert len(times) == 16
    assert all(r.value > 0 and r.unit == "ms" for r in times)


def test_labelling_stops_when_the_error_does(
    run: Run, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as many records as `stalled` says, or the most there may be; a file that is gone on
    with has the errors of its earlier rounds."""
    monkeypatch.setattr(collecting, "FIRST_ROUND", 15)
    monkeypatch.setattr(collecting, "NEXT_ROUNDS", 5)
    path = tmp_path / "accuracy.jsonl"

    def label(most: int) -> collecting.Learning:
        return collecting.informative_accuracies(run.supernet, digits, most, path, 60)

    first = label(22)
    assert (first.added, len(first.errors), first.settled) == (22, 2, False)
    more = label(60)
    assert more.errors[:2] == first.errors
    records = read_jsonl(path)
    assert len({r.arch for r in records}) == len(records) == 22 + more.added
    rounds = [stalled(more.errors[: n + 1]) for n in range(len(more.errors))]
    assert more.settled == rounds[-1]
    assert not any(rounds[:-1])
    assert more.settled or len(records) == 60
    assert label(60).added == 0


def test_labels_lie_near_the_budgets(
    run: Run, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "FIRST_ROUND", 15)
    monkeypatch.setattr(collecting, "NEXT_ROUNDS", 15)
    monkeypatch.setattr("onceforall.predictors.labelling._SPREAD_UNTIL", 15)
    space = run.supernet.space
    macs = cost_tables(run.supernet.family)["macs"]
    budget = float(np.median(macs(space.sample(np.random.default_rng(0), 500))))
    path = tmp_path / "accuracy.jsonl"
    collecting.informative_accuracies(
        run.supernet, digits, 30, path, 60, cost=macs, budgets=[budget]
    )
    costs = macs(space.encode([r.arch for r in read_jsonl(path)]))
    spread = np.abs(np.log(costs / budget))
    assert np.median(spread[15:]) < 0.5 * np.median(spread[:15])


def test_specialised_files_are_what_the_card_says(
    shop: Workshop, digits: Data, tmp_path: Path
) -> None:
    limits = Limits(latency_ms=5.0, macs=1.2e6)
    found = specialize(shop, limits, tmp_path / "out")
    assert found.macs <= 1.2e6
    assert found.latency_measured_ms <= 5.0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "card.json",
        "network.onnx",
        "network.safetensors",
    ]
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["arch"] == str(found.arch)
    network, arch, facts = load_network(tmp_path / "out/network.safetensors")
    assert arch == found.arch
    assert facts["data"]["classes"] == list("0123456789")
    hits = []
    for x, y in digits.test.stream(in_order(len(digits.test), 90, arch.resolution)):
        logits = run_onnx(tmp_path / "out/network.onnx", x)
        assert np.allclose(logits, network(x).detach(), atol=1e-4)
        hits.append((logits.argmax(1) == y).float().mean().item())
    assert found.top1_test == pytest.approx(100 * np.mean(hits), abs=0.01)
    with pytest.raises(InputError, match="exists already"):
        specialize(shop, limits, tmp_path / "out")


def test_proposals_are_within_all_limits(shop: Workshop) -> None:
    limits = Limits(macs=900e3, params=60e3, peak_activation_bytes=48 * 1024)
    from onceforall.costs import cost

    for arch in propose(shop, limits, seed=0):
        shape = (1, arch.resolution, arch.resolution)
        found = cost(shop.supernet.family.build(arch), shape)
        assert found.macs <= 900e3
        assert found.params <= 60e3
        assert found.peak_activation_bytes <= 48 * 1024


def test_a_budget_nobody_can_meet_is_answered_at_once(shop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"latency: at most 1e-06 ms cannot be met"):
        specialize(shop, Limits(latency_ms=1e-6), tmp_path / "a")
    with pytest.raises(Infeasible, match=r"macs: at most 10 .*smallest value achievable"):
        specialize(shop, Limits(macs=10), tmp_path / "b")
    assert not list(tmp_path.iterdir())
    for bad in ({}, {"macs": -1.0}, {"latency_ms": 0.0}):
        with pytest.raises(InputError):
            Limits(**bad)


def test_measuring_decides_and_teaches(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everything takes twice what was predicted, the budget is still kept."""
    from onceforall import devices
    from onceforall.devices import Latency

    asked: list[int] = []

    def slow(target: Target, networks: list, rounds: int = 0) -> list[Latency]:
        asked.append(len(networks))
        rows = []
        for network, _ in networks:
            ms = 1e-6 * sum(p.numel() for p in network.parameters())
            rows.append(Latency(2 * ms, ms, ms, 1))
        return rows

    monkeypatch.setattr(devices, "measure_many", slow)
    records = len(shop.latency_labels)
    budget = 2.2e-6 * 50_000
    found = specialize(shop, Limits(latency_ms=budget), tmp_path / "out")
    assert found.latency_measured_ms <= budget
    assert len(asked) == 1 or len(shop.latency_labels) > records


def test_accuracy_predicted_wrong_is_learnt(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predictor that promises what is not there is fitted anew with what was measured, on the
    images that the records stand on; one that is right is left alone."""
    fresh = replace(shop, accuracy=Boastful(shop.accuracy), delivered={}, scores={})
    assert isinstance(fresh.accuracy, Boastful)
    before = len(fresh.accuracy_labels)
    found = specialize(fresh, Limits(macs=1.1e6), tmp_path / "out")
    assert not isinstance(fresh.accuracy, Boastful)
    added = fresh.accuracy_labels.take(np.arange(before, len(fresh.accuracy_labels)))
    assert len(added) >= 1
    assert found.arch in fresh.scores
    for row, top1 in zip(added.population, added.values, strict=True):
        (arch,) = added.space.decode(row[None])
        network = calibrated(shop.supernet, arch, shop.data)
        assert accuracy(network, arch.resolution, shop.data.validation, 100).top1 == top1
        everything = accuracy(network, arch.resolution, shop.data.validation).top1
        assert fresh.scores[arch] == pytest.approx(everything)
    values = shop.accuracy.predict(shop.accuracy_labels.population[:3])
    archs = shop.accuracy_labels.space.decode(shop.accuracy_labels.population[:3])
    assert values.std is not None
    assert not disagrees(shop.accuracy, archs, values.mean + 2.4 * values.std)
    assert disagrees(shop.accuracy, archs, values.mean - [0, 0, 2.6] * values.std)


def test_what_was_measured_to_fit_stays_when_the_machine_gets_slow(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network delivered before is not lost, and nothing is learnt from times that are not the
    machine's own."""
    from onceforall import devices
    from onceforall.devices import Latency

    arch = shop.supernet.space.smallest()
    slow = replace(shop, delivered={arch: 0.5}, scores={arch: 50.0})
    monkeypatch.setattr(devices, "measure_many", lambda t, n, r: [Latency(9, 9, 9, 1)] * len(n))
    monkeypatch.setattr(devices, "disturbed", lambda target: True)
    found = specialize(slow, Limits(latency_ms=1.0), tmp_path / "out")
    assert (found.arch, found.latency_measured_ms) == (arch, 0.5)
    assert len(slow.latency_labels) == len(shop.latency_labels)
    monkeypatch.setattr(devices, "disturbed", lambda target: False)
    specialize(slow, Limits(latency_ms=1.1), tmp_path / "again")
    assert len(slow.latency_labels) > len(shop.latency_labels)


class Boastful:
    """Promises 30 points more than another predictor does, and is sure of it."""

    def __init__(self, honest: Predictor) -> None:
        self.honest, self.space = honest, honest.space

    def predict(self, population: Population) -> Prediction:
        found = self.honest.predict(population)
        return replace(found, mean=found.mean + 30, std=np.full(len(population), 0.5))


def test_block_table_adds_up(run: Run) -> None:
    family = run.supernet.family
    table = collecting.block_latencies(family, Target(), resolutions=[12])
    space = table.space
    assert table.of(space.largest()) > table.of(space.smallest()) > 0
