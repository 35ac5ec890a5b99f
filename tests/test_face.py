"""The Python face: a run in ten lines, its front, and reprs that a person can read; and what the
commands say comes next."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from digits_runs import CHANGES
from typer.testing import CliRunner

import onceforall
from onceforall.cli import app
from onceforall.costs import cost_table
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.families.settings import changed
from onceforall.pipeline import Run, budgets_of, front_of, picked, targets_of
from onceforall.predictors import fit_accuracy
from onceforall.records import read_labels
from onceforall.search import Limit, search
from onceforall.supernet import TOP1

FEW: dict[str, Any] = {"samples": 12, "images": 60}


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained for a moment, with a network for a budget, and one by its MACs on another device."""
    folder = shutil.copytree(digits_run, tmp_path_factory.mktemp("runs") / "run")
    opened = onceforall.open_run(str(folder))
    card = opened.specialize(max_latency="5ms", **FEW)
    assert isinstance(card, onceforall.Card)
    assert card.latency_measured_ms <= 5
    (other,) = opened.specialize(max_macs="0.4M", device=["torch-cpu"], **FEW)
    assert (other.name, other.device) == ("0.4M-macs", "torch-cpu")
    assert other.macs <= 400_000
    return opened


def test_the_front_has_a_row_a_network(run: Run) -> None:
    front = run.front()
    assert len(front) == 2
    assert {(row["budget"], row["device"], row["precision"]) for row in front} == {
        ("5ms", "onnxruntime-cpu", "fp32"),
        ("0.4M-macs", "torch-cpu", "fp32"),
    }
    order = [(row["device"], row["latency_measured_ms"]) for row in front]
    assert order == sorted(order)
    best: dict[str, float] = {}
    for row in front:  # faster ones first: another is worth its time where it is better
        card = json.loads(Path(row["card"]).read_text())
        assert card["top1_validation"] == row["top1_validation"]
        assert card["top1_predicted"] == row["top1_predicted"]
        assert Path(row["file"]).is_file()
        before = best.get(row["device"], 0.0)
        assert row["best"] == (row["top1_validation"] > before)
        best[row["device"]] = max(before, row["top1_validation"])
    text = repr(front)
    assert "5ms" in text
    assert "torch-cpu" in text


def test_the_front_is_data_for_pandas(run: Run) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(run.front())
    assert len(frame) == 2
    assert list(frame.columns[:3]) == ["budget", "device", "precision"]
    assert frame["top1_validation"].dtype == float
    assert frame["latency_measured_ms"].min() > 0


def test_a_front_of_nothing_and_of_other_cards(tmp_path: Path) -> None:
    assert front_of(tmp_path, TOP1) == []
    assert repr(front_of(tmp_path, TOP1)) == "no network was delivered yet"
    (tmp_path / "card.json").write_text('{"of": "something else"}')
    assert front_of(tmp_path, TOP1) == []
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(InputError, match=r"card\.json: not JSON"):
        front_of(tmp_path, TOP1)


def test_what_was_delivered_is_found_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(run.folder.rglob("*"))
    again = run.specialize(max_latency="5ms")
    assert (
        again.to_dict().items() <= json.loads(Path(again.folder, "card.json").read_text()).items()
    )
    assert "all was delivered before" in capsys.readouterr().err
    assert sorted(run.folder.rglob("*")) == files


def test_a_delivered_file_that_was_changed_is_refused(run: Run) -> None:
    card = run.specialize(max_latency="5ms")
    path = Path(card.folder) / str(card.file)
    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    try:
        with pytest.raises(InputError, match=r"network.onnx: is not as it was delivered; remove"):
            run.specialize(max_latency="5ms")
        path.unlink()
        with pytest.raises(InputError, match=r"network.onnx: is not as it was delivered; remove"):
            run.specialize(max_latency="5ms")
    finally:
        path.write_bytes(kept)


def test_mistakes_are_named_as_they_were_given(run: Run) -> None:
    with pytest.raises(InputError, match=r"^max_latency: 'soon' is not a number with a unit"):
        run.specialize(max_latency="soon")
    with pytest.raises(InputError, match=r"^max_macs: '5ms' is not a number with a unit"):
        run.specialize(max_macs="5ms")
    with pytest.raises(InputError, match=r"^max_mac: is no limit; .*did you mean 'max_macs'"):
        run.specialize(max_mac="1M")  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"^limits: none given"):
        run.specialize()
    with pytest.raises(InputError, match=r"did you mean 'onnxruntime-cpu'"):
        run.specialize(max_latency=5, device="onnxruntime-cp")
    with pytest.raises(InputError, match=r"^precision: ncnn-cpu has fp32, not 'int8'"):
        run.specialize(max_latency=5, device="ncnn-cpu", precision="int8")
    with pytest.raises(InputError, match="no such run"):
        onceforall.open_run("none")


def test_of_two_precisions_the_better_is_picked(run: Run) -> None:
    """By validation images, of one budget on one device."""
    text = json.loads(Path(run.front()[0]["card"]).read_text())
    card = onceforall.Card(
        name="5ms",
        arch=run.supernet.space.smallest(),
        metric=TOP1,
        predicted=None,
        validation=90.0,
        test=99.0,
        device="onnxruntime-cpu",
        **{name: text[name] for name in ("params", "macs", "peak_activation_bytes")},
        **{name: text[name] for name in ("latency_predicted_ms", "latency_measured_ms")},
    )
    int8 = replace(card, device="onnxruntime-cpu-int8", runs_in="int8", validation=91.0, test=1.0)
    alone = replace(int8, name="6ms")
    assert picked([card, int8, alone]) == [False, True, True]
    assert picked([card, replace(int8, validation=90.0)]) == [True, False]


