"""What `evaluate` and `measure` find is kept with the run that a network is of, and found again by
`specialize` where all that it is of agrees."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import digits_runs
import pytest
from commands import run
from typer.testing import CliRunner

from onceforall import devices
from onceforall.cli import app
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.export import Opened
from onceforall.pipeline import collecting, homes, open_run, recording, specializing
from onceforall.pipeline import evidence as evidences
from onceforall.records import Record, Store, read_jsonl
from onceforall.space import Arch
from onceforall.supernet import calibrated, score

CUT = 150  # validation images, which are not the usual tenth


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Search asks for fewer predictions, as it matters to no test here which arch is found; and
    what else runs on this machine does not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specializing, "EVALUATIONS", 100)
        patch.setattr(devices, "disturbed", lambda target: False)
        yield


@pytest.fixture(scope="module")
def trained(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of digits, and one network that was delivered from it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    digits_runs.trained(folder, f"data.validation={CUT}", "phases.0.steps=30")
    run("specialize", folder, "--max-macs", "0.9M", "--samples", 10)
    return folder


@pytest.fixture
def fresh(trained: Path, tmp_path: Path) -> Path:
    """The same, of which nothing is recorded."""
    folder = shutil.copytree(trained, tmp_path / "run")
    for path in folder.glob("*.jsonl"):
        if path.name != "metrics.jsonl":
            path.unlink()
    return folder


def kept(folder: Path) -> list[Record]:
    path = folder / "measured.jsonl"
    return read_jsonl(path) if path.exists() else []


def delivered(folder: Path, name: str) -> Path:
    (found,) = (folder / "specialized").rglob(name)
    return found


USUAL = ("--data", "digits", "--split", "validation", "--calibrate", 250)


def test_specialize_measures_neither_again(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest and the largest arch are among any records that predictors are fitted to."""
    shutil.rmtree(fresh / "specialized")
    space = open_run(fresh).supernet.space
    ends = [str(arch) for arch in (space.smallest(), space.largest())]
    by_hand: dict[str, tuple[float, float]] = {}
    for arch in ends:
        top1 = run("evaluate", arch, "--weights", fresh, *USUAL)
        timed = run(
            "measure",
            arch,
            "--weights",
            fresh / "supernet.safetensors",
            "--rounds",
            15,
            "--visits",
            1,
        )  # of an arch the rounds are enough
        assert top1["kept"] == timed["kept"] == str(fresh / "measured.jsonl")
        assert top1["n"] == CUT
        by_hand[arch] = top1["top1"], timed["median_ms"]
    assert len(kept(fresh)) == 4
    again: list[str] = []
    scored, recorded = collecting.calibrated, recording.latency_records

    def scoring(supernet: Any, arch: Arch, *args: Any) -> Any:
        again.append(str(arch))
        return scored(supernet, arch, *args)

    def timed_now(family: Any, target: Any, archs: Any, found: Any, more: Any = ()) -> list[Record]:
        again.extend(str(arch) for arch in archs if "file_digest" not in more)  # who won is timed
        return recorded(family, target, archs, found, dict(more))

    for room in (collecting, evidences):
        monkeypatch.setattr(room, "calibrated", scoring)
    for room in (collecting, recording):
        monkeypatch.setattr(room, "latency_records", timed_now)
    run("specialize", fresh, "--max-macs", "0.9M", "--samples", 10)
    assert len(set(again)) >= 8  # others were
    assert not set(ends) & set(again)
    for name, at in (("accuracy", 0), ("latency-onnxruntime-cpu", 1)):
        records = read_jsonl(fresh / f"{name}.jsonl")
        values = {str(r.arch): r.value for r in records if "file_digest" not in r.provenance}
        assert len(values) >= 10
        assert {arch: values[arch] for arch in ends} == {a: by_hand[a][at] for a in ends}


def test_what_is_of_something_else_is_kept_and_not_found(fresh: Path) -> None:
    """Each differs from what `specialize` asks for in one thing; the last in nothing."""
    opened = open_run(fresh)
    data, arch = opened.data(), opened.supernet.space.smallest()
    wanted = recording.score_facts(opened.supernet, data, CUT)

    def found() -> Record | None:
        return Store(fresh / "measured.jsonl").find(arch, "top1", wanted, without=["file_digest"])

    others: list[list[object]] = [
        ["--limit", 60],
        ["--calibrate", 0],
        ["--calibrate", 100],
        ["--estimator", "batch-mean"],
        ["--mean", 0.4, "--std", 0.5],
        ["--split", "test"],
        ["--split", "train"],
        ["--resolution", 16],
    ]
    for n, other in enumerate(others, 1):
        run("evaluate", arch, "--weights", fresh, *USUAL, *other)
        assert len(kept(fresh)) == n
        assert found() is None
    shown = run("evaluate", arch, "--weights", fresh, *USUAL)
    record = found()
    assert record is not None
    network = calibrated(opened.supernet, arch, data)
    assert record.value == score(network, arch.resolution, data.validation).value == shown["top1"]


