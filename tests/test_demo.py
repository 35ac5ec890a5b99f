"""The demo, shortened: everything it promises is there, and agrees with itself."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onceforall import families
from onceforall.costs import cost_tables
from onceforall.data import named
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.pipeline import demonstration
from onceforall.pipeline.limits import Limits
from onceforall.predictors import Prediction
from onceforall.space import Population

SHORT = ["resolutions=[12, 16]", "phases=[{name: all, steps: 30, lr: 0.1, archs: 3,"
         " kernel: 2, depth: 3, expand: 3, rule: sandwich, distil: 1.0}]"]  # fmt: skip


def test_everything_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demonstration, "SAMPLES", 14)
    result = demonstration.demo(tmp_path / "out", [3.0, 4.0], "digits", SHORT)
    rows = result["networks"]
    assert [row["name"] for row in rows] == ["smallest", "3ms", "4ms", "largest"]
    for row in rows:
        folder = Path(row["folder"])
        assert {p.name for p in folder.iterdir()} == {
            "card.json",
            "card.md",
            "network.onnx",
            "network.safetensors",
            "profile.json",
        }
        assert json.loads((folder / "card.json").read_text())["top1_test"] == row["top1_test"]
        assert row["max_abs_diff"] < 1e-4
    assert all(row["latency_measured_ms"] <= row["limits"]["latency_ms"] for row in rows[1:3])
    assert rows[0]["params"] < rows[-1]["params"]
    assert Path(result["plot"]).read_bytes()[:4] == b"\x89PNG"
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert all(json.dumps(row["arch"]) in page for row in rows)
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == result
    with pytest.raises(InputError, match="holds a run already"):
        demonstration.demo(tmp_path / "out", [3.0], "digits", SHORT)


class FromMacs:
    """Predicts a function of the MACs, in millions."""

    def __init__(self, family: Family, of_macs: Callable[[np.ndarray], np.ndarray]) -> None:
        self.macs, self.of_macs = cost_tables(family)["macs"], of_macs

    def predict(self, population: Population) -> Prediction:
        mean = self.of_macs(self.macs(population) / 1e6)
        return Prediction(mean, np.zeros(len(mean)), np.zeros(len(mean), bool))


def test_budgets_are_placed_where_the_score_rises() -> None:
    """By hand: the score rises with latency up to half of its range and no further, so each quarter
    of the rise is a quarter of that half, or the next of the latencies looked at."""
    family = families.get("mbv3_mini", in_channels=1, classes=10, resolutions=(12, 16))
    ends = [family.space.encode([a]) for a in (family.space.smallest(), family.space.largest())]
    latency = FromMacs(family, lambda macs: macs)
    low, high = (float(latency.predict(end).mean[0]) for end in ends)
    knee = low + 0.5 * (high - low)
    score = FromMacs(family, lambda macs: 80 + 10 * np.minimum(macs - low, knee - low))
    evidence = SimpleNamespace(
        supernet=SimpleNamespace(space=family.space),
        risk=1.0,
        score_predictor=score,
        latency_predictor=latency,
    )
    found = demonstration._placed(evidence, low, high)  # type: ignore[arg-type]
    assert len(found) == demonstration.BUDGETS
    asked = np.linspace(low, high, demonstration.FRONT + 1)[1:]
    for share, budget in zip((0.25, 0.5, 0.75), found, strict=True):
        at = asked[asked > low + share * (knee - low)][0]  # search meets it nearly, not exactly
        assert at <= budget <= 1.1 * demonstration.MARGIN * asked[list(asked).index(at) + 1]
    flat = FromMacs(family, lambda macs: 80 - macs)
    evidence.score_predictor = flat
    even = demonstration._placed(evidence, low, high)  # type: ignore[arg-type]
    assert even == [demonstration._rounded_up(low + s * (high - low)) for s in (0.25, 0.5, 0.75)]
    assert [demonstration._rounded_up(v) for v in (0.0331, 0.033, 4.01)] == [0.034, 0.033, 4.1]


def test_budgets_that_would_give_one_network_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: below 3.7 ms there is but "a", which the first budget has; "b" takes more, and
    nothing else is there."""

    def choose(evidence: object, limits: Limits) -> SimpleNamespace:
        assert limits.latency_ms is not None
        return SimpleNamespace(arch="a" if limits.latency_ms < 3.7 else "b")

    def deliver(
        evidence: object, name: str, chosen: SimpleNamespace, out: Path, limits: Limits
    ) -> SimpleNamespace:
        assert out == tmp_path / name
        return SimpleNamespace(arch=chosen.arch, limits=vars(limits))

    monkeypatch.setattr(demonstration, "choose", choose)
    monkeypatch.setattr(demonstration, "deliver", deliver)
    rows: list[Any] = [SimpleNamespace(arch="smallest", limits={})]
    for budget in (3.0, 3.0, 3.1):
        rows.append(demonstration._another(None, budget, rows, 5.0, tmp_path))  # type: ignore[arg-type]
    found = [(row.arch, row.limits["latency_ms"]) for row in rows[1:]]
    # 3 x 1.1 = 3.3, 3.63 -> 3.7; then 4.07 -> 4.1, 4.477 -> 4.5, 4.9247 -> 5, beyond 5: no more
    assert found[:2] == [("a", 3.0), ("b", 3.7)]
    assert found[2][0] == "b"
    assert found[2][1] > 5.0


def test_without_fashion_mnist_digits_are_used_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(source: object) -> object:
        raise InputError("data: Fashion-MNIST is nowhere")

    monkeypatch.setitem(named.NAMED, "fashion-mnist", absent)
    settings, found = demonstration._data(None, [])
    assert (settings.data.name, found.name) == ("digits", "digits")
    assert "using scikit-learn's digits instead" in capsys.readouterr().err
