"""From a trained run to files: records, predictors, search, extraction, export."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from onceforall import data, devices
from onceforall.cli import app
from onceforall.costs import cost_tables
from onceforall.data import Data, Images, Request, Source, in_order
from onceforall.devices import Latency, Target
from onceforall.errors import InputError
from onceforall.export import Opened
from onceforall.export.onnx import load as load_onnx
from onceforall.families.layers import Layer, layer
from onceforall.families.mobilenetv3 import MobileNetV3
from onceforall.pipeline import (
    Evidence,
    Limits,
    Run,
    collecting,
    gather_evidence,
    open_run,
    recording,
    refuse_impossible,
    specialize,
)
from onceforall.pipeline.delivering import reference
from onceforall.pipeline.evidence import disagrees
from onceforall.pipeline.specializing import ROUNDS, propose
from onceforall.predictors import Prediction, Predictor, stalled
from onceforall.records import Record, Store, read_jsonl, read_labels, write_jsonl
from onceforall.report.terminal import network_table
from onceforall.search import Infeasible
from onceforall.space import Arch, Population
from onceforall.supernet import (
    TOP1,
    Score,
    SuperNet,
    calibrated,
    load_network,
    save_network,
    score,
    torch_device,
)


def forgetful(evidence: Evidence) -> Evidence:
    """The same, that neither knows nor keeps what is measured."""
    unkept = {"folder": None, "score_file": None, "latency_file": None, "store": Store()}
    unknown = {"delivered": {}, "scores": {}, "timed": {}, "files": {}}
    return replace(evidence, **unknown, **unkept)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load(Source("digits"))


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(shutil.copytree(digits_run, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def evidence(run: Run, digits: Data) -> Evidence:
    return gather_evidence(run, digits, Target(), score_samples=12, latency_samples=16, images=100)


def test_records_are_kept_and_gone_on_with(run: Run, digits: Data, evidence: Evidence) -> None:
    path = run.folder / "accuracy.jsonl"
    records = read_jsonl(path)
    assert len({r.arch for r in records}) == len(records) == 12
    assert {r.arch for r in records} >= {
        evidence.supernet.space.smallest(),
        evidence.supernet.space.largest(),
    }
    assert all(r.provenance["images"] == 100 for r in records)
    assert collecting.collect_scores(run.supernet, digits, 14, path, 100) == 2
    assert collecting.collect_scores(run.supernet, digits, 14, path, 100) == 0
    assert read_jsonl(path)[:12] == records
    assert collecting.collect_scores(run.supernet, digits, 15, path) == 1
    assert read_jsonl(path)[-1].provenance["images"] == 100
    with pytest.raises(InputError, match="were scored on 100 images, not on 50; name another"):
        collecting.collect_scores(run.supernet, digits, 16, path, 50)
    moved = replace(digits, name="the same images, elsewhere")
    assert collecting.scored_on(path, run.supernet, moved, None) == 100
    contents = {**digits.contents, "validation": {"0": [1, "another digest"]}}
    others = replace(digits, contents=contents)
    with pytest.raises(InputError, match=r"images_digest: its records of top1 are of \w+, new"):
        collecting.scored_on(path, run.supernet, others, None)
    times = read_jsonl(run.folder / "latency-onnxruntime-cpu.jsonl")
    assert len(times) == 16
    assert all(r.value > 0 and r.unit == "ms" for r in times)


class OneLeftOut:
    """Images of which the first cannot be read."""

    def __init__(self, images: Images) -> None:
        self.images, self.labels, self.unreadable = images, images.labels, images.unreadable

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int]) -> Images:
        return self.images.subset(indices)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for request in requests:
            readable = [i for i in request.indices if i]
            yield from self.images.stream([request._replace(indices=readable)])


def test_an_unreadable_image_does_not_split_the_records(
    run: Run, digits: Data, tmp_path: Path
) -> None:
    """Records name the images that were asked for, by which they are gone on with; otherwise those
    of `specialize`, which asks for as many, would be of another number than those before."""
    damaged = replace(digits, validation=OneLeftOut(digits.validation))
    assert len(next(iter(damaged.validation.stream(in_order(9, 9, 12))))[1]) == 8
    path = tmp_path / "accuracy.jsonl"
    for images in (None, len(digits.validation)):
        collecting.collect_scores(run.supernet, damaged, 2 if images is None else 3, path, images)
    collecting.add_score(
        path,
        run.supernet,
        damaged,
        collecting.scored_on(path, run.supernet, damaged, None),
        run.supernet.space.random(np.random.default_rng(9)),
        Score(TOP1, {"top1": 50.0}, 100, 100),
    )
    assert collecting.scored_on(path, run.supernet, damaged, None) == len(digits.validation)
    assert {r.provenance["images"] for r in read_jsonl(path)} == {len(digits.validation)}


def test_records_of_another_supernet_are_not_mixed(
    run: Run, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the weights, whoever read them and however they lie in memory; the records say whose they
    are, and those that do not are not added to."""
    path = tmp_path / "accuracy.jsonl"
    name = recording.digest(run.supernet)
    again = open_run(run.folder).supernet.to(memory_format=torch.channels_last)
    assert recording.digest(again) == name
    assert collecting.collect_scores(run.supernet, digits, 2, path, 50) == 2
    assert [r.provenance["supernet"] for r in read_jsonl(path)] == [name] * 2
    assert collecting.collect_scores(again, digits, 3, path, 50) == 1
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-3
    other = recording.digest(again)
    for ask in (
        lambda: collecting.collect_scores(again, digits, 4, path, 50),
        lambda: collecting.collect_scores(again, digits, 3, path),  # nothing is missing
        lambda: gather_evidence(replace(run, folder=tmp_path, supernet=again), digits, Target()),
    ):
        with pytest.raises(InputError) as error:
            ask()
        assert str(error.value) == (
            f"{path}: supernet: its records of top1 are of {name}, new ones would be of {other};"
            " name another file, or move this one away"
        )
    old = tmp_path / "old.jsonl"
    write_jsonl(old, [without(r, "supernet") for r in read_jsonl(path)])
    with pytest.raises(InputError, match=r"supernet: its records .* of one that they do not name"):
        collecting.collect_scores(run.supernet, digits, 4, old)
    assert len(read_labels(old, run.supernet.space, "top1")) == 3
    assert len(read_jsonl(path)) == len(read_jsonl(old)) == 3


