"""ExecuTorch's files: they compute what PyTorch does, and say what they are."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mobile_networks import CLASSES, SHAPE, Deciding, images, parts, photos, trained

from onceforall.errors import InputError
from onceforall.export import executorch as form

pytest.importorskip("executorch", reason="pip install 'onceforall[executorch]'")

from onceforall.devices import Target
from onceforall.devices import executorch as device
from onceforall.devices.timing import time_calls
from onceforall.export.executorch_program import runtime
from onceforall.testing import check_device

FACTS = {"arch": "x@19/8:3x2", "classes": json.dumps(["a", "ä"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one network in fp32 and in int8."""
    made = tmp_path_factory.mktemp("files")
    form.write(parts(), SHAPE, made / "fp32.pte", FACTS)
    form.write(parts(), SHAPE, made / "int8.pte", FACTS, "int8", images(40))
    return made


def test_the_file_computes_the_network_for_any_number_of_images(folder: Path) -> None:
    run, network = form.load(folder / "fp32.pte"), parts()
    for n in (1, 3):
        with torch.no_grad():
            wanted = network(images(n, seed=7))
        assert run(images(n, seed=7)).shape == (n, CLASSES)
        assert (run(images(n, seed=7)) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_int8_is_near(folder: Path) -> None:
    x = images(50, seed=7)
    with torch.no_grad():
        wanted = parts()(x)
    found = form.load(folder / "int8.pte")(x)
    off = (found - wanted).norm() / (wanted - wanted.mean(0)).norm()
    assert 1e-4 < off < 0.3  # quantised, and no more than that


def test_facts_are_in_the_file(folder: Path) -> None:
    assert form.read_facts(folder / "fp32.pte") == FACTS
    assert form.read_facts(folder / "int8.pte") == FACTS


def test_xnnpack_runs_all_but_poolings_that_round_up() -> None:
    assert form.outside_xnnpack(parts(), SHAPE) == ["aten.avg_pool2d.default"]
    even = (3, 32, 32)  # where it makes no difference
    assert form.outside_xnnpack(parts(), even) == []


def test_programs_with_other_threads_take_turns(folder: Path) -> None:
    x = images(1)
    calls = [
        device.open(folder / "fp32.pte", x, Target("executorch", threads=n)) for n in (1, 2, 1)
    ]
    with torch.no_grad():
        wanted = parts()(x)
    for call, threads in [*zip(calls, (1, 2, 1), strict=True)] * 2:
        with call.stretch():
            assert runtime()._threadpool_get_thread_count() == threads
            assert (call.program(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    found = time_calls(calls, rounds=2, stretch_seconds=0.001)
    assert all(latency.runs >= 6 for latency in found)


def test_the_device_refuses_another_precision_and_other_images(folder: Path) -> None:
    with pytest.raises(InputError, match=r"int8\.pte: its precision is int8, not fp32"):
        device.open(folder / "int8.pte", images(1), Target("executorch"))
    with pytest.raises(InputError, match="images are 1x3x19x19, not 1x3x20x20"):
        device.open(folder / "fp32.pte", torch.zeros((1, 3, 20, 20)), Target("executorch"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_device_keeps_the_contract(precision: str) -> None:
    check_device(Target("executorch", 2, precision=precision))


def test_nothing_is_printed_or_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / name for name in ("home", "here", "out")]
    for place in places:
        place.mkdir()
    monkeypatch.setenv("HOME", str(places[0]))
    monkeypatch.chdir(places[1])
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    x = torch.randn((2, 3, 4, 4))
    form.write(network.eval(), (3, 4, 4), places[2] / "n.pte", {}, "int8", x)
    form.load(places[2] / "n.pte", 2)(x)
    form.load(places[2] / "n.pte", 1)
    assert not "".join(capfd.readouterr())
    assert [[file.name for file in place.iterdir()] for place in places] == [[], [], ["n.pte"]]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Deciding: cannot be written as ExecuTorch") as caught:
        form.write(Deciding(), SHAPE, tmp_path / "n.pte", {})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_of_executorchs_is_one_line(folder: Path, tmp_path: Path) -> None:
    content = (folder / "fp32.pte").read_bytes()
    for bad in (b"", b"rubbish" * 9, content[:200], content[: len(content) // 2]):
        (tmp_path / "bad.pte").write_bytes(bad)
        for use in (form.load, form.read_facts):
            with pytest.raises(InputError, match=r"bad\.pte: ExecuTorch cannot read it") as caught:
                use(tmp_path / "bad.pte")
            assert "\n" not in str(caught.value)


def test_a_missing_runtime_gives_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(InputError, match=r"pip install 'onceforall\[executorch\]'"):
        form.write(parts(), SHAPE, tmp_path / "n.pte", {})


@pytest.mark.data
@pytest.mark.slow
def test_int8_of_a_published_network_still_classifies(data_dir: Path, tmp_path: Path) -> None:
    """Calibrated on 40 real images, scored on 150 of other classes."""
    network, size = trained(data_dir)
    calibration, _ = photos(data_dir, size, range(0, 1000, 25))
    x, labels = photos(data_dir, size, range(1, 1000, 5)[:150])
    path = tmp_path / "n.pte"
    with torch.no_grad():
        wanted = network(x).argmax(1)
    form.write(network, (3, size, size), path, {}, "int8", calibration)
    found = form.load(path)(x).argmax(1)
    assert (found == wanted).float().mean() >= 0.85
    hits, before = (int((ranked == labels).sum()) for ranked in (found, wanted))
    assert hits >= before - 6  # 4 points: of 150 images, chance is 2
    assert before > 75
    assert path.stat().st_size < 0.35 * 4 * sum(
        p.numel() for p in trained(data_dir)[0].parameters()
    )
