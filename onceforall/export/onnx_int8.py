"""An ONNX file in int8: ONNX Runtime's static quantisation, calibrated on images.

Weights have a scale for each channel, activations, uint8, one for each tensor, between the smallest
and the largest number that the images give; written as QuantizeLinear and DequantizeLinear around
the layers, so that other runtimes read the file too.

Weights are int8 where this processor has instructions that add products of uint8 and int8 in 32
bits (VNNI). ONNX Runtime adds pairs of them in 16 bits on other x86 processors, which overflow
(`docs/devices.md`); there the weights of matrix products are uint8. Knows files and images, never a
network.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from onceforall.errors import InputError
from onceforall.export import quiet


def quantise(source: Path, path: Path, facts: Mapping[str, str], calibration: Tensor) -> None:
    """Writes `path`, the network of `source` in int8. `calibration` (N, C, H, W)."""
    quiet.onnxruntime()
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration.cpu().float())

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image[None].numpy()}

    with TemporaryDirectory() as folder:
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            Images(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": _unsigned(onnx.load(prepared))},
        )
        model = onnx.load(quantised)
    used = {node.domain for node in model.graph.node}
    needed = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]  # has all that ONNX Runtime knows
    model.opset_import.extend(needed)
    onnx.helper.set_model_props(model, dict(facts))
    path.write_bytes(model.SerializeToString())


def _unsigned(model: Any) -> dict[str, list[dict[str, Any]]]:
    """The weights that are uint8, as ONNX Runtime is asked for it: those of matrix products."""
    from onnxruntime.quantization import QuantType

    if sums_fit():
        return {}
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        dense = all(a.i == 1 for a in node.attribute if a.name == "group")
        if node.op_type == "Conv" and dense and node.input[1] in weights:
            found[node.input[1]] = [{"quant_type": QuantType.QUInt8, "axis": 0}]
        elif node.op_type in ("Gemm", "MatMul") and node.input[1] in weights:
            found[node.input[1]] = [{"quant_type": QuantType.QUInt8}]
    return found


@cache
def sums_fit() -> bool:
    """Whether ONNX Runtime adds products of uint8 and int8 without overflow on this processor; not
    where an x86 one does not tell."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return True
    told = Path("/proc/cpuinfo")
    flags = told.read_text(encoding="utf-8").split() if told.exists() else []
    return "avx512_vnni" in flags or "avx_vnni" in flags


def is_quantised(path: Path) -> bool:
    """Whether a file has quantised layers; raises InputError where it is none of ONNX."""
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # of protobuf's, or of the system's
        raise InputError(f"{path}: is no ONNX file ({type(error).__name__})") from None
    return any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in graph.node)
