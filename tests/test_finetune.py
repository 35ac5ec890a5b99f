"""A network trained further: it starts as it was, learns, is resumed, is a file like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupting import ctrl_c_at
from PIL import Image

from onceforall import cli, data, families
from onceforall.cli import app
from onceforall.data import Data, Source
from onceforall.errors import InputError, Stopped
from onceforall.families.fixed import fixed
from onceforall.pipeline import finetune, finetuning, with_epochs
from onceforall.supernet import checkpoint, load_network, save_network, score
from onceforall.training import Settings, Static, load_settings

HEAD = "classifier.weight", "classifier.bias"
HEAD_EPOCHS = load_settings("finetune").phases[0].epochs
SHORT = ["batch_size=32", "phases.0.epochs=1", "phases.1.epochs=2", "log_steps=4"]


@pytest.fixture(scope="module")
def digits() -> Data:
    """A part of them, so that epochs are short."""
    found = data.load(Source("digits"))
    parts = {"train": 256, "validation": 100, "test": 100}
    few = {part: getattr(found, part).subset(range(n)) for part, n in parts.items()}
    return replace(found, **few)


def small(classes: int = 10, seed: int = 3) -> Static:
    family = families.get("mbv3_mini", in_channels=1, classes=classes, resolutions=[12])
    arch = family.space.smallest()
    network = family.fresh(arch, torch.Generator().manual_seed(seed))
    return Static(network, family, arch)


def settings(*changes: str) -> Settings:
    return load_settings("finetune", ["data.name=digits", "weights=w.pth", *SHORT, *changes])


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_network(run / "network.safetensors")[0].state_dict()


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_leaves_a_network_and_its_scores(tmp_path: Path, digits: Data) -> None:
    given = small()
    before = {n: t.clone() for n, t in given.network.state_dict().items()}
    done = finetune(tmp_path / "run", given, digits, settings("phases.1.epochs=12"))
    assert all(torch.equal(t, before[n]) for n, t in given.network.state_dict().items())
    network, arch, facts = load_network(done.path)
    assert arch == given.arch
    assert facts["data"]["classes"] == list(digits.classes)
    assert facts["task"] == "classification"
    assert done.card["top1_test"] == score(network, 12, digits.test).value > 60  # chance is 10
    assert done.card["top1_validation"] == score(network, 12, digits.validation).value
    assert done.card["test_images"] == len(digits.test)
    assert json.loads((tmp_path / "run" / "card.json").read_text()) == done.card
    assert [x["phase"] for x in lines_of(tmp_path / "run") if x.get("ended")] == ["all"]
    assert "top1_validation" in done.training.metrics
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_it_starts_as_it_was(tmp_path: Path, digits: Data) -> None:
    """At a learning rate of almost nothing the weights stay; the statistics are measured."""
    given = small()
    done = finetune(tmp_path / "run", given, digits, settings("phases.1.lr=1e-12"))
    found, own = weights_of(tmp_path / "run"), given.network.state_dict()
    assert found.keys() == own.keys()
    for name, parameter in given.network.named_parameters():
        torch.testing.assert_close(found[name], parameter, atol=1e-7, rtol=0)
    means = [name for name in own if name.endswith("running_mean")]
    assert means
    assert all(found[name].abs().sum() > 0 and own[name].abs().sum() == 0 for name in means)
    assert done.training.steps == 24  # of 32 of 256 images, two epochs and one of warm-up


def test_of_other_classes_the_last_layer_is_new_and_alone_first(
    tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    given = small(classes=3)
    asked = settings("phases.0.epochs=5", "phases.1.lr=1e-12")
    finetune(tmp_path / "run", given, digits, asked)
    said = capsys.readouterr().err
    assert "classifier.bias: of 3 classes; replaced by a fresh one for 10" in said
    assert [x["phase"] for x in lines_of(tmp_path / "run") if x.get("ended")] == ["head", "all"]
    found = weights_of(tmp_path / "run")
    for name, parameter in given.network.named_parameters():
        if name not in HEAD:  # the first phase leaves it alone, the second moves by almost nothing
            torch.testing.assert_close(found[name], parameter, atol=1e-7, rtol=0)
    assert found["classifier.weight"].shape[0] == 10
    head = checkpoint.load(tmp_path / "run" / "checkpoints" / "phase-0-head.safetensors", "network")
    assert torch.equal(head.tensors["stem.conv.weight"], found["stem.conv.weight"])
    after = lines_of(tmp_path / "run")[-1]["top1_validation"]
    assert after > 15  # by its last layer alone; chance is 10
    with pytest.raises(InputError, match="holds a run already"):
        finetune(tmp_path / "run", given, digits, asked)
    assert capsys.readouterr().err.count("replaced by a fresh one") == 0  # nothing was


def test_as_many_other_classes_are_others(
    tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    given = small()
    own = given.network.state_dict()["classifier.weight"]
    names = [f"garment {i}" for i in range(10)]
    asked = settings("phases.0.lr=1e-12", "phases.1.lr=1e-12")
    finetune(tmp_path / "run", given, digits, asked, classes=names)
    assert "of 10 other classes; replaced by a fresh one for 10" in capsys.readouterr().err
    found = weights_of(tmp_path / "run")["classifier.weight"]
    assert found.shape == own.shape
    assert (found - own).abs().max() > 0.01
    finetune(tmp_path / "same", given, digits, asked, classes=digits.classes)
    found = weights_of(tmp_path / "same")["classifier.weight"]
    torch.testing.assert_close(found, own, atol=1e-7, rtol=0)


def test_resumed_equals_never_stopped(tmp_path: Path, digits: Data) -> None:
    asked, given = settings("dropout=0.2"), small(classes=4)
    finetune(tmp_path / "whole", given, digits, asked)
    with pytest.raises(Stopped, match="--resume goes on"):
        _stopped(tmp_path / "run", given, digits, asked, 14)
    assert not (tmp_path / "run" / "card.json").exists()
    with pytest.raises(InputError, match="holds a run already"):
        finetune(tmp_path / "run", given, digits, asked)
    other = Static(small().network, given.family, given.family.space.largest())
    with pytest.raises(InputError, match=r"step-00000014.safetensors: of mbv3_mini@12/.*, not of"):
        finetune(
            tmp_path / "run",
            other._replace(network=given.family.fresh(other.arch)),
            digits,
            asked,
            resume=True,
        )
    done = finetune(tmp_path / "run", given, digits, asked, resume=True)
    ours, theirs = weights_of(tmp_path / "run"), weights_of(tmp_path / "whole")
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    when = (tmp_path / "run" / "card.json").stat().st_mtime_ns
    assert finetune(tmp_path / "run", given, digits, asked, resume=True) == done
    assert (tmp_path / "run" / "card.json").stat().st_mtime_ns == when


def _stopped(run: Path, given: Static, digits: Data, asked: Settings, step: int) -> None:
    with ctrl_c_at(step):
        finetune(run, given, digits, asked)


def test_a_teacher(tmp_path: Path, digits: Data) -> None:
    """Its outputs are matched, and it is kept as it was."""
    given, teacher = small(), small(seed=8)
    phases = "phases=[{name: all, steps: 4, lr: 0.3, distil: 1.0, labels: 0.0}]"
    finetune(tmp_path / "run", given, digits, settings(phases), teacher=teacher)
    saved, arch, _ = load_network(tmp_path / "run" / "teacher.safetensors")
    assert arch == teacher.arch
    own = teacher.network.state_dict()
    assert all(torch.equal(p, own[n]) for n, p in saved.named_parameters())
    with pytest.raises(InputError, match="phase all: distil: a network by itself has no teacher"):
        finetune(tmp_path / "none", given, digits, settings(phases))
    with pytest.raises(InputError, match="teacher: is of 3 classes, and digits has 10"):
        finetune(tmp_path / "none", given, digits, settings(), teacher=small(classes=3))
    assert not (tmp_path / "none").exists()
    finetune(tmp_path / "both", given, digits, settings("phases.1.epochs=0.1"), teacher=teacher)
    written = json.loads((tmp_path / "both" / "settings.json").read_text())
    assert [(p["name"], p["distil"]) for p in written["phases"]] == [("all", 1.0)]


def test_other_channels(tmp_path: Path, digits: Data) -> None:
    family = families.get("mbv3_mini", in_channels=3, classes=10)
    arch = family.space.smallest()
    given = Static(family.build(arch), family, arch)
    with pytest.raises(InputError, match="have 1 channels, and mbv3_mini takes 3"):
        finetune(tmp_path / "run", given, digits, settings())
    assert not (tmp_path / "run").exists()


def test_epochs_follow_the_number_of_images() -> None:
    for images, asked, expected in (
        (99_999, None, [5, 75]),
        (100_000, None, [5, 25]),
        (10, 2.0, [2, 2]),
    ):
        found = with_epochs(load_settings("finetune"), images, asked)
        assert [p.epochs for p in found.phases] == expected
    assert (finetuning.SHORT, finetuning.LONG) == (25, 75)  # the paper's


def test_a_network_of_no_family(tmp_path: Path, digits: Data) -> None:
    """As one that is read from the authors' net.config: its last layer is made anew, too."""
    plain = families.get("mbv3_mini", in_channels=1, classes=3)
    plan = plain.plan(plain.space.smallest())
    rows = [(name, at.make.__name__, dict(at.settings)) for name, at in plan.items()]
    family = fixed(rows, in_channels=1, classes=3, resolutions=(12,))
    given = Static(family.build(family.arch), family, family.arch)
    done = finetune(tmp_path / "run", given, digits, settings("phases.1.epochs=0.1"))
    network, arch, _ = load_network(done.path)
    assert arch == given.arch
    assert network(torch.zeros(2, 1, 12, 12)).shape == (2, 10)


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["onceforall", *words, "--json"])
    capfd.readouterr()
    cli.main()
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small grey images: dark and bright ones."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 60)):
        (root / name).mkdir()
        for i in range(40):
            pixels = rng.integers(level - 50, level + 50, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_from_a_supernet_to_a_delivered_file(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """On the command line: an arch and a run's folder, other classes; the result is evaluated,
    exported, and trained further itself."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "family: mbv3_mini\nresolutions: [12, 16]\ndata: {name: digits}\nbatch_size: 32\n"
        "phases: [{name: all, steps: 4, lr: 0.1}]\n"
    )
    run = tmp_path / "run"
    _run(["train", str(recipe), "--out", str(run)], monkeypatch, capfd)
    words = ["finetune", "mbv3_mini@16/16:3x2/24:3x2/40:3x2", "--data", str(photos)]
    words += ["--weights", str(run), "batch_size=16", "--epochs", "4"]
    found = _run([*words, "--out", str(tmp_path / "tuned")], monkeypatch, capfd)
    path = found["path"]
    assert found["arch"].startswith("mbv3_mini@16/")
    assert found["top1_test"] > 80  # of two classes that differ in brightness
    written = json.loads((tmp_path / "tuned" / "settings.json").read_text())
    assert [(p["name"], p["epochs"]) for p in written["phases"]] == [("head", 4.0), ("all", 4.0)]
    # grey images, normalised as those that the supernet was trained on
    facts = checkpoint.describe(run / "supernet.safetensors")["data"]
    assert written["data"]["channels"] == 1
    assert written["data"]["mean"] == facts["mean"]
    score = _run(["evaluate", path, "--data", str(photos)], monkeypatch, capfd)
    assert score["n"] == 80  # the whole folder
    assert score["top1"] > 80
    out = tmp_path / "n.onnx"
    assert _run(["export", path, str(out)], monkeypatch, capfd)["max_abs_diff"] < 1e-4
    assert _run(["measure", path, "--rounds", "1"], monkeypatch, capfd)["median_ms"] > 0
    again = ["finetune", path, "--data", str(photos), "batch_size=16", "--epochs", "1"]
    more = _run([*again, "--out", str(tmp_path / "more")], monkeypatch, capfd)
    phases = json.loads((tmp_path / "more" / "settings.json").read_text())["phases"]
    assert [p["name"] for p in phases] == ["all"]  # the classes are its own
    assert more["top1_test"] > 80
    resumed = _run([*again, "--out", str(tmp_path / "more"), "--resume"], monkeypatch, capfd)
    assert resumed == more


def test_under_torchrun(tmp_path: Path, photos: Path) -> None:
    """Two processes: one result, written once."""
    family = families.get("mbv3_mini", in_channels=1, classes=5)
    arch = family.space.smallest()
    save_network(tmp_path / "n.safetensors", family.build(arch), family, arch, {})
    words = ["-m", "onceforall", "finetune", str(tmp_path / "n.safetensors"), "--data", str(photos)]
    words += [
        "--epochs",
        "1",
        "batch_size=16",
        "threads=1",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--standalone"]
    done = subprocess.run(
        [*launch, *words], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(tmp_path / "run" / "network.safetensors")
    assert load_network(tmp_path / "run" / "network.safetensors")[1] == arch


@pytest.mark.parametrize(
    ("change", "epochs"),
    [
        ("phases.1.lr=0.3", (HEAD_EPOCHS, 75)),
        ("phases.0.epochs=3", (3, 75)),
        ("phases.1.epochs=3", (HEAD_EPOCHS, 3)),
        ("seed=1", (HEAD_EPOCHS, 75)),
    ],
)
def test_another_learning_rate_leaves_the_epochs(
    change: str, epochs: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a small set of images, as the recipe follows their number."""
    given = small()
    save_network(path := tmp_path / "n.safetensors", given.network, given.family, given.arch, {})
    asked: list[float | None] = []

    class Asked(Exception):  # noqa: N818
        pass

    def noted(out: Path, given: Static, found: object, settings: Settings, **more: object) -> None:
        asked.extend(phase.epochs for phase in settings.phases)
        raise Asked

    monkeypatch.setattr("onceforall.pipeline.finetune", noted)
    with pytest.raises(Asked):
        app(["finetune", str(path), "--data", "digits", change], standalone_mode=False)
    assert tuple(asked) == epochs


def test_the_recipe_is_not_for_supernets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["onceforall", "train", "finetune", "data.name=digits"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "is for `onceforall finetune NET`" in capfd.readouterr().err