def test_each_device_has_the_precisions_it_knows() -> None:
    asked = targets_of(["onnxruntime-cpu", "torch-cpu", "torch-cpu"], ["int8", "fp32"])
    assert [str(t) for t in asked] == ["onnxruntime-cpu-int8", "onnxruntime-cpu", "torch-cpu"]
    (alone,) = budgets_of([Target()], limits={"max_macs": "300M"})[Target()]
    assert (alone.macs, alone.latency_ms) == (3e8, None)
    assert [b.latency_ms for b in budgets_of([Target()], ["5us", 2])[Target()]] == [0.005, 2]
    both = [Target(), Target("torch-cpu")]
    of = budgets_of(both, ["torch-cpu=7ms", 2, "onnxruntime-cpu=1ms"], {"max_macs": "1M"})
    assert {t.device: [b.latency_ms for b in budgets] for t, budgets in of.items()} == {
        "onnxruntime-cpu": [2, 1],
        "torch-cpu": [7, 2],
    }
    assert {b.macs for budgets in of.values() for b in budgets} == {1e6}
    with pytest.raises(InputError, match="max_latency: vela=1ms: no such device is asked for"):
        budgets_of(both, ["vela=1ms"])
    with pytest.raises(InputError, match="max_latency: none is for torch-cpu"):
        budgets_of(both, ["onnxruntime-cpu=1ms"])


def test_reprs_are_for_people(run: Run) -> None:
    supernet = run.supernet
    space, family = supernet.space, supernet.family
    labels = read_labels(run.score_file, space, "top1", settings=changed(family))
    predictor = fit_accuracy(labels, unit="%")
    limit = Limit("macs", cost_table(family, "macs"), at_most=4e5)
    found = search(
        space, lambda x: predictor.predict(x).mean, [limit], evaluations=200, method="evolution"
    )
    digits = space.smallest()
    for thing, words in (
        (run, [str(run.folder), "digits", "mbv3_mini"]),
        (supernet, ["SuperNet(MobileNetV3(", "M parameters on cpu"]),
        (family, ["MobileNetV3(Space('mbv3_mini'", "in_channels=1, classes=10"]),
        (space, [f"{space.size:,} archs of 25 genes, 12 to 16 px"]),
        (digits, [f"Arch('{digits}')"]),
        (predictor, ["Accuracy(top1 % of mbv3_mini; held-out rmse", "Kendall tau"]),
        (found, [f"Result('{found.arch}': value ", "macs ", "evolution"]),
        (onceforall.families.get("ofa_mbv3_w1.0"), ["10^20.7 archs of 51 genes"]),
        (onceforall.families.get("ofa_resnet50"), ["ResNet(Space('ofa_resnet50'"]),
        (onceforall.families.get("vit_mini"), ["Elastic(Space('vit_mini'"]),
    ):
        text = repr(thing)
        assert all(word in text for word in words), text
        assert len(text) < 400, text
        assert "\n" not in text
        assert "tensor" not in text.lower()


@pytest.mark.slow
def test_the_docstring_is_a_tour(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every public name is explained in it, and its first lines run as they stand."""
    text = inspect.getdoc(onceforall) or ""
    listed = re.findall(r"^    (\w+) {2,}\w", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(onceforall.__all__) - {"__version__"})
    first = text.split("\n\n")[2]
    code = inspect.cleandoc(text[text.index(first) : text.index("A published supernet")])
    assert len(code.splitlines()) <= 10
    folder = run.folder.parent / "tour"
    folder.mkdir()
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(run.folder)
    monkeypatch.chdir(folder)
    for budget, slack in (("0.05ms", "15ms"), ("0.06ms", "16ms"), ("0.08ms", "18ms")):
        assert budget in code
        code = code.replace(budget, slack)  # met by any machine
    before = len(run.front())
    names: dict[str, Any] = {}
    exec(code.replace("max_latency=", "samples=12, images=60, max_latency="), names)
    assert len(names["cards"]) == 4
    assert len(names["run"].front()) == before + 5


def test_pydoc_shows_all_names() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pydoc", "onceforall"], capture_output=True, text=True, check=True
    )
    assert "What is public here" in done.stdout
    for name in ("class Run", "class Card", "class Arch", "open_run(", "elastic("):
        assert name in done.stdout


def last_line(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None, done.exception
    return str(done.stdout.splitlines()[-1])


def test_each_command_says_what_comes_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = ["--space", run.folder]
    asked = last_line("train", "digits", *CHANGES, "phases.0.steps=2", "--out", "new")
    assert asked == "next: onceforall specialize new --max-latency ..."
    found = last_line("records", "accuracy", run.folder, "--samples", 12)
    fit = f"fit accuracy {run.score_file} --space {run.folder} --out accuracy.npz"
    assert found == f"next: onceforall {fit}"
    found = last_line("records", "latency", run.folder, "--samples", 12)
    times = run.folder / "latency-onnxruntime-cpu.jsonl"
    other = f"fit latency {times} --space {run.folder} --out latency.npz"
    assert found == f"next: onceforall {other}"
    look = f"next: onceforall search --space {run.folder} --accuracy accuracy.npz --limit "
    assert last_line(*fit.split()) == look + "latency=latency.npz:..."
    assert last_line(*other.split()) == look + "latency=latency.npz:..."
    limit = ["--limit", "latency=latency.npz:9ms"]
    best = ["search", *space, "--accuracy", "accuracy.npz", *limit, "--out", "best.json"]
    assert last_line(*best) == "next: onceforall info best.json"
    given = ["--samples", 12, "--images", 60, "--out", "found"]
    found = last_line("specialize", run.folder, "--max-latency", "9ms", *given)
    assert found == f"next: onceforall report {run.folder}"
