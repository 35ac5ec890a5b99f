"""Latencies are collected until a predictor of them is good enough, or the time is over."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from onceforall import devices, families
from onceforall.cli import app
from onceforall.devices import Latency, Target
from onceforall.pipeline import latency_models
from onceforall.pipeline.latency_models import AGREEING, LEAST, collect_until_predicted
from onceforall.records import read_jsonl

FAMILY = families.get("mbv3_mini", in_channels=1, classes=10)


class Stand:
    """A device whose times are those of the networks' weights, with so much noise; its clock goes
    on by a second a network."""

    def __init__(self, patch: pytest.MonkeyPatch, noise: float) -> None:
        self.now, self.noise = 0.0, noise
        self.rng = np.random.default_rng(0)
        patch.setattr(devices, "measure_many", self.measure)
        patch.setattr(time, "monotonic", lambda: self.now)

    def measure(
        self, target: Target, networks: list, rounds: int, visits: int = 1
    ) -> list[Latency]:
        found = []
        for network, (_, side, _) in networks:
            self.now += 1
            count = sum(p.numel() for p in network.parameters() if isinstance(p, torch.Tensor))
            ms = (1e-2 + 1e-8 * count * side**2) * np.exp(self.noise * self.rng.normal())
            found.append(Latency(ms, ms, ms, 9, noise=self.noise))
        return found


def test_it_stops_when_the_error_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stand(monkeypatch, 0.002)
    path = tmp_path / "latency.jsonl"
    done = collect_until_predicted(FAMILY, Target(), path, error=8.0, seconds=10_000)
    assert done.reached
    assert done.report is not None
    assert done.report.mape <= 8.0
    assert done.noise == pytest.approx(0.2)
    assert done.added == done.records == len(read_jsonl(path))
    assert done.records >= LEAST + (AGREEING - 1) * devices.TOGETHER
    assert done.records < 200
    more = collect_until_predicted(FAMILY, Target(), path, error=8.0, seconds=10_000)
    assert more.records == done.records + more.added  # gone on with


def test_it_stops_when_the_time_is_over_and_says_that_it_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Stand(monkeypatch, 0.4)
    done = collect_until_predicted(
        FAMILY, Target(), tmp_path / "latency.jsonl", error=5.0, seconds=100
    )
    assert not done.reached
    assert done.report is not None
    assert done.report.mape > 15
    assert done.seconds <= 100
    assert "s: held-out error" in capsys.readouterr().err
    few = collect_until_predicted(
        FAMILY, Target(), tmp_path / "few.jsonl", error=5.0, seconds=devices.TOGETHER
    )
    assert (few.records, few.report, few.reached) == (devices.TOGETHER, None, False)


def test_the_command_says_whether_the_error_was_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for noise, error, status in ((0.002, 8, 0), (0.4, 5, 1)):
        Stand(monkeypatch, noise)
        path = tmp_path / f"{error}.jsonl"
        asked = f"records latency mbv3_mini --error {error} --seconds 150 --out {path} --json"
        done = CliRunner().invoke(app, asked.split())
        assert done.exit_code == status, done.output
        found = json.loads(done.stdout)
        assert found["reached"] == (status == 0)
        assert found["n"] == len(read_jsonl(path))
        assert (found["mape"] <= error) == found["reached"]
        assert (f"not {error}%" in done.stderr) == (status == 1)


def test_a_space_that_is_measured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stand(monkeypatch, 0.2)
    monkeypatch.setattr(latency_models, "MOST", 40)
    done = collect_until_predicted(
        FAMILY, Target(), tmp_path / "latency.jsonl", error=0.1, seconds=1e6
    )
    assert done.records == 48