def test_delivered_files_are_found_again(fresh: Path) -> None:
    """By their digest; the checkpoint beside is the calibrated network, as records of archs are."""
    opened = open_run(fresh)
    data, target = opened.data(), Target()
    onnx, own = delivered(fresh, "network.onnx"), delivered(fresh, "network.safetensors")
    card = json.loads((onnx.parent / "card.json").read_text())
    arch = Arch.parse(card["arch"])
    for path in (onnx, own):
        assert run("evaluate", path, "--data", "digits")["top1"] == card["top1_test"]
        top1 = run("evaluate", path, "--data", "digits", "--split", "validation")
        assert top1["top1"] == pytest.approx(card["top1_validation"])
        assert top1["kept"] == str(fresh / "measured.jsonl")
        run("measure", path, "--rounds", 3)
    store = Store(fresh / "measured.jsonl")
    of = recording.file_facts(opened.supernet, data, "test", card["file_digest"])
    in_file = store.find(arch, "top1", of)
    assert in_file is not None
    assert in_file.value == card["top1_test"]
    network = store.find(
        arch, "top1", recording.score_facts(opened.supernet, data, CUT), without=["file_digest"]
    )
    assert network is not None
    assert network.value == pytest.approx(card["top1_validation"])
    here = devices.provenance(target)
    timed = store.find(arch, "latency_ms", here | {"file_digest": card["file_digest"]}, str(target))
    alone = store.find(arch, "latency_ms", here, str(target), ["file_digest"])
    assert timed is not None
    assert alone is not None
    assert timed.provenance["format"] == "onnx"
    run("evaluate", own, "--data", "digits", "--resolution", 12 if arch.resolution == 16 else 16)
    assert kept(fresh)[-1].provenance["calibration"] is None  # it was measured at another size


def test_where_nothing_is_kept(fresh: Path, tmp_path: Path) -> None:
    arch, onnx = "mbv3_mini:smallest", delivered(fresh, "network.onnx")
    elsewhere = tmp_path / "sent" / "network.onnx"
    elsewhere.parent.mkdir()
    shutil.copy(onnx, elsewhere)
    own = shutil.copy(fresh / "supernet.safetensors", tmp_path / "sent" / "supernet.safetensors")
    scored = ("--data", "digits", "--limit", 40)
    assert run("evaluate", elsewhere, *scored)["kept"] is None
    assert run("measure", elsewhere, "--rounds", 1, "--visits", 1)["kept"] is None
    assert run("evaluate", arch, "--weights", own, *scored)["kept"] is None
    assert run("measure", arch, "--rounds", 1, "--visits", 1)["kept"] is None
    assert run("evaluate", onnx, *scored, "--no-record")["kept"] is None
    assert run("measure", onnx, "--rounds", 1, "--visits", 1, "--no-record")["kept"] is None
    assert kept(fresh) == []
    with pytest.raises(InputError, match="--weights: nowhere: no such file or run"):
        run("measure", arch, "--weights", "nowhere")
    run("measure", arch, "--weights", fresh, "--rounds", 1, "--visits", 1)
    assert kept(fresh)[0].arch == open_run(fresh).supernet.space.smallest()  # of its resolutions
    for rounds, visits in ((1, 1), (15, 1), (3, 5)):
        run("measure", onnx, "--rounds", rounds, "--visits", visits)
        few = visits < devices.VISITS
        assert kept(fresh)[-1].provenance.get("few_rounds", False) is few


@pytest.mark.parametrize("arguments", [["measure"], ["evaluate", "--data", "digits"]])
def test_no_weights_are_read_for_a_digest_that_nobody_wants(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def refused(supernet: Any) -> str:
        raise AssertionError("digest")

    monkeypatch.setattr(homes, "digest", refused)
    command, *more = arguments
    more += ["--rounds", "1", "--visits", "1"] if command == "measure" else ["--limit", "40"]
    run(command, "mbv3_mini:smallest", "--weights", fresh, *more, "--no-record")


def test_weights_of_another_family_are_refused(fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--weights: .*: of mbv3_mini, and .* of ofa_mbv3_w1.0"):
        run("measure", "ofa_mbv3_w1.0:smallest", "--weights", fresh)
    text = tmp_path / "notes.txt"
    text.write_text("none")
    with pytest.raises(InputError, match=r"--weights: .*notes.txt: holds no weights"):
        run("measure", "mbv3_mini:smallest", "--weights", text)
    assert kept(fresh) == []


def test_what_is_no_number_costs_the_record_alone(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_run(fresh)
    arch = opened.supernet.space.smallest()
    home = homes.Home(fresh, opened, arch, {}, (opened.source,))
    latency = devices.Latency(float("nan"), 1.0, 1.0, 3)
    assert home.keep_latency(Target(), latency, {}) is None
    assert "is not a finite number" in capsys.readouterr().err
    assert kept(fresh) == []


def test_a_file_that_says_too_little_is_of_no_run(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Opened(delivered(fresh, "network.onnx"))
    del opened.facts["arch"]
    assert homes.home_of(opened) is None
    assert "lacks 'arch'; so what is measured is not kept" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_the_record(fresh: Path) -> None:
    (fresh / "measured.jsonl").mkdir()
    onnx = delivered(fresh, "network.onnx")
    asked = ["evaluate", str(onnx), "--data", "digits", "--limit", "40"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0
    assert "on 40 images" in done.stdout
    assert "kept in" not in done.stdout
    assert f"the result is not kept: {fresh / 'measured.jsonl'}" in done.stderr
    (fresh / "measured.jsonl").rmdir()
    done = CliRunner().invoke(app, asked)
    assert f"kept in {fresh / 'measured.jsonl'}" in done.stdout


def test_a_run_that_was_trained_again_is_another(fresh: Path, trained: Path) -> None:
    """Its supernet has other weights, and a network of the one before is none of its own."""
    other = digits_runs.trained(fresh.parent / "other", "seed=1", "phases.0.steps=1")
    shutil.copy(other / "supernet.safetensors", fresh / "supernet.safetensors")
    onnx = delivered(fresh, "network.onnx")
    assert run("evaluate", onnx, "--data", "digits", "--limit", 40)["kept"] is None
