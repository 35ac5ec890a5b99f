"""OpenVINO: its files compute what PyTorch does, in the precision they say, and in silence."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from planned_families import PLANNED, with_statistics
from real_networks import NAMES, real
from torch import Tensor, nn

from onceforall import families
from onceforall.devices import Target, openvino_cpu
from onceforall.errors import InputError, MissingExtraError
from onceforall.export import format_named, onnx, quiet

pytest.importorskip("openvino")
from onceforall.export import openvino

SHAPE = (3, 32, 32)
FORMAT = format_named("openvino")


def pictures(n: int) -> Tensor:
    """Noise of all brightnesses."""
    generator = torch.Generator().manual_seed(n)
    return torch.rand((n, *SHAPE), generator=generator) * torch.rand(
        (n, 3, 1, 1), generator=generator
    )


def tiny(name: str = "mbv3_mini") -> nn.Module:
    torch.manual_seed(0)
    family = families.get(name, classes=5)
    return with_statistics(family.build(family.space.smallest()))


def written(folder: Path, precision: str = "fp32", network: nn.Module | None = None) -> Path:
    """The file of a tiny network, or of another."""
    path = folder / f"{precision}.xml"
    calibration = pictures(8) if precision == "int8" else None
    FORMAT.write(
        network or tiny(), SHAPE, path, {"arch": "x", "mean": "[0.5]"}, precision, calibration
    )
    return path


def share(found: Tensor, expected: Tensor) -> float:
    """Largest difference, of the largest number expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def computed(network: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(x)


@pytest.mark.parametrize("name", PLANNED)
def test_every_family_in_float32(name: str, tmp_path: Path) -> None:
    expected = computed(tiny(name), pictures(3))
    path = written(tmp_path, network=tiny(name))
    assert share(FORMAT.load(path)(pictures(3)), expected) <= 1e-4


def test_weights_stay_float32_and_the_batch_is_free(tmp_path: Path) -> None:
    network = tiny()
    path = written(tmp_path, network=tiny())
    graph = ElementTree.parse(path).getroot()
    constants = [
        layer.find("data") for layer in graph.iter("layer") if layer.get("type") == "Const"
    ]
    kinds = {data.get("element_type") for data in constants if data is not None}
    assert "f32" in kinds
    assert kinds <= {"f32", "i64", "i32"}
    parameters = sum(p.numel() for p in network.parameters())
    norms = sum(
        p.numel()
        for m in network.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    )
    assert FORMAT.files(path)[1].stat().st_size >= 4 * (parameters - norms)
    run = FORMAT.load(path)
    for n in (1, 4):
        assert share(run(pictures(n)), computed(network, pictures(n))) <= 1e-4
    assert FORMAT.read_facts(path) == {"arch": "x", "mean": "[0.5]"}
    assert not [line for line in path.read_text().splitlines() if str(tmp_path) in line]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_has_one_file(precision: str, tmp_path: Path) -> None:
    if precision == "int8":
        pytest.importorskip("nncf")
    digests = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        digests.add(FORMAT.digest(written(tmp_path / folder, precision)))
    assert len(digests) == 1


class Attending(nn.Module):
    """One head over the pixels of a small picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.wanted, self.has = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)  # (N, pixels, channels)
        weights = (self.wanted(x) @ self.has(x).transpose(1, 2)).softmax(dim=-1)
        return self.head((weights @ x).mean(1))


@pytest.mark.parametrize(("make", "nearness"), [(tiny, 0.05), (Attending, 0.25)])
def test_int8_runs_in_int8_and_is_near(
    make: Callable[[], nn.Module], nearness: float, tmp_path: Path
) -> None:
    """The one that attends is small and untrained: 0.16; with SmoothQuant it was 0.9."""
    pytest.importorskip("nncf")
    if make is Attending:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = make().eval()
    path = written(tmp_path, "int8", network)
    expected = computed(network, pictures(8))
    found = FORMAT.load(path)(pictures(8))
    assert 0 < share(found, expected) < nearness
    assert FORMAT.read_facts(path) == {"arch": "x", "mean": "[0.5]"}
    assert openvino_cpu.ran_in(openvino.compile_model(openvino.read_model(path), 1, "f32")) & {
        "i8",
        "u8",
    }


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_networks_classify(name: str, data_dir: Path, tmp_path: Path) -> None:
    """float32 ranks every image as PyTorch does; int8, calibrated on other images, most of them: of
    700, calibrated on 300, it was 90 and 96 of 100, and one hit of 100 was lost. Of the 100 here
    it loses by chance up to three times 3 (the root of the 10 that it ranks otherwise)."""
    pytest.importorskip("nncf")
    given = real(name, data_dir, calibrated=32, scored=100)
    expected = computed(given.network, given.images)
    exact, small = tmp_path / "n.xml", tmp_path / "q.xml"
    FORMAT.write(given.network, given.shape, exact, {})
    FORMAT.write(given.network, given.shape, small, {}, "int8", given.calibration)
    found = FORMAT.load(exact)(given.images)
    assert share(found, expected) <= 1e-4
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert given.hits(expected) >= 55
    ranked = FORMAT.load(small)(given.images)
    assert int((ranked.argmax(1) == expected.argmax(1)).sum()) >= 80
    assert given.hits(ranked) >= given.hits(expected) - 9
    assert FORMAT.bytes(small) < FORMAT.bytes(exact) / 2


def test_float32_is_float32(tmp_path: Path) -> None:
    path = written(tmp_path)
    x = pictures(2)
    call = openvino_cpu.open(path, x, Target("openvino-cpu", batch=2))
    (found,) = call().values()  # type: ignore[attr-defined]
    assert share(torch.from_numpy(found), computed(tiny(), x)) <= 1e-4
    compiled = openvino.compile_model(openvino.read_model(path), 1, "f32")
    assert openvino_cpu.ran_in(compiled) == {"f32"}


def test_threads_and_streams_are_those_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path)
    for threads in (1, 2):
        compiled = openvino.compile_model(openvino.read_model(path), threads, "f32")
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("NUM_STREAMS") == 1


def test_bf16_is_a_choice(tmp_path: Path) -> None:
    path, x = written(tmp_path), pictures(1)
    core = quiet.openvino().Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    (found,) = openvino_cpu.open(path, x, Target("openvino-cpu", precision="bf16"))().values()  # type: ignore[attr-defined]
    assert 1e-4 < share(torch.from_numpy(found), computed(tiny(), x)) < 0.1


def test_bf16_is_refused_where_the_cpu_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)

    core = SimpleNamespace(get_property=lambda *names: ["FP32", "INT8"])
    monkeypatch.setattr(quiet, "openvino", lambda: SimpleNamespace(Core=lambda: core))
    with pytest.raises(InputError, match="precision: this CPU has no bf16"):
        openvino_cpu.open(path, pictures(1), Target("openvino-cpu", precision="bf16"))


def test_an_onnx_file_runs_too(tmp_path: Path) -> None:
    onnx.write(tiny(), SHAPE, tmp_path / "n.onnx", {})
    x = pictures(1)
    (found,) = openvino_cpu.open(tmp_path / "n.onnx", x, Target("openvino-cpu"))().values()  # type: ignore[attr-defined]
    assert share(torch.from_numpy(found), computed(tiny(), x)) <= 1e-4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_profile_has_every_convolution(precision: str, tmp_path: Path) -> None:
    if precision == "int8":
        pytest.importorskip("nncf")
    path = written(tmp_path, precision)
    rows = openvino_cpu.profile(path, pictures(1), Target("openvino-cpu", precision=precision))
    kinds = [kind for _, kind, _ in rows]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in tiny().modules())
    assert sum("Convolution" in kind for kind in kinds) == convolutions
    assert sum(ms for _, _, ms in rows) > 0
    assert min(ms for _, _, ms in rows) >= 0


@pytest.mark.parametrize(
    ("package", "precision", "message"),
    [
        ("openvino", "fp32", r"OpenVINO needs openvino: pip install 'onceforall\[openvino\]'"),
        ("nncf", "int8", r"int8 for OpenVINO needs nncf: pip install 'onceforall\[openvino\]'"),
    ],
)
def test_a_missing_package_is_said_with_the_command(
    package: str, precision: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match=message):
        written(tmp_path, precision)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "calibration", "message"),
    [
        ("int4", None, "precision: openvino has fp32, int8, not 'int4'"),
        ("int8", None, "calibration: int8 needs training images"),
        ("int8", pictures(0), "calibration: int8 needs training images"),
    ],
)
def test_what_cannot_be_written(
    precision: str, calibration: Tensor | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        FORMAT.write(tiny(), SHAPE, tmp_path / "n.xml", {}, precision, calibration)
    assert not list(tmp_path.iterdir())


def rubbish(path: Path) -> None:
    path.write_text("rubbish")


def cut(path: Path) -> None:
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:1000])


def alone(path: Path) -> None:
    path.with_suffix(".bin").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (rubbish, r"fp32\.xml: OpenVINO cannot read it \(No document element"),
        (cut, r"fp32\.xml: OpenVINO cannot read it \(Incorrect weights"),
        (alone, r"fp32\.xml: its weights are in fp32\.bin, which is not beside it"),
    ],
)
def test_damaged_files(
    harm: Callable[[Path], Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    harm(path)
    with pytest.raises(InputError, match=message):
        openvino_cpu.open(path, pictures(1), Target("openvino-cpu"))
    assert capfd.readouterr() == ("", "")


def test_a_file_is_run_in_its_own_precision(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    exact, small = written(tmp_path), written(tmp_path, "int8")
    with pytest.raises(InputError, match=r"fp32\.xml: no layer of it runs in int8"):
        openvino_cpu.open(exact, pictures(1), Target("openvino-cpu", precision="int8"))
    with pytest.raises(InputError, match=r"int8\.xml: is quantised; its precision is int8"):
        openvino_cpu.open(small, pictures(1), Target("openvino-cpu"))
    with pytest.raises(InputError, match=r"images are \[\?,3,32,32\], not 1x1x32x32"):
        openvino_cpu.open(exact, pictures(1)[:, :1], Target("openvino-cpu"))
