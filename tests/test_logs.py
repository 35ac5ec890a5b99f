"""What a run says of itself: on a terminal, in a file, on TensorBoard."""

import builtins
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from onceforall import data, progress, training
from onceforall.data import Source
from onceforall.errors import InputError
from onceforall.supernet import TOP1
from onceforall.training import Group, load_settings
from onceforall.training.job import Job
from onceforall.training.logs import Log, Meter, Reading
from onceforall.training.loop import note

RECIPE = """
family: mbv3_mini
resolutions: [8, 12]
data: {name: digits}
batch_size: 32
log_steps: 1
phases: [{name: a-phase-with-a-long-name, steps: 3, lr: 0.1}]
"""


def settings(tmp_path: Path, *changes: str) -> training.Settings:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return load_settings(str(path), changes)


def test_what_is_not_training_counts_for_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0])  # made, paused, on again, read
    monkeypatch.setattr("onceforall.training.logs.time.monotonic", lambda: next(clock))
    meter = Meter(TOP1)
    sums = torch.tensor([8.0, 4.0, 8.0])
    meter.add(torch.tensor(1.0), sums, torch.tensor(False), 100)
    with meter.paused():
        pass
    assert meter.read().speed == pytest.approx(100 / 20)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_note_says_all_and_fits(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", settings(tmp_path), data.load(Source("digits")), Group())
    phase = job.curriculum.phases[0]
    reading = Reading(loss=12.3456, metric=73.21, in_a_row=0, skipped=0, speed=123456.7)
    assert "validation" not in note(job, phase, reading)
    job.latest = [93.4, 88.8, 91.0]  # the largest, the smallest, and one at random
    shown = note(job, phase, reading)
    for part in (
        "loss 12.346",
        "top-1 73.2%",
        "validation 88.8 to 93.4%",
        "123,457 images/s",
        "GiB",
    ):
        assert part in shown
    assert len(shown) <= 100


def test_the_bar_fits_and_its_note_is_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar("training", 381_000, 123_456) as shown:
        shown.note("loss 1.234  " + "x" * 150)
        shown.advance()
    drawn = _without_colours(terminal.getvalue()).replace("\r", "\n").split("\n")
    notes = [x for x in drawn if "loss" in x]
    bars = [x for x in drawn if "/381000" in x]
    assert notes
    assert bars
    assert all(x.startswith("loss 1.234") for x in notes)
    assert all(len(x) <= 100 for x in drawn)
    assert "left" in bars[-1]


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_lines_of_json(tmp_path: Path) -> None:
    done = training.train(tmp_path / "run", settings(tmp_path), data.load(Source("digits")))
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    wanted = {"step", "phase", "loss", f"train_{TOP1.name}", "images_per_second", "memory_mb"}
    assert [x["step"] for x in lines] == [1, 2, 3, 3]
    assert all(wanted <= set(x) for x in lines[:3])
    assert {"top1_largest", "top1_smallest"} & set(lines[-1])
    assert done.metrics["loss"] == lines[2]["loss"]


def test_tensorboard_is_missed_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return whole(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    asked = settings(tmp_path, "tensorboard=true")
    with pytest.raises(InputError, match=r"pip install 'onceforall\[tensorboard\]'"):
        training.train(tmp_path / "run", asked, data.load(Source("digits")))
    assert not (tmp_path / "run").exists()


def test_tensorboard(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    asked = settings(tmp_path, "tensorboard=true")
    training.train(tmp_path / "run", asked, data.load(Source("digits")))
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in found.Scalars("loss")] == [1, 2, 3]


def test_what_is_written_goes_on_the_board(tmp_path: Path) -> None:
    """Numbers by name and step; texts do not."""

    class Board:
        def __init__(self) -> None:
            self.found: list[tuple[str, float, int]] = []

        def add_scalar(self, *values: Any) -> None:
            self.found.append(values)

    log = Log(tmp_path)
    log.board = Board()
    log.write({"step": 7, "phase": "a", "loss": 0.5})
    assert log.board.found == [("loss", 0.5, 7)]
