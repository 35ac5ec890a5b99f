"""The command line: help, one JSON object, one line and the right status for mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import typed

from onceforall.errors import InputError
from onceforall.units import quantity

RECIPE = """
family: mbv3_mini
resolutions: [12, 16]
data: {name: digits}
batch_size: 64
phases:
  - {name: all, steps: 20, lr: 0.1, archs: 3, kernel: 2, depth: 3, expand: 3, rule: sandwich,
     distil: 1.0}
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def answer(*arguments: object, cwd: Path | None = None) -> dict[str, Any]:
    done = typed(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "recipe.yaml").write_text(RECIPE)
    done = answer("train", folder / "recipe.yaml", "seed=1", "--out", folder / "run")
    assert done["steps"] == 20
    return folder / "run"


COMMANDS = [
    "demo", "info", "train", "evaluate", "measure", "export", "records accuracy",
    "records latency", "fit accuracy", "fit latency", "predict", "search", "specialize", "zoo",
    "convert",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = typed(*command.split(), "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "Example" in text
    assert f"onceforall {command}" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv=['onceforall','--help']\n"
        "from onceforall.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy={'torch','numpy','scipy','sklearn','onnx','onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command.split()[0] in done.stdout


def test_info_by_the_numbers() -> None:
    found = answer("info", "ofa_mbv3_w1.0:largest")
    assert round(found["macs"] / 1e6) == 566
    assert found["resolution"] == 224
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"]
    assert sum(layer["params"] for layer in found["layers"]) == found["params"]
    again = answer("info", found["arch"], "--resolution", 128)
    assert again["params"] == found["params"]
    assert again["macs"] < found["macs"]


def test_the_path_of_a_user(trained: Path, tmp_path: Path) -> None:
    """Records, predictors, search, specialise, evaluate, measure, export: by the command line."""
    found = answer("records", "accuracy", trained, "--samples", 14, "--images", 60)
    assert found["n"] == 14
    latency = answer("records", "latency", trained, "--samples", 16)
    assert latency["device"] == "onnxruntime-cpu"
    table = answer("records", "latency", trained, "--blocks", "--out", tmp_path / "blocks.json")
    assert table["n"] > 50
    special = answer(
        "specialize", trained, "--max-latency", "5ms", "--max-macs", "1.1M", "--samples", 14,
        "--images", 60,
    )  # fmt: skip
    (row,) = special["networks"]
    assert row["macs"] <= 1.1e6
    assert row["latency_measured_ms"] <= 5
    network = Path(row["folder"]) / "network.safetensors"
    scored = answer("evaluate", network, "--data", "digits")
    assert scored["top1"] == pytest.approx(row["top1_test"], abs=0.01)
    assert scored["n"] == 360
    timed = answer("measure", network, "--threads", 1)
    assert timed["runs"] > 10
    done = answer("export", network, tmp_path / "n.onnx")
    assert done["bytes"] == (tmp_path / "n.onnx").stat().st_size
    refused = typed("export", network, tmp_path / "n.onnx")
    assert refused.returncode == 2
    assert "exists already" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nothing"], "'nothing' is no file, no published network"),
        (["info", "mbv3_mini:middle"], "after the family comes largest, smallest or random:SEED"),
        (["info", "mbv4:largest"], "family: 'mbv4' is not known; there are autoformer_t"),
        (["info", "mbv3_mini@28/16:3x9/24:3x2/40:3x2"], "stage 1 block 1: expand 9 is not in"),
        (["train", "none.yaml"], "none.yaml: no such file; recipes here"),
        (["train", "small", "phases.0.lr=fast"], "lr: 'fast' is not a number"),
        (["train", "small", "data.name=/none"], "'/none' is neither a folder nor one of"),
        (["measure", "mbv3_mini:smallest", "--device", "tpu"], "device: 'tpu' is not known"),
        (["evaluate", "mbv3_mini:smallest", "--data", "digits"], "has no weights of its own"),
        (["specialize", "none", "--max-latency", "5ms"], "none: no such run"),
        (["specialize", "none", "--max-latency", "soon"], "'soon' is not a number with a unit"),
        (["specialize", "none", "--max-latency", "1MB"], "that fits (us, ms, s, or none)"),
        (["specialize", "none", "--max-macs", "5ms"], "that fits (k, K, M, G, or none)"),
        (["records", "accuracy", "none"], "none: no such run"),
        (["export", "mbv3_mini:smallest", "x.tflite", "--format", "tflite"], "there are onnx, pt2"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = typed(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--near", "5 parsecs"], "--near: '5 parsecs' is not a number with a unit"),
        (["--near", "5ms"], "--near: '5ms' is not a number with a unit that fits (k, K, M, G"),
        (["--near", "1M,-2M"], "--near: '1M,-2M': budgets are above 0"),
        (["--near", "1M", "--by", "joy"], "--by: 'joy' is no file, and no count; there are macs"),
        (["--near", "1M", "--all"], "--near has no use"),
    ],
)
def test_labelling_checks_what_it_is_asked(
    trained: Path, arguments: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "accuracy.jsonl"
    done = typed("records", "accuracy", trained, *arguments, "--out", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not out.exists()


def test_ctrl_c_keeps_a_checkpoint_and_resume_finishes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("steps: 20", "steps: 120"))
    command = [sys.executable, "-m", "onceforall", "train", "recipe.yaml", "--out", "run"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as training:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        training.send_signal(signal.SIGINT)
        _, errors = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    (tmp_path / "short.yaml").write_text(RECIPE.replace("steps: 20", "steps: 120"))
    done = answer("train", "short.yaml", "--out", "run", "--resume", cwd=tmp_path)
    assert done["steps"] == 120


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("20ms", "ms", 20),
        ("1.5s", "ms", 1500),
        ("1.5s", "us", 1.5e6),
        ("20ms", "s", 0.02),
        ("20ms", None, 20),
        ("300M", "MACs", 3e8),
        ("300k", "parameters", 3e5),
        ("256KiB", "bytes", 2**18),
        ("2M", "bytes", 2e6),
        ("2M", None, 2e6),
        ("75%", "%", 75),
        ("7", "joule", 7),
        ("7", "s", 7),
    ],
)
def test_quantities(text: str, unit: str | None, value: float) -> None:
    assert quantity("x", text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "unit"),
    [(text, None) for text in ("", "ms", "5 parsecs", "nan", "1e999", "--3")]
    + [("5ms", "MACs"), ("1MB", "ms"), ("1M", "ms"), ("1MB", "parameters"), ("5ms", "bytes")]
    + [("5ms", "%"), ("75%", "ms"), ("1kB", "joule")],
)
def test_bad_quantities(text: str, unit: str | None) -> None:
    with pytest.raises(InputError, match=r"is not a (finite )?number"):
        quantity("x", text, unit)
