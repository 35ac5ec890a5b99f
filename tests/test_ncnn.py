"""ncnn's files: they compute what PyTorch does, and say what they are."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mobile_networks import CLASSES, SHAPE, Deciding, images, parts, photos, trained
from torch import Tensor, nn

from onceforall.errors import InputError
from onceforall.export import ncnn as form
from onceforall.families.layers import SameConv2d

pytest.importorskip("ncnn", reason="pip install 'onceforall[ncnn]'")
pytest.importorskip("pnnx", reason="pip install 'onceforall[ncnn]'")

from onceforall.devices import Target, ncnn_cpu
from onceforall.testing import check_device

FACTS = {"arch": "x@19/8:3x2", "classes": json.dumps(["a", "ä"])}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "network.ncnn.param"
    form.write(parts(), SHAPE, path, FACTS)
    return path


def difference(network: nn.Module, path: Path, x: Tensor) -> float:
    """Between file and network, as a share of the largest output."""
    with torch.no_grad():
        wanted = network(x)
    found = form.load(path)(x)
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("n", [1, 3])
def test_the_file_computes_the_network_for_any_number_of_images(file: Path, n: int) -> None:
    assert difference(parts(), file, images(n, seed=7)) <= 1e-4
    assert form.load(file)(images(n)).shape == (n, CLASSES)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        SameConv2d(4, 4, 3, 2, 4),
        SameConv2d(4, 4, 5, 2),
        nn.Hardswish(),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardsigmoid()),
        nn.Hardsigmoid(),
        nn.ReLU6(),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [8, 9])
def test_layers_at_even_and_odd_sizes(layer: nn.Module, size: int, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer).eval()
    path = tmp_path / "network.ncnn.param"
    form.write(network, (3, size, size), path, {})
    x = 4 * torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(1))
    assert difference(network, path, x) <= 1e-5


def test_weights_are_rounded_only_where_that_is_asked_for(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.ncnn.param"
    form.write(parts(), SHAPE, path, FACTS, "fp16")
    assert 1e-5 < difference(parts(), path, images(3)) < 1e-2
    full, half = (p.with_suffix(".bin").stat().st_size for p in (file, path))
    assert half < 0.6 * full


def test_facts_lie_beside_the_file(file: Path) -> None:
    assert form.read_facts(file) == FACTS
    assert sorted(p.name for p in file.parent.iterdir()) == [
        "network.ncnn.bin",
        "network.ncnn.json",
        "network.ncnn.param",
    ]


def test_the_device_runs_the_file_on_its_threads(file: Path) -> None:
    for threads in (1, 2):
        found = ncnn_cpu.open(file, images(1), Target("ncnn-cpu", threads))()
        with torch.no_grad():
            (wanted,) = parts()(images(1))
        assert (torch.as_tensor(found) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_the_device_keeps_the_contract() -> None:
    check_device(Target("ncnn-cpu", threads=2))


def test_nothing_is_printed_or_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / name for name in ("home", "here", "temporary", "out")]
    for place in places:
        place.mkdir()
    monkeypatch.setenv("HOME", str(places[0]))
    monkeypatch.chdir(places[1])
    monkeypatch.setattr("tempfile.tempdir", str(places[2]))
    form.write(parts(), SHAPE, places[3] / "n.ncnn.param", {})
    form.load(places[3] / "n.ncnn.param", 2)(images(1))
    assert not "".join(capfd.readouterr())
    found = [sorted(file.name for file in place.iterdir()) for place in places]
    assert found == [[], [], [], ["n.ncnn.bin", "n.ncnn.json", "n.ncnn.param"]]


class Odd(nn.Module):
    """With an operation that ncnn does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumprod(x, 1).flatten(1)


def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "n.ncnn.param"
    for network, message in (
        (Deciding(), "Deciding: cannot be written as ncnn: "),
        (Odd(), "Odd: cannot be written as ncnn, which has no layer torch.cumprod"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            form.write(network, SHAPE, path, {})
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert not "".join(capfd.readouterr())


def test_a_converter_that_fails_or_hangs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "pnnx"
    monkeypatch.setattr("pnnx.EXEC_PATH", str(command))
    monkeypatch.setattr(form, "_CONVERTER_SECONDS", 0.2)
    for does, message in (
        ("echo 'too odd' >&2; exit 3", "too odd"),
        ("exit 3", "exit status 3"),
        ("sleep 9", "not done after 0 seconds"),
    ):
        command.write_text(f"#!/bin/sh\n{does}\n")
        command.chmod(0o755)
        with pytest.raises(InputError, match=f"Parts: cannot be written as ncnn: {message}"):
            form.write(parts(), SHAPE, tmp_path / "n.ncnn.param", {})
    assert [file.name for file in tmp_path.iterdir()] == ["pnnx"]


def test_a_file_that_is_broken_or_alone_is_one_line(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, weights = file.read_bytes(), file.with_suffix(".bin").read_bytes()
    path = tmp_path / "n.ncnn.param"
    for param, numbers in (
        (b"", weights),
        (b"rubbish", weights),
        (text[: len(text) // 2], weights),
        (text, b""),
        (text, weights[:100]),
    ):
        path.write_bytes(param)
        path.with_suffix(".bin").write_bytes(numbers)
        with pytest.raises(InputError, match=r"n\.ncnn\.param: ncnn cannot read it"):
            form.load(path)
    assert not "".join(capfd.readouterr())


@pytest.mark.parametrize("package", ["ncnn", "pnnx"])
def test_a_missing_package_gives_the_install_command(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}: pip install 'onceforall\[ncnn\]'"):
        form.write(parts(), SHAPE, tmp_path / "n.ncnn.param", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.data
@pytest.mark.slow
def test_a_published_network_ranks_as_in_pytorch(data_dir: Path, tmp_path: Path) -> None:
    network, size = trained(data_dir)
    x, _ = photos(data_dir, size, range(0, 1000, 20))
    path = tmp_path / "n.ncnn.param"
    with torch.no_grad():
        wanted = network(x)
    form.write(network, (3, size, size), path, {})
    found = form.load(path)(x)
    assert torch.equal(found.argmax(1), wanted.argmax(1))
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
