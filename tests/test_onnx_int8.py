"""ONNX in int8, what ONNX Runtime takes layer by layer, and its GPU devices."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from planned_families import with_statistics
from real_networks import NAMES, real
from torch import Tensor, nn

from onceforall import families
from onceforall.devices import Target, onnxruntime_cpu, onnxruntime_gpu
from onceforall.errors import InputError
from onceforall.export import Opened, format_named, onnx_int8

SHAPE = (3, 32, 32)
FORMAT = format_named("onnx")
FACTS = {"arch": "x", "mean": "[0.5]"}


def pictures(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.rand((n, *SHAPE), generator=generator)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    family = families.get("mbv3_mini", classes=5)
    return with_statistics(family.build(family.space.smallest()))


def written(folder: Path, precision: str) -> Path:
    path = folder / f"{precision}.onnx"
    FORMAT.write(
        tiny(), SHAPE, path, FACTS, precision, pictures(8) if precision == "int8" else None
    )
    return path


def test_int8_is_near_and_says_what_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, "int8")
    with torch.inference_mode():
        expected = tiny()(pictures(4))
    found = FORMAT.load(path)(pictures(4))
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    assert FORMAT.read_facts(path) == FACTS
    assert {opset.domain for opset in onnx.load(path).opset_import} == {""}
    assert FORMAT.bytes(path) < FORMAT.bytes(written(tmp_path, "fp32"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fp32.onnx", "int8.onnx"]


def test_weights_have_a_scale_for_each_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier's, by hand: the largest of each row is 127."""
    monkeypatch.setattr(onnx_int8, "sums_fit", lambda: True)
    network = tiny()
    (linear,) = [m for m in network.modules() if isinstance(m, nn.Linear)]
    weight = linear.weight.detach().numpy()  # (classes, features)
    graph = onnx.load(written(tmp_path, "int8")).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ((found, scale),) = [
        (arrays[node.input[0]], arrays[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in arrays
        and arrays[node.input[0]].shape == weight.shape
    ]
    assert found.dtype == np.int8
    np.testing.assert_allclose(scale, np.abs(weight).max(1) / 127, rtol=1e-5)
    np.testing.assert_array_equal(np.abs(found).max(1), 127)
    assert np.abs(found * scale[:, None] - weight).max() <= scale.max() * 0.51


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_networks_classify_in_int8(name: str, data_dir: Path, tmp_path: Path) -> None:
    """Calibrated on other images, it ranks most as PyTorch does: of 700, 88 and 96 of 100, and one
    hit of 100 was lost. See test_openvino for the bounds."""
    given = real(name, data_dir, calibrated=32, scored=100)
    with torch.inference_mode():
        expected = given.network(given.images)
    path = tmp_path / "q.onnx"
    FORMAT.write(given.network, given.shape, path, {}, "int8", given.calibration)
    found = FORMAT.load(path)(given.images)
    assert int((found.argmax(1) == expected.argmax(1)).sum()) >= 80
    assert given.hits(expected) >= 55
    assert given.hits(found) >= given.hits(expected) - 9


def test_a_file_is_run_in_its_own_precision(tmp_path: Path) -> None:
    exact, small = written(tmp_path, "fp32"), written(tmp_path, "int8")
    x = pictures(1)
    for path, precision in ((exact, "fp32"), (small, "int8")):
        target = Target("onnxruntime-cpu", precision=precision)
        (found,) = onnxruntime_cpu.open(path, x, target)()  # type: ignore[misc]
        np.testing.assert_allclose(found, FORMAT.load(path)(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"int8\.onnx: its precision is int8, not fp32"):
        onnxruntime_cpu.open(small, x, Target("onnxruntime-cpu"))
    with pytest.raises(InputError, match=r"fp32\.onnx: its precision is fp32, not int8"):
        onnxruntime_cpu.open(exact, x, Target("onnxruntime-cpu", precision="int8"))
    (tmp_path / "bad.onnx").write_text("rubbish")
    with pytest.raises(InputError, match=r"bad\.onnx: is no ONNX file"):
        onnxruntime_cpu.open(tmp_path / "bad.onnx", x, Target("onnxruntime-cpu"))


@pytest.mark.parametrize(("precision", "operation"), [("fp32", "Conv"), ("int8", "QLinearConv")])
def test_the_profile_has_every_convolution(precision: str, operation: str, tmp_path: Path) -> None:
    path = written(tmp_path, precision)
    target = Target("onnxruntime-cpu", precision=precision)
    rows = onnxruntime_cpu.profile(path, pictures(1), target)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in tiny().modules())
    assert [op for _, op, _ in rows].count(operation) == convolutions
    assert min(ms for _, _, ms in rows) >= 0
    assert sum(ms for _, _, ms in rows) > 0


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_gpu_device_never_runs_on_the_cpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = {"cuda": onnxruntime_gpu.CUDA, "tensorrt": onnxruntime_gpu.TENSORRT}[name]
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {provider}")
    path, target = written(tmp_path, "fp32"), Target(f"onnxruntime-{name}")
    with pytest.raises(InputError, match=f"not {provider}: pip install onnxruntime-gpu"):
        onnxruntime_gpu.open_on(provider, path, pictures(1), target)
    # one that is built with the provider, on a machine without its libraries
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    with pytest.raises(InputError, match=f"{provider} did not start, .* CPUExecutionProvider"):
        onnxruntime_gpu.open_on(provider, path, pictures(1), target)


@pytest.mark.parametrize("fit", [True, False])
def test_weights_of_products_are_unsigned_where_sums_would_overflow(
    fit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_int8, "sums_fit", lambda: fit)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1),
        torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 4, 5),
    ).eval()
    path = tmp_path / "n.onnx"
    images = torch.randn(4, 3, 4, 4)
    format_named("onnx").write(network, (3, 4, 4), path, {}, "int8", images)
    graph = onnx.load(path).graph
    kinds = {t.name: t.data_type for t in graph.initializer if len(t.dims) > 1}
    unsigned = sum(kind == onnx.TensorProto.UINT8 for kind in kinds.values())
    signed = sum(kind == onnx.TensorProto.INT8 for kind in kinds.values())
    assert (unsigned, signed) == ((0, 3) if fit else (2, 1))
    assert (Opened(path)(images) - network(images)).abs().max() < 0.2
