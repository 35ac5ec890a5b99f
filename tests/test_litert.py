"""LiteRT: files put together by hand run as computed by hand; the converter's, where it is here,
as PyTorch; and what is said where something is missing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onceforall import families, interop
from onceforall.data import FileImages, Normalisation, in_order, list_folder
from onceforall.errors import InputError
from onceforall.export import litert, litert_environment

pytest.importorskip("ai_edge_litert", reason="pip install 'onceforall[litert]'")
from tflite_files import SCALES, ZEROS, write_linear

from onceforall.devices import Target, litert_cpu, measure

CONVERTER = pytest.mark.skipif(
    litert_environment.found() is None,
    reason="LiteRT's converter has no environment here: `export --format litert` makes it",
)


def linear(path: Path, int8: bool = False) -> tuple[Tensor, Tensor]:
    """A file of a linear layer; its weight for images as PyTorch has them, (5, 3, 4, 6), and bias,
    as real numbers."""
    rng = np.random.default_rng(0)
    if int8:
        weight = rng.integers(-127, 128, (5, 72)).astype(np.int8)
        bias = rng.integers(-5000, 5000, 5).astype(np.int32)
        real = weight * SCALES["weight"], bias * SCALES["image"] * SCALES["weight"]
    else:
        weight = rng.standard_normal((5, 72)).astype(np.float32)
        bias = rng.standard_normal(5).astype(np.float32)
        real = weight, bias
    write_linear(path, weight, bias, 4, 6)
    nhwc = torch.tensor(real[0], dtype=torch.float32).reshape(5, 4, 6, 3)
    return nhwc.permute(0, 3, 1, 2), torch.tensor(real[1], dtype=torch.float32)


def test_images_go_in_as_pytorch_has_them(tmp_path: Path) -> None:
    weight, bias = linear(tmp_path / "n.tflite")
    x = torch.randn((7, 3, 4, 6))
    found = litert.load(tmp_path / "n.tflite")(x)
    assert torch.allclose(found, x.flatten(1) @ weight.flatten(1).T + bias, atol=1e-4)


def test_int8_goes_in_and_comes_out_in_steps(tmp_path: Path) -> None:
    """By hand: an image is rounded to its step, and the output is within half a step of what the
    rounded image gives; images beyond the range are cut."""
    weight, bias = linear(tmp_path / "n.tflite", int8=True)
    x = torch.randn((7, 3, 4, 6))
    x[0, 0, 0, 0] = 1000.0
    low, high = (SCALES["image"] * (end - ZEROS["image"]) for end in (-128, 127))
    rounded = (x / SCALES["image"]).round() * SCALES["image"]
    expected = rounded.clamp(low, high).flatten(1) @ weight.flatten(1).T + bias
    found = litert.load(tmp_path / "n.tflite")(x)
    low, high = (SCALES["output"] * (end - ZEROS["output"]) for end in (-128, 127))
    assert found.dtype == torch.float32
    assert (found - expected.clamp(low, high)).abs().max() <= SCALES["output"] / 2 + 1e-3
    assert len(found.unique()) > 10


@pytest.mark.parametrize(("precision", "batch"), [("fp32", 1), ("fp32", 3), ("int8", 1)])
def test_the_device_runs_the_file(tmp_path: Path, precision: str, batch: int) -> None:
    path = tmp_path / "n.tflite"
    linear(path, int8=precision == "int8")
    x = torch.randn((batch, 3, 4, 6))
    call = litert_cpu.open(path, x, Target("litert-cpu", batch=batch, precision=precision))
    call()
    runner = call.__self__  # type: ignore[attr-defined]
    assert torch.allclose(litert.result(runner), litert.load(path)(x), atol=1e-5)


def test_a_file_is_measured_without_a_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(litert_environment.SWITCH, "no")
    monkeypatch.setattr(litert_environment, "_WORKERS", [])
    linear(tmp_path / "n.tflite")
    assert measure(Target("litert-cpu"), tmp_path / "n.tflite", (3, 4, 6), 2).median_ms > 0
    with pytest.raises(InputError, match=r"n\.tflite: onnxruntime-cpu opens onnx"):
        measure(Target(), tmp_path / "n.tflite", (3, 4, 6), 2)


def test_what_the_device_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, x = tmp_path / "n.tflite", torch.zeros((1, 3, 4, 6))
    linear(path)
    with pytest.raises(InputError, match=r"n\.tflite: its precision is fp32, not int8"):
        litert_cpu.open(path, x, Target("litert-cpu", precision="int8"))
    with pytest.raises(InputError, match="images: the file takes 1x3x4x6, not 1x3x6x4"):
        litert_cpu.open(path, x.transpose(2, 3), Target("litert-cpu"))
    with pytest.raises(InputError, match=r"no\.tflite: no such file"):
        litert.load(tmp_path / "no.tflite")
    (tmp_path / "text.tflite").write_text("not a network at all")
    with pytest.raises(InputError, match=r"text\.tflite: LiteRT cannot run it") as caught:
        litert.load(tmp_path / "text.tflite")
    assert "\n" not in str(caught.value)
    assert litert.read_facts(path) == litert.read_facts(tmp_path / "text.tflite") == {}
    assert not "".join(capfd.readouterr())


def test_no_runtime_gives_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear(tmp_path / "n.tflite")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(
        InputError, match=r"needs ai-edge-litert: pip install 'onceforall\[litert\]'"
    ):
        litert.load(tmp_path / "n.tflite")


# The converter's environment


@pytest.fixture
def no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONCEFORALL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(litert_environment.SWITCH, raising=False)
    monkeypatch.setattr(litert_environment, "_WORKERS", [])
    return litert_environment.folder()


def write(path: Path) -> None:
    litert.write(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval(), (3, 4, 4), path, {})


def test_who_does_not_want_an_environment_is_not_given_one(
    no_environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert litert_environment.found() is None
    monkeypatch.setenv(litert_environment.SWITCH, "no")
    with pytest.raises(InputError, match=r"needs an environment of its own \(2 GB.*=no refuses"):
        write(tmp_path / "n.tflite")
    assert not no_environment.exists()


PIP = """#!/bin/sh
case "$*" in
*--version*) exit 0 ;;
*) echo "Collecting litert-torch"; echo "ERROR: No space left on device"; exit 1 ;;
esac
"""


@pytest.mark.skipif(os.name == "nt", reason="stands for Python by a shell script")
def test_an_environment_that_cannot_be_made_is_one_line_and_is_gone_on_with(
    no_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Begun before: pip goes on in what is there, and where it fails nothing is called ready."""
    python = no_environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    with pytest.raises(
        InputError, match="cannot be made: ERROR: No space left on device"
    ) as caught:
        write(tmp_path / "n.tflite")
    assert "\n" not in str(caught.value)
    assert "its converter gets an environment of its own, once: 2 GB" in capsys.readouterr().err
    assert python.read_text() == PIP
    assert litert_environment.found() is None


