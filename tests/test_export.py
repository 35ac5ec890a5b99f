"""Exported files: they compute what PyTorch does, say what they are, and are never half there."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from planned_families import PLANNED, with_statistics
from torch import nn

from onceforall import export, families
from onceforall.errors import InputError

SHAPE = (3, 32, 32)
CORE = ("onnx", "pt2")  # formats that need no extra


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("format", CORE)
def test_every_family_in_every_format(name: str, format: str, tmp_path: Path) -> None:
    if format == "pt2" and name != "mbv3_mini":
        pytest.skip("PyTorch's own exporter is checked on one family: it takes seconds a network")
    family = families.get(name, classes=5)
    arch = family.space.random(np.random.default_rng(1))
    network = with_statistics(family.build(arch))
    done = export.export(network, SHAPE, tmp_path / f"n.{format}", format)
    assert done.bytes == (tmp_path / f"n.{format}").stat().st_size > 1000
    assert done.max_abs_diff <= 1e-4


def test_batch_norm_is_folded_and_the_batch_is_free(tmp_path: Path) -> None:
    family = families.get("mbv3_mini")
    network = with_statistics(family.build(family.space.largest()))
    export.to_onnx(network, (3, 28, 28), tmp_path / "n.onnx", {"classes": ["a", "b"], "arch": "x"})
    model = onnx.load(tmp_path / "n.onnx")
    operations = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operations
    assert operations <= {
        "Conv",
        "Relu",
        "HardSwish",
        "HardSigmoid",
        "GlobalAveragePool",
        "Mul",
        "Add",
        "Flatten",
        "Gemm",
        "Identity",
    }
    facts = {p.key: p.value for p in model.metadata_props}
    assert (json.loads(facts["classes"]), facts["arch"]) == (["a", "b"], "x")
    for n in (1, 7):
        x = torch.randn((n, 3, 28, 28))
        found = export.format_named("onnx").load(tmp_path / "n.onnx")(x)
        assert torch.allclose(found, network(x), atol=1e-5)


class Odd(nn.Module):
    """With an operation that the table of operations does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x).mean((2, 3))


class Untraceable(nn.Module):
    """Its way depends on the size of the image: torch.fx cannot trace it, torch.export can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] > 8:
            x = x[:, :, ::2, ::2]
        return self.conv(x).mean((2, 3))


class Scaled(nn.Module):
    """Operations of the table, used in ways that it does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(self.conv(input=x), x, alpha=2).flatten(1)


FACTS = {"classes": ["a", "b"], "mean": [0.5, 0.25], "arch": "x@32/8:3x2"}


@pytest.mark.parametrize("make", [Odd, Untraceable, Scaled])
def test_what_is_beyond_the_table_goes_through_pytorch(
    make: type[nn.Module], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs the file reads the facts in it, whichever exporter wrote it."""
    import onnxruntime

    path = tmp_path / "odd.onnx"
    done = export.export(make(), SHAPE, path, facts=FACTS)
    assert done.max_abs_diff < 1e-5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    assert {k: v if k == "arch" else json.loads(v) for k, v in found.items() if k in FACTS} == FACTS
    onnx.checker.check_model(onnx.load(path))
    assert list(tmp_path.iterdir()) == [path]
    assert not "".join(capfd.readouterr())


class Deciding(nn.Module):
    """Its way depends on the values in the image: no exporter can write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


@pytest.mark.parametrize("format", CORE)
def test_what_no_exporter_can_write_is_one_line(
    format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="Deciding: cannot be written as") as caught:
        export.export(Deciding(), SHAPE, tmp_path / f"n.{format}", format)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.iterdir())
    assert not "".join(capfd.readouterr())


def test_a_network_too_large_for_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onceforall.export.onnx.ONNX_BYTES", 400)
    with pytest.raises(InputError, match=r"Untraceable: its weights take .* holds less than 2"):
        export.export(Untraceable(), SHAPE, tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export.export(network, SHAPE, tmp_path / "n.onnx")
    export.export(network, SHAPE, tmp_path / "n.pt2", "pt2")
    assert all(module.training for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("format", CORE)
@pytest.mark.parametrize("make", [Odd, Untraceable, lambda: nn.Conv2d(3, 4, 32)])
def test_a_network_on_a_gpu(make: Callable[[], nn.Module], format: str, tmp_path: Path) -> None:
    network = nn.Sequential(make(), nn.Flatten()).cuda()
    done = export.export(network, SHAPE, tmp_path / f"n.{format}", format)
    assert done.max_abs_diff < 1e-4
    assert all(parameter.is_cuda for parameter in network.parameters())


def test_operations_beyond_the_table_need_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'onceforall\[export\]'"):
        export.export(Odd(), SHAPE, tmp_path / "odd.onnx")
    assert not list(tmp_path.iterdir())


class Noisy(nn.Module):
    """Computes something else each time: no file can agree with it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * torch.rand(())


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="differs from the network by"):
        export.export(Noisy(), SHAPE, tmp_path / "noisy.onnx")
    assert not list(tmp_path.iterdir())


def test_paths_and_formats_are_checked_first(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_text("mine")
    network = nn.Flatten()
    with pytest.raises(InputError, match="exists already"):
        export.export(network, SHAPE, tmp_path / "n.onnx")
    with pytest.raises(InputError, match="format: 'gguf' is not known; there are onnx, pt2"):
        export.export(network, SHAPE, tmp_path / "m", "gguf")
    with pytest.raises(InputError, match=r"m.bin: the name of an? onnx file ends with .onnx"):
        export.export(network, SHAPE, tmp_path / "m.bin")
    with pytest.raises(InputError, match="precision: pt2 has fp32, not 'int8'"):
        export.export(network, SHAPE, tmp_path / "m.pt2", "pt2", precision="int8")
    with pytest.raises(InputError, match="calibration: int8 needs training images"):
        export.export(network, SHAPE, tmp_path / "m.onnx", precision="int8")
    assert (tmp_path / "n.onnx").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("format", CORE)
def test_a_file_says_what_it_is(format: str, tmp_path: Path) -> None:
    facts = {"arch": "x@8", "classes": ["a", "b"]}
    form = export.format_named(format)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    done = export.export(network, SHAPE, tmp_path / f"n{form.suffix}", format, facts)
    assert form.read_facts(done.path) == {"channels": "3", "arch": "x@8", "classes": '["a", "b"]'}
    assert export.format_of(done.path) == form
    assert done.digest == form.digest(done.path)
    done.path.write_bytes(b"rubbish")
    for use in (form.read_facts, form.load):
        with pytest.raises(InputError, match=re.escape(str(done.path))):
            use(done.path)


def test_agreement_is_a_share_of_the_images(tmp_path: Path) -> None:
    """By hand: calibrated on pixels up to 1, all above are cut to 1 in int8, so that of four images
    the two of 2 and 3, whose class is another above 1.5, are said to be of the first class."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        network[1].bias.copy_(torch.tensor([1.5, 0.0]))
    images = torch.tensor([0.0, 0.5, 2.0, 3.0]).reshape(4, 1, 1, 1)
    few = torch.linspace(0, 1, 9).reshape(9, 1, 1, 1)
    for precision, agreement in (("fp32", 1.0), ("int8", 0.5)):
        done = export.export(
            network,
            (1, 1, 1),
            tmp_path / f"{precision}.onnx",
            precision=precision,
            calibration=few,
            images=images,
        )
        assert done.agreement == agreement