def without(record: Record, name: str) -> Record:
    rest = {k: v for k, v in record.provenance.items() if k != name}
    return replace(record, provenance=rest)


def test_latencies_of_another_machine_or_runtime_are_not_mixed(
    run: Run, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, target = run.supernet.family, Target()
    here = devices.provenance(target)
    path = tmp_path / f"latency-{target}.jsonl"
    monkeypatch.setattr(
        devices, "measure_many", lambda t, n, r, **_: [Latency(9, 9, 9, 1)] * len(n)
    )
    assert collecting.collect_latencies(family, target, 3, path) == 3
    assert all(r.provenance.items() >= here.items() for r in read_jsonl(path))
    for field, value in (("runtime", "onnxruntime 0.1"), ("processor", "abacus")):
        with monkeypatch.context() as patch:
            patch.setattr(devices, "provenance", lambda _, f=field, v=value: {**here, f: v})
            with pytest.raises(InputError) as error:
                collecting.collect_latencies(family, target, 3, path)
            assert str(error.value).startswith(
                f"{path}: {field}: its records of latency_ms are of {here[field]},"
                f" new ones would be of {value}; name another file"
            )
            own = tmp_path / f"latency-{target}-2.jsonl"  # where a run keeps those
            assert collecting.latency_file(tmp_path, target) == own
            assert collecting.collect_latencies(family, target, 2, own) == 2
            assert collecting.latency_file(tmp_path, target) == own
            own.unlink()
            batch = Target(batch=2)  # of another target nothing was measured yet
            assert collecting.collect_latencies(family, batch, 2, path) == 2
        assert [r.device for r in read_jsonl(path)] == [str(target)] * 3 + [str(batch)] * 2
        write_jsonl(path, read_jsonl(path)[:3], overwrite=True)
    write_jsonl(path, [without(r, "runtime") for r in read_jsonl(path)], overwrite=True)
    with pytest.raises(InputError, match=r"runtime: its records .* of one that they do not name"):
        collecting.collect_latencies(family, target, 4, path)


def test_labelling_stops_when_the_error_does(
    run: Run, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as many records as `stalled` says, or the most there may be; a file that is gone on
    with has the errors of its earlier rounds."""
    monkeypatch.setattr(collecting, "FIRST_ROUND", 15)
    monkeypatch.setattr(collecting, "NEXT_ROUNDS", 5)
    path = tmp_path / "accuracy.jsonl"

    def label(most: int) -> collecting.Labelling:
        return collecting.collect_until_settled(run.supernet, digits, most, path, 60)

    first = label(22)
    assert (first.added, len(first.errors), first.settled) == (22, 2, False)
    more = label(37)
    assert more.errors[:2] == first.errors
    records = read_jsonl(path)
    assert len({r.arch for r in records}) == len(records) == 22 + more.added
    rounds = [stalled(more.errors[: n + 1]) for n in range(len(more.errors))]
    assert more.settled == rounds[-1]
    assert not any(rounds[:-1])
    assert more.settled or len(records) == 37
    assert label(37).added == 0


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
    collecting.collect_until_settled(
        run.supernet, digits, 30, path, 60, cost=macs, budgets=[budget]
    )
    costs = macs(space.encode([r.arch for r in read_jsonl(path)]))
    spread = np.abs(np.log(costs / budget))
    assert np.median(spread[15:]) < 0.5 * np.median(spread[:15])


def test_specialised_files_are_what_the_card_says(
    evidence: Evidence, digits: Data, tmp_path: Path
) -> None:
    limits = Limits(latency_ms=5.0, macs=1.2e6)
    found = specialize(evidence, limits, tmp_path / "out")
    assert found.macs <= 1.2e6
    assert found.latency_measured_ms <= 5.0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "card.json",
        "card.md",
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
        logits = load_onnx(tmp_path / "out/network.onnx")(x)
        assert np.allclose(logits, network(x).detach(), atol=1e-4)
        hits.append((logits.argmax(1) == y).float().mean().item())
    assert found.test == pytest.approx(100 * np.mean(hits), abs=0.01)
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert specialize(evidence, limits, tmp_path / "out") == found  # delivered before
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    with pytest.raises(InputError, match="exists already, and holds no network of limits"):
        specialize(evidence, Limits(latency_ms=6.0), tmp_path / "out")
    (tmp_path / "out/card.json").unlink()
    with pytest.raises(InputError, match="exists already, and holds no network of supernet"):
        specialize(evidence, limits, tmp_path / "out")


def test_proposals_are_within_all_limits(evidence: Evidence) -> None:
    limits = Limits(macs=900e3, params=60e3, peak_activation_bytes=48 * 1024)
    from onceforall.costs import cost

    for arch in propose(evidence, limits, seed=0):
        shape = (1, arch.resolution, arch.resolution)
        found = cost(evidence.supernet.family.build(arch), shape)
        assert found.macs <= 900e3
        assert found.params <= 60e3
        assert found.peak_activation_bytes <= 48 * 1024


def test_a_budget_nobody_can_meet_is_answered_at_once(evidence: Evidence, tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"latency: at most 1e-06 ms cannot be met"):
        specialize(evidence, Limits(latency_ms=1e-6), tmp_path / "a")
    with pytest.raises(Infeasible, match=r"macs: at most 10 .*smallest value achievable"):
        specialize(evidence, Limits(macs=10), tmp_path / "b")
    assert not list(tmp_path.iterdir())
    for bad in ({}, {"macs": -1.0}, {"latency_ms": 0.0}):
        with pytest.raises(InputError):
            Limits(**bad)


class Fourier(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).real


class Wavy(MobileNetV3):
    """With an operation that no rule of costs knows."""

    def tail(self, width_in: int) -> dict[str, Layer]:
        return {"fourier": layer(Fourier), **super().tail(width_in)}


def test_what_is_counted_is_decided_before_anything_is_measured(run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    copied.mkdir()
    shutil.copy(run.folder / "supernet.safetensors", copied)
    found = CliRunner().invoke(app, ["specialize", str(copied), "--max-macs", "10"])
    assert isinstance(found.exception, Infeasible)
    assert str(found.exception).startswith("limit macs: at most 10 cannot be met; the smallest")
    assert [p.name for p in copied.iterdir()] == ["supernet.safetensors"]
    family = run.supernet.family
    wavy = Wavy(**{f.name: getattr(family, f.name) for f in fields(family) if f.init})
    refuse_impossible(wavy, Limits(latency_ms=1e-9, params=1e9))
    with pytest.raises(InputError, match=r"costs: no rule says what .*_fft_c2c.* costs"):
        refuse_impossible(wavy, Limits(macs=1e9, params=1e9))


def test_lower_bounds_are_shown_as_such(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # whatever the terminal has: room for all columns
    lab = forgetful(evidence)
    whole = reference(lab, "smallest", evidence.supernet.space.smallest(), tmp_path)
    rows = [replace(whole, uncovered=names).to_dict() for names in ((), ("sin",))]
    first, second = network_table(rows, TOP1, where=False).splitlines()[-2:]
    assert "at least" not in first
    assert f"at least {whole.macs / 1e6:.2f}" in second


def test_int8_is_predicted_by_what_it_changed_in_others(
    evidence: Evidence, digits: Data, tmp_path: Path
) -> None:
    """By hand: changes of -1.0 and -0.3, and one pair more without any. What is of another format,
    precision, supernet or part of the images says nothing, nor does the network's own file."""
    space, path, n = evidence.supernet.space, tmp_path / "records.jsonl", len(digits.validation)
    archs = space.decode(space.sample(np.random.default_rng(5), 40))
    a, b, c, asked = list(dict.fromkeys(archs))[:4]
    network = recording.score_facts(evidence.supernet, digits, n)

    def of_file(**other: object) -> dict[str, object]:
        of = recording.file_facts(evidence.supernet, digits, "validation", "digest")
        return {**of, "format": "onnx", "precision": "int8", **other}

    def record(arch: Arch, value: float, of: dict[str, object]) -> Record:
        return Record(arch, "top1", value, "%", "", of)

    store = Store(path)
    store.add(path, [record(arch, top1, network) for arch, top1 in ((a, 80), (b, 81), (asked, 85))])
    store.add(path, [record(arch, top1, of_file()) for arch, top1 in ((a, 79), (b, 80.7), (c, 9))])
    others = [{"format": "litert"}, {"precision": "fp32"}, {"supernet": "x"}, {"split": "test"}]
    store.add(path, [record(asked, 1.0, of_file(**other)) for other in others])
    lab = replace(forgetful(evidence), store=store, target=Target(precision="int8"))
    fp32 = float(evidence.score_predictor.predict(space.encode([asked])).mean[0])
    found, change = lab.predict_score(asked)
    assert (change.value, change.archs) == (pytest.approx(-1.3 / 3), 2)
    assert found == pytest.approx(fp32 - 1.3 / 3)
    _, change = lab.predict_score(a)
    assert (change.value, change.archs) == (pytest.approx(-0.3 / 2), 1)
    found, change = replace(lab, target=Target()).predict_score(asked)
    assert (found, change.archs) == (fp32, 0)


def test_measuring_decides_and_teaches(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everything takes twice what was predicted, the budget is still kept."""
    some = evidence.supernet.space.sample(np.random.default_rng(1), 50)
    params = cost_tables(evidence.supernet.family)["params"](some)
    each = np.median(evidence.latency_predictor.predict(some).mean / params)

    def slow(target: Target, networks: list, rounds: int = 0, visits: int = 1) -> list[Latency]:
        rows = []
        for network, _ in networks:
            if isinstance(network, Path):  # the file of the winner
                arch = Arch.parse(Opened(network).fact("arch"))
                network = evidence.supernet.family.build(arch)
            ms = 2 * each * sum(p.numel() for p in network.parameters())
            rows.append(Latency(ms, ms, ms, 1))
        return rows

    monkeypatch.setattr(devices, "measure_many", slow)
    fresh = forgetful(evidence)  # these times are not to be kept
    records = len(evidence.latency_labels)
    budget = float(2 * each * np.median(params))
    found = specialize(fresh, Limits(latency_ms=budget), tmp_path / "out")
    assert found.latency_measured_ms <= budget
    assert len(fresh.latency_labels) > records


def test_a_score_predicted_wrong_refits_the_predictor(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predictor that promises what is not there is fitted anew with what was measured, on the
    images that the records stand on; one that is right is left alone."""
    boastful = Boastful(evidence.score_predictor)
    fresh = replace(forgetful(evidence), score_predictor=boastful)
    assert isinstance(fresh.score_predictor, Boastful)
    before = len(fresh.score_labels)
    found = specialize(fresh, Limits(macs=1.1e6), tmp_path / "out")
    assert not isinstance(fresh.score_predictor, Boastful)
    added = fresh.score_labels.take(np.arange(before, len(fresh.score_labels)))
    assert len(added) >= 1
    assert found.arch in fresh.scores
    for row, top1 in zip(added.population, added.values, strict=True):
        (arch,) = added.space.decode(row[None])
        network = calibrated(evidence.supernet, arch, evidence.data)
        assert score(network, arch.resolution, evidence.data.validation, limit=100).value == top1
        everything = score(network, arch.resolution, evidence.data.validation).value
        assert fresh.scores[arch] == pytest.approx(everything)
    values = evidence.score_predictor.predict(evidence.score_labels.population[:3])
    archs = evidence.score_labels.space.decode(evidence.score_labels.population[:3])
    assert values.std is not None
    assert not disagrees(evidence.score_predictor, archs, values.mean + 2.4 * values.std)
    assert disagrees(evidence.score_predictor, archs, values.mean - [0, 0, 2.6] * values.std)


def test_what_was_measured_to_fit_stays_when_the_machine_gets_slow(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network delivered before is not lost, and nothing is fitted to times that are not the
    machine's own."""
    arch = evidence.supernet.space.smallest()
    before = Record(arch, "latency_ms", 0.5, "ms", str(evidence.target))
    slow = replace(forgetful(evidence), delivered={arch: before}, scores={arch: 50.0})
    large = evidence.supernet.space.largest()
    monkeypatch.setattr("onceforall.pipeline.specializing.propose", lambda *_: [large])
    monkeypatch.setattr(
        devices, "measure_many", lambda t, n, r, **_: [Latency(9, 9, 9, 1)] * len(n)
    )
    monkeypatch.setattr(devices, "disturbed", lambda target: True)
    found = specialize(slow, Limits(latency_ms=1.0), tmp_path / "out")
    assert (found.arch, found.latency_qualified_ms, found.latency_measured_ms) == (arch, 0.5, 9)
    assert found.disturbed
    assert delivered(slow) == {arch: 0.5}
    assert len(slow.latency_labels) == len(evidence.latency_labels)
    monkeypatch.setattr(devices, "disturbed", lambda target: False)
    with pytest.raises(InputError, match=r"limits 1.1ms were not met by measuring"):
        specialize(slow, Limits(latency_ms=1.1), tmp_path / "again")
    assert delivered(slow) == {arch: 9}
    assert len(slow.latency_labels) > len(evidence.latency_labels)


@dataclass
class Script:
    """A device whose times, ms, are those of `calls`, and a search that proposes `turns`."""

    calls: list[list[float]]
    turns: list[list[Arch]]
    disturbed: bool = False

    def into(
        self, patch: pytest.MonkeyPatch, evidence: Evidence, top1: dict[Arch, float]
    ) -> Evidence:
        patch.setattr(devices, "measure_many", self.measure)
        patch.setattr(devices, "disturbed", lambda target: self.disturbed)
        patch.setattr("onceforall.pipeline.specializing.propose", lambda *_: self.turns.pop(0))
        patch.setattr("onceforall.pipeline.specializing.disagrees", lambda *_: False)
        patch.setattr(Evidence, "refit_latency", lambda *_: None)
        return replace(forgetful(evidence), scores=top1)

    def measure(
        self, target: Target, networks: list, rounds: int, visits: int = 1
    ) -> list[Latency]:
        times = self.calls.pop(0)
        return [Latency(ms, ms, ms, 1) for ms, _ in zip(times, networks, strict=True)]


@pytest.fixture
def top1(evidence: Evidence) -> dict[Arch, float]:
    """Three archs, the best first, by what they are said to score."""
    space = evidence.supernet.space
    archs = [space.largest(), space.random(np.random.default_rng(0)), space.smallest()]
    return dict(zip(archs, (90.0, 80.0, 70.0), strict=True))


def test_the_delivered_latency_is_measured_after_the_choice(
    evidence: Evidence, top1: dict[Arch, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, second, _ = top1
    script = Script([[1.0, 0.8], [1.1]], [[best, second]])
    found = specialize(
        lab := script.into(monkeypatch, evidence, top1), Limits(latency_ms=1.2), tmp_path / "out"
    )
    assert (found.arch, found.latency_qualified_ms, found.latency_measured_ms) == (best, 1.0, 1.1)
    assert delivered(lab) == {best: 1.1}
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["latency_qualified_ms"], card["latency_measured_ms"]) == (1.0, 1.1)
    assert card["disturbed"] is False
    assert card["runtime"].startswith("onnxruntime ")
    assert card["supernet"] == recording.digest(evidence.supernet)
    script.calls, script.turns = [[1.15]], [[]]  # it takes part again, with its latest time
    found = specialize(lab, Limits(latency_ms=1.3), tmp_path / "more")
    assert (found.arch, found.latency_qualified_ms, found.latency_measured_ms) == (best, 1.1, 1.15)
    assert delivered(lab) == {best: 1.15}
    script.calls = [[2.5]]
    found = reference(lab, "largest", best, tmp_path / "largest")
    assert (found.latency_qualified_ms, found.latency_measured_ms) == (None, 2.5)


def test_a_winner_that_was_lucky_gives_way_to_the_next(
    evidence: Evidence, top1: dict[Arch, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, second, last = top1
    script = Script([[1.0, 0.8], [1.3], [0.9]], [[best, second]])
    lab = script.into(monkeypatch, evidence, dict(top1))
    found = specialize(lab, Limits(latency_ms=1.2), tmp_path / "a")
    assert (found.arch, found.latency_qualified_ms, found.latency_measured_ms) == (second, 0.8, 0.9)
    assert delivered(lab) == {second: 0.9}
    # nobody is left: search is asked again, and who failed gets no third try
    script = Script([[1.0, 0.8], [1.3], [1.4], [1.15], [1.19]], [[best, second], [best, last]])
    lab = script.into(monkeypatch, evidence, dict(top1))
    found = specialize(lab, Limits(latency_ms=1.2), tmp_path / "b")
    assert (found.arch, found.latency_measured_ms) == (last, 1.19)
    script = Script([[1.0], [1.3]], [[best]] * ROUNDS)
    with pytest.raises(InputError, match=r"limits 1.2ms were not met .* take 1.3 ms and more"):
        specialize(
            script.into(monkeypatch, evidence, dict(top1)), Limits(latency_ms=1.2), tmp_path / "c"
        )
    assert not (tmp_path / "c").exists()


def test_the_network_of_a_smaller_budget_does_not_end_the_search(
    evidence: Evidence, top1: dict[Arch, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what is left where nothing else is within the budget, and not before."""
    best, second, last = top1
    before = Record(last, "latency_ms", 0.5, "ms", str(evidence.target))
    limits = Limits(latency_ms=1.2)
    script = Script([[1.3], [1.25], [1.16], [1.18]], [[best], [best], [second]])
    lab = replace(script.into(monkeypatch, evidence, dict(top1)), delivered={last: before})
    assert specialize(lab, limits, tmp_path / "a").arch == second
    # the new one is too slow when measured again
    script = Script([[1.3], [1.16], [1.25], [1.15], [1.18]], [[best], [second], [best]])
    lab = replace(script.into(monkeypatch, evidence, dict(top1)), delivered={last: before})
    assert specialize(lab, limits, tmp_path / "b").arch == best
    script = Script([[1.3]] * ROUNDS + [[0.6]], [[best]] * ROUNDS)
    lab = replace(script.into(monkeypatch, evidence, dict(top1)), delivered={last: before})
    assert specialize(lab, limits, tmp_path / "c").arch == last


def test_a_search_that_kept_too_far_from_the_budget_goes_nearer(
    evidence: Evidence, top1: dict[Arch, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, second, last = top1
    script = Script([[1.5], [0.6], [1.17], [1.18]], [[best], [last], [second]])
    asked: list[float] = []
    lab = script.into(monkeypatch, evidence, dict(top1))

    def propose(evidence: Evidence, limits: Limits, seed: int, tightness: float) -> list[Arch]:
        asked.append(tightness)
        return script.turns.pop(0)

    monkeypatch.setattr("onceforall.pipeline.specializing.propose", propose)
    assert specialize(lab, Limits(latency_ms=1.2), tmp_path / "a").arch == second
    assert asked == pytest.approx([1.0, 0.8, 1.0])


def test_on_a_busy_machine_the_card_says_so(
    evidence: Evidence, top1: dict[Arch, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, second, _ = top1
    script = Script([[1.0, 0.8], [1.5]], [[best, second]], disturbed=True)
    lab = script.into(monkeypatch, evidence, top1)
    found = specialize(lab, Limits(latency_ms=1.2), tmp_path / "out")
    assert (found.arch, found.latency_measured_ms, found.disturbed) == (best, 1.5, True)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["disturbed"] is True
    assert delivered(lab) == {best: 1.0}


def test_what_specialising_measures_is_kept(
    evidence: Evidence, top1: dict[Arch, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, second, _ = top1
    script = Script([[1.0, 0.8], [1.1]], [[best, second]])
    files = tmp_path / "accuracy.jsonl", tmp_path / "latency.jsonl"
    lab = script.into(monkeypatch, evidence, {})
    lab = replace(lab, scores={}, score_file=files[0], latency_file=files[1])
    found = specialize(lab, Limits(latency_ms=1.2), tmp_path / "out")
    scored, timed = (read_jsonl(file) for file in files)
    assert [r.arch for r in scored] == [best, second]
    for record in scored:
        network = calibrated(evidence.supernet, record.arch, evidence.data)
        value = score(network, record.arch.resolution, evidence.data.validation, limit=100).value
        assert record.value == value
        assert record.provenance == recording.score_facts(evidence.supernet, evidence.data, 100)
    assert [(r.arch, r.value) for r in timed] == [(best, 1.0), (second, 0.8), (found.arch, 1.1)]
    assert {r.device for r in timed} == {str(evidence.target)}
    assert collecting.latencies_in(files[1], evidence.target) == timed
    script.disturbed, script.calls = True, [[5.0]]
    reference(lab, "again", second, tmp_path / "again")
    assert read_jsonl(files[1]) == timed  # nothing of a busy machine
    assert read_jsonl(files[0]) == scored  # nothing twice


def delivered(evidence: Evidence) -> dict[Arch, float]:
    """The latest latencies of the archs delivered so far."""
    return {arch: record.value for arch, record in evidence.delivered.items()}


class Boastful:
    """Promises 30 points more than another predictor does, and is sure of it."""

    def __init__(self, honest: Predictor) -> None:
        self.honest, self.space = honest, honest.space

    def predict(self, population: Population) -> Prediction:
        found = self.honest.predict(population)
        return replace(found, mean=found.mean + 30, std=np.full(len(population), 0.5))


def test_networks_are_scored_where_they_are_asked_for(
    run: Run, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device that is picked is where the supernet is put, and so what is extracted from it."""
    asked: list[str | None] = []

    def pick(name: str | None = None) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    class There(Exception):  # noqa: N818
        pass

    def scored(supernet: SuperNet, *_: object) -> int:
        assert asked
        assert next(supernet.parameters()).device == torch.device("cpu")
        raise There

    monkeypatch.setattr("onceforall.pipeline.gathering.torch_device", pick)
    monkeypatch.setattr(collecting, "collect_scores", scored)
    for name in (None, "cuda"):
        with pytest.raises(There):
            gather_evidence(replace(run, folder=tmp_path), digits, Target(), on=name)
    assert asked == [None, "cuda"]


def test_commands_put_networks_where_they_are_asked_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = run.supernet.space.smallest()
    network, family = run.supernet.extract(arch), run.supernet.family
    save_network(tmp_path / "n.safetensors", network, family, arch, {})
    asked: list[str | None] = []

    def pick(name: str | None = None) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("onceforall.supernet.torch_device", pick)
    out = tmp_path / "records.jsonl"
    commands = (
        f"evaluate {tmp_path / 'n.safetensors'} --data digits --limit 20",
        f"records accuracy {run.folder} --samples 2 --images 20 --all --out {out}",
    )
    for command in commands:
        for option in ("", " --on cuda"):
            done = CliRunner().invoke(app, (command + option).split())
            assert done.exit_code == 0, done.output
    assert asked == [None, "cuda"] * 2


def test_the_gpu_is_picked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [torch_device(n).type for n in (None, "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [torch_device(n).type for n in (None, "cpu")] == ["cpu", "cpu"]
    with pytest.raises(InputError, match="on: cuda: PyTorch sees no CUDA GPU here"):
        torch_device("cuda")
    with pytest.raises(InputError, match="on: 'tpu' is not known; there are cuda, cpu"):
        torch_device("tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_specialising_on_a_gpu(run: Run, digits: Data, tmp_path: Path) -> None:
    """Records, scores and files are those of the CPU, but for rounding."""
    opened = replace(run, folder=tmp_path, supernet=open_run(run.folder).supernet)
    name = recording.digest(opened.supernet)
    evidence = gather_evidence(opened, digits, Target(), score_samples=12, latency_samples=16)
    assert all(p.is_cuda for p in evidence.supernet.parameters())
    assert recording.digest(evidence.supernet) == name
    found = specialize(evidence, Limits(latency_ms=5.0), tmp_path / "out")
    network, arch, _ = load_network(tmp_path / "out" / "network.safetensors")
    scored = score(network, arch.resolution, digits.test).value
    assert found.test == pytest.approx(scored, abs=1)
    there = score(calibrated(evidence.supernet, arch, digits), arch.resolution, digits.test).value
    here = score(calibrated(run.supernet.cpu(), arch, digits), arch.resolution, digits.test).value
    assert there == pytest.approx(here, abs=1)


def test_block_table_adds_up(run: Run) -> None:
    family = run.supernet.family
    table = collecting.block_latencies(family, Target(), resolutions=[12])
    space = table.space
    assert table.of(space.largest()) > table.of(space.smallest()) > 0