WORKERS = {
    "says nothing": "",
    "ends at once": "import sys; sys.exit('no module litert_torch')",
    "dies at work": "print('{\"ready\": \"x\"}', flush=True); input(); raise SystemExit('killed')",
}


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("says nothing", "ended with status 0: it said nothing"),
        ("ends at once", "ended with status 1: no module litert_torch"),
        ("dies at work", "ended with status 1: killed"),
    ],
)
def test_a_converter_that_dies_is_one_line_and_started_anew(
    worker: str,
    message: str,
    no_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "worker.py").write_text(WORKERS[worker])
    monkeypatch.setattr(litert_environment, "WORKER", tmp_path / "worker.py")
    monkeypatch.setenv(litert_environment.SWITCH, sys.executable)
    for _ in range(2):
        with pytest.raises(InputError, match=f"litert: the converter {message}"):
            write(tmp_path / "n.tflite")
    monkeypatch.setenv(litert_environment.SWITCH, str(tmp_path / "no-python"))
    with pytest.raises(InputError, match=r"ONCEFORALL_LITERT: .*no-python: No such file"):
        write(tmp_path / "n.tflite")


def test_a_process_that_ends_takes_its_converter_along(tmp_path: Path) -> None:
    worker = "print('{\"ready\": \"x\"}', flush=True)\nfor line in __import__('sys').stdin: pass\n"
    (tmp_path / "worker.py").write_text(worker + f"open({str(tmp_path / 'ended')!r}, 'w')")
    code = (
        "from pathlib import Path; from onceforall.export import litert_environment as e;"
        f"e.WORKER = Path({str(tmp_path / 'worker.py')!r})\nwith e.worker(): pass"
    )
    given = {**os.environ, litert_environment.SWITCH: sys.executable}
    assert subprocess.run([sys.executable, "-c", code], env=given, check=False).returncode == 0
    until = time.monotonic() + 20
    while not (tmp_path / "ended").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "ended").exists()


