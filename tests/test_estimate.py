"""Estimates of a run: the arithmetic by hand, and what is measured."""

import json
import sys
from pathlib import Path

import pytest
import torch

from onceforall import cli, data
from onceforall.data import Source
from onceforall.training import Group, load_settings, probing
from onceforall.training.estimate import Links, Plan, Point, Stretch, along, plan, shares
from onceforall.training.job import Job
from onceforall.training.probing import Watch, imagined, measure

RECIPE = """
family: mbv3_mini
resolutions: [8, 12]
data: {name: digits}
batch_size: 16
phases:
  - {name: largest, steps: 4, lr: 0.1}
  - {name: kernel, epochs: 1, lr: 0.1, kernel: 2, distil: 1.0}
  - {name: own, steps: 3, lr: 0.1, archs: 2, kernel: 2, rule: sandwich, distil: 1.0,
     own_images: true}
"""

# 10 ms a step and 1 ms an image; the last backward pass takes a quarter of that.
FEW = Point(2, 0.012, 0.003, 1000.0)
MANY = Point(32, 0.042, 0.0105, 4000.0)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few steps as are timed at all."""
    monkeypatch.setattr(probing, "SECONDS", 0.0)


def stretch(steps: int = 100, gradients: float = 0.0, look: float = 0.0) -> Stretch:
    return Stretch("a", lambda batch: steps, 1, FEW, MANY, gradients, lambda batch: 1, look)


def planned(at: Stretch, devices: int, links: Links | None = None, **options: float) -> Plan:
    found = plan([at], 64, devices, links or Links(), **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_line_through_two_points() -> None:
    seconds = [along(FEW, MANY, n, lambda p: p.seconds) for n in (2, 8, 32, 64)]
    assert seconds == pytest.approx([0.012, 0.018, 0.042, 0.074])
    assert along(FEW, MANY, 64, lambda p: p.memory) == pytest.approx(7200)
    assert along(FEW, FEW, 6, lambda p: p.seconds) == pytest.approx(0.036)
    falling = Point(32, 0.006, 0.0, 0.0)  # noise: more images are not quicker
    assert along(FEW, falling, 64, lambda p: p.seconds) == 0.012


def test_a_ring() -> None:
    links = Links(within=100, between=10)
    assert links.seconds(1e9, 1) == 0
    assert links.seconds(1e9, 2) == pytest.approx(0.01)  # each sends its whole gigabyte once
    assert links.seconds(1e9, 8) == pytest.approx(2 * 7 / 8 * 0.01)
    assert links.seconds(1e9, 64) == pytest.approx(2 * 63 / 64 * 0.1)


def test_one_device_and_the_shares_of_more() -> None:
    one = planned(stretch(), 1)
    assert one.hours == pytest.approx(100 * 0.074 / 3600)
    assert (one.each, one.steps, one.communication, one.validation) == (64, 100, 0, 0)
    assert one.images == pytest.approx(64 / 0.074)
    eight = planned(stretch(), 8, price=3.6)
    assert eight.hours == pytest.approx(100 * 0.018 / 3600)
    assert eight.dollars == pytest.approx(100 * 0.018 / 3600 * 8 * 3.6)
    assert one.dollars is None
    assert eight.memory == pytest.approx(1600)
    assert shares(64, 64, None) is None  # one image has no variance
    assert shares(64, 3, None) is None
    assert plan([stretch()], 64, 64, Links()) is None


def test_only_what_the_last_backward_pass_does_not_cover_delays() -> None:
    """8 images each: the last backward pass takes 4.5 ms; 7/4 of the bytes at 1 GB/s."""
    links = Links(within=1.0)
    hidden = planned(stretch(gradients=2e6), 8, links)  # 3.5 ms
    assert hidden.communication == 0
    late = planned(stretch(gradients=8e6), 8, links)  # 14 ms, so 9.5 of 27.5
    assert late.communication == pytest.approx(9.5 / 27.5)
    assert late.hours == pytest.approx(100 * 0.0275 / 3600)


def test_a_batch_that_grows_with_the_devices() -> None:
    at = Stretch("a", lambda n: 6400 // n, 2, FEW, MANY, 0.0, lambda n: 1, 0.0)
    few, many = (plan([at], 64, n, Links(), each=8) for n in (1, 8))
    assert few is not None
    assert many is not None
    assert (few.steps, many.steps, few.each, many.each) == (800, 100, 8, 8)
    assert many.hours == pytest.approx(100 * 0.018 / 3600)
    assert many.images == pytest.approx(2 * 64 / 0.018)  # two batches a step


def test_validation_is_shared_and_calibration_is_not() -> None:
    found = planned(stretch(look=0.001), 8, calibration=200, validation=801)
    looking = 0.001 * (200 + 101)
    assert found.validation == pytest.approx(looking / (looking + 100 * 0.018))


def test_what_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    settings = load_settings(str(path))
    digits = data.load(Source("digits"))
    largest, kernel, own = measure(settings, digits, Group(), None).stretches
    assert (largest.few.images, largest.many.images) == (2, 16)
    assert [at.steps(16) for at in (largest, kernel, own)] == [4, round(len(digits.train) / 16), 3]
    assert kernel.steps(32) == round(len(digits.train) / 32)
    assert (largest.batches, own.batches) == (1, 2)
    for at in (largest, kernel, own):
        for point in (at.few, at.many):
            assert 0 < point.last_backward < point.seconds
            assert point.memory > 1e7
        assert at.look > 0
    # all parameters of the largest network, and no kernel transforms in the first phase
    job = Job(tmp_path / "none", settings, digits, Group())
    assert isinstance(job.student, torch.nn.Module)
    expected = 4 * sum(p.numel() for p in job.student.network.parameters())  # type: ignore[union-attr]
    assert largest.gradients == expected
    assert kernel.gradients > expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml"]


def test_the_watch_stands_where_gradients_are_averaged() -> None:
    layer = torch.nn.Linear(3, 2)
    watch = Watch(layer, torch.device("cpu"))
    layer(torch.ones(1, 3)).sum().backward()
    watch.last([])
    watch.finish()
    assert watch.sizes == [4 * (6 + 2)]
    assert watch.seconds() >= 0


def test_images_that_are_not_here(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("digits", "/nowhere"))
    settings = load_settings(str(path))
    found = imagined(settings, 6400)
    assert len(found.train) == 6400
    assert [at.steps(16) for at in measure(settings, found, Group(), 4).stretches] == [4, 400, 3]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    words = ["onceforall", "train", "recipe.yaml", "--estimate", "phases.1.steps=2"]
    words += ["phases.1.epochs=null", "--price-per-hour", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    cli.main()
    shown = json.loads(capfd.readouterr().out)
    assert [p["devices"] for p in shown["plans"]] == [1, 8]  # of 16 images, 64 cannot have two
    assert shown["plans"][0]["dollars"] == pytest.approx(2 * shown["plans"][0]["hours"])
    assert [p["steps"] for p in shown["phases"]] == [4, 2, 3]
    monkeypatch.setattr(sys, "argv", [*words, "--per-device", "4", "--bandwidth", "1"])
    cli.main()
    text = capfd.readouterr().out
    assert "each device keeps 4 images" in text
    assert "1 GB/s between all devices" in text
    assert max(map(len, text.splitlines())) <= 110
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_precision_that_was_chosen_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_faster", lambda job: "bf16")
    words = ["onceforall", "train", "recipe.yaml", "--estimate", "precision=auto"]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    assert "bf16 (precision=auto chose it)" in " ".join(capfd.readouterr().out.split())
