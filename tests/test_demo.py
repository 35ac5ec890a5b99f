"""The demo, shortened: everything it promises is there, and agrees with itself."""

import json
from pathlib import Path

import pytest

from onceforall import demo
from onceforall.errors import InputError

SHORT = ["resolutions=[12, 16]", "phases=[{name: all, steps: 30, lr: 0.1, archs: 3,"
         " kernel: 2, depth: 3, expand: 3, rule: sandwich, distil: 1.0}]"]  # fmt: skip


def test_everything_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "SAMPLES", 14)
    result = demo.demo(tmp_path / "out", [3.0, 4.0], "digits", SHORT)
    rows = result["networks"]
    assert [row["name"] for row in rows] == ["smallest", "3ms", "4ms", "largest"]
    for row in rows:
        folder = Path(row["folder"])
        assert {p.name for p in folder.iterdir()} == {
            "card.json",
            "network.onnx",
            "network.safetensors",
        }
        assert json.loads((folder / "card.json").read_text())["top1_test"] == row["top1_test"]
        assert row["max_abs_diff"] < 1e-4
    assert all(row["latency_measured_ms"] <= row["limits"]["latency_ms"] for row in rows[1:3])
    assert rows[0]["params"] < rows[-1]["params"]
    assert Path(result["plot"]).read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == result
    with pytest.raises(InputError, match="holds a run already"):
        demo.demo(tmp_path / "out", [3.0], "digits", SHORT)


def test_without_fashion_mnist_digits_are_used_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(source: object) -> object:
        raise InputError("data: Fashion-MNIST is nowhere")

    monkeypatch.setitem(demo.data._NAMED, "fashion-mnist", absent)
    settings, found = demo._data(None, [])
    assert (settings.data.name, found.name) == ("digits", "digits")
    assert "using scikit-learn's digits instead" in capsys.readouterr().err
