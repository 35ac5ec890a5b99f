"""vela: what Arm's compiler estimates of a file that was put together by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ethosu", reason="pip install 'onceforall[vela]'")
pytest.importorskip("ai_edge_litert", reason="pip install 'onceforall[litert]'")
from tflite_files import write_linear

from onceforall.devices import Target, measure, provenance, vela
from onceforall.errors import InputError

IMAGE = torch.zeros((1, 8, 8, 16))
CLASSES, INPUTS = 40, 8 * 16 * 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).integers(-127, 128, (CLASSES, INPUTS)).astype(np.int8)
    write_linear(tmp_path / "n.tflite", weight, np.zeros(CLASSES, np.int32), 8, 16)
    return tmp_path / "n.tflite"


def estimate(file: Path, device: str = "vela", threads: int = 1) -> vela.Estimate:
    return vela.open(file, IMAGE, Target(device, threads, precision="int8"))


def test_an_estimate_and_its_facts(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By hand: random weights hardly compress, so that flash holds about one byte a weight; SRAM at
    least the image, which is a byte a pixel and channel; cycles over the clock are the time, and no
    accelerator of 128 multipliers takes fewer than a 128th of the products."""
    found = estimate(file)
    facts = found.facts
    assert facts["accelerator"] == "Ethos_U55_128"
    assert 0.9 * CLASSES * INPUTS < facts["flash_bytes"] < 2 * CLASSES * INPUTS
    assert INPUTS <= facts["sram_bytes"] < 1_000_000
    assert facts["cycles"] >= CLASSES * INPUTS / 128
    assert found.latency_ms == pytest.approx(1e3 * facts["cycles"] / facts["clock_hz"])
    assert facts["cpu_operators"] == 0
    assert found.times(5.0) == [found.latency_ms]
    assert not "".join(capfd.readouterr())
    assert [p.name for p in file.parent.iterdir()] == ["n.tflite"]


def test_the_name_says_for_which(file: Path) -> None:
    facts = estimate(file, "vela:ethos-u55-32:Ethos_U55_Deep_Embedded:Sram_Only").facts
    told = facts["accelerator"], facts["system"], facts["memory_mode"]
    assert told == ("Ethos_U55_32", "Ethos_U55_Deep_Embedded", "Sram_Only")
    target = Target("vela:ethos-u55-32:Ethos_U55_Deep_Embedded", precision="int8")
    assert str(target) == "vela:ethos-u55-32:Ethos_U55_Deep_Embedded-int8"
    told = provenance(target)
    assert told["estimated"] is True
    assert told["processor"] == "ethos-u55-32 Ethos_U55_Deep_Embedded"
    latency = measure(target, file, (8, 8, 16))
    assert (latency.runs, latency.noise) == (1, None)  # nothing to repeat
    assert estimate(file, "vela:ethos-u55-32").facts["cycles"] >= facts["cycles"] / 4


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("vela:", r"device: 'vela:': it is vela\[:ACCELERATOR"),
        ("vela:a:b:c:d", r"device: 'vela:a:b:c:d': it is vela\[:ACCELERATOR"),
        ("vela:tpu", r"n\.tflite: vela: .*invalid choice: 'tpu' \(choose from 'ethos-u55-32'"),
        ("vela:ethos-u55-64:No", r"n\.tflite: vela: .*--system-config=No"),
    ],
)
def test_names_that_are_not_velas(file: Path, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        estimate(file, device)
    assert "\n" not in str(caught.value)


def test_what_does_not_run_on_the_accelerator(file: Path, tmp_path: Path) -> None:
    floats = tmp_path / "floats.tflite"
    write_linear(floats, np.ones((4, INPUTS), np.float32), np.ones(4, np.float32), 8, 16)
    with pytest.raises(InputError, match=r"none of its 1 operators .*was it written with int8\?"):
        estimate(floats)
    (tmp_path / "text.tflite").write_text("no network")
    with pytest.raises(InputError, match=r"text\.tflite: vela: "):
        estimate(tmp_path / "text.tflite")
    with pytest.raises(InputError, match=r"no\.tflite: no such file"):
        estimate(tmp_path / "no.tflite")
    with pytest.raises(InputError, match="batch: vela estimates one image a run, not 2"):
        vela.open(file, torch.zeros((2, 8, 8, 16)), Target("vela", precision="int8"))
    with pytest.raises(InputError, match="batch: vela runs one image at a time, not 2"):
        Target("vela", batch=2, precision="int8")
    with pytest.raises(InputError, match="precision: vela has int8, not 'fp32'"):
        Target("vela")
    with pytest.raises(InputError, match="threads: vela's accelerators have none; 1, not 2"):
        estimate(file, threads=2)


def test_operators_left_to_the_cpu_are_counted_and_said(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What vela prints of such a file, with the row of one that has none."""
    row = {
        "inference_time": "0.002",
        "accelerator_configuration": "Ethos_U55_128",
        "system_config": "S",
        "memory_mode": "M",
        "core_clock": "1e6",
        "cycles_total": "2000",
        "sram_memory_used": "1.5",
        "dram_memory_used": "0",
        "on_chip_flash_memory_used": "1",
        "off_chip_flash_memory_used": "2",
    }
    printed = "CPU operators = 2 (5.0%)\n   CPU: Softmax = a\n   CPU: Gather = b\n   NPU: Add = c\n"
    found = vela._read(file, row, printed)
    assert found.facts["cpu_operators"] == 2
    assert (found.latency_ms, found.facts["sram_bytes"], found.facts["flash_bytes"]) == (
        2,
        1536,
        3072,
    )
    told = capsys.readouterr().err
    assert told == (
        "vela: 2 operators run on the CPU, whose time is not in the estimate: Gather, Softmax\n"
    )


def test_no_vela_gives_the_command(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs ethos-u-vela: pip install 'onceforall\[vela\]'"):
        estimate(file)


def test_a_compilation_that_hangs_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vela, "SECONDS", 0.001)
    with pytest.raises(InputError, match=r"vela was not done after 0\.001 s"):
        estimate(file)