# Files of the converter


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Of the mini family, with statistics of batch norm as its inputs make them."""
    family = families.get("mbv3_mini", classes=5)
    torch.manual_seed(0)
    made = family.build(family.space.smallest())
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        made.train()(images(64))
    return made.eval()


def images(n: int) -> Tensor:
    return torch.randn((n, 3, 32, 32), generator=torch.Generator().manual_seed(n))


@CONVERTER
@pytest.mark.slow
def test_files_of_the_converter(
    network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """fp32 is PyTorch's to 1e-4 of the scale, also with weights in another order of memory; int8
    ranks as PyTorch on most images, and is smaller. Both say what they are."""
    facts = {"arch": "a@32", "classes": '["ä", "b"]'}
    x = images(40)
    with torch.inference_mode():
        expected = network(x)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    litert.write(network, (3, 32, 32), tmp_path / "n.tflite", facts)
    litert.write(network, (3, 32, 32), tmp_path / "q.tflite", facts, "int8", images(100))
    found, steps = (litert.load(tmp_path / f"{n}.tflite")(x) for n in "nq")
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (steps.argmax(1) == expected.argmax(1)).float().mean() >= 0.8
    assert (steps - expected).abs().max() > 0
    sizes = [(tmp_path / f"{n}.tflite").stat().st_size for n in "nq"]
    assert sizes[1] < 0.6 * sizes[0]
    assert (
        litert.read_facts(tmp_path / "n.tflite")
        == litert.read_facts(tmp_path / "q.tflite")
        == facts
    )
    assert not "".join(capfd.readouterr())


class Deciding(nn.Module):
    """Its way depends on the values in the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


class Lacking(nn.Module):
    """An operation that the converter does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.transpose(2, 3)).real.flatten(1)


@CONVERTER
@pytest.mark.slow
@pytest.mark.parametrize("make", [Deciding, Lacking])
def test_what_cannot_be_converted_is_one_line(
    make: type[nn.Module], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=f"{make.__name__}: cannot be written as litert") as caught:
        litert.write(make().eval(), (3, 8, 8), tmp_path / "n.tflite", {})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert not "".join(capfd.readouterr())


@CONVERTER
@pytest.mark.data
@pytest.mark.slow
def test_a_published_network_ranks_real_images_as_pytorch_does(
    data_dir: Path, tmp_path: Path
) -> None:
    """In int8, calibrated on others of the images, it still classifies: it finds the right one of
    the 1000 classes nearly as often."""
    source = data_dir / "proxyless"
    network = interop.read_network(source / "proxyless-w0.3-r176_imagenet.json")
    module = interop.read_weights(source / "proxyless-w0.3-r176_imagenet.pth", *network).eval()
    listed, _ = list_folder(data_dir / "imagenet_samples" / "val")
    half = Normalisation((0.5,) * 3, (0.5,) * 3)
    files = FileImages(listed.paths, listed.labels, half, workers=0)
    mixed = files.subset(np.random.default_rng(0).permutation(len(files))[:300].tolist())
    ((x, y),) = mixed.stream(in_order(300, 300, 176))
    litert.write(module, (3, 176, 176), tmp_path / "n.tflite", {})
    litert.write(module, (3, 176, 176), tmp_path / "q.tflite", {}, "int8", x[200:])
    x, y = x[:200], y[:200]
    with torch.inference_mode():
        expected = module(x)
    found, steps = (litert.load(tmp_path / f"{n}.tflite")(x) for n in "nq")
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(found.argmax(1), expected.argmax(1))
    right, quantised = ((z.argmax(1) == y).float().mean() for z in (expected, steps))
    assert quantised >= right - 0.06
    assert right > 0.5
