"""OpenVINO's own files: the graph as XML and the weights as numbers beside it.

Made from the ONNX file that `onnx` writes: its converter needs a twentieth of a second for that,
and more than one for the PyTorch module. Weights stay float32. int8 is NNCF's quantisation after
training. Knows an `nn.Module` and a path, never an arch or a device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.errors import InputError, choices
from onceforall.export import onnx, quiet
from onceforall.export.onnx_int8 import sums_fit
from onceforall.export.refusing import refusing

FACTS = "onceforall"  # the section of the file's `rt_info` that has them
FEWEST = 16  # images that biases are corrected by
_READERS = {".xml": "ir", ".onnx": "onnx"}  # of files, by their ending


def write(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, str],
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> None:
    """Of a network in evaluation mode on the CPU, which may be changed; `image` (N, C, H, W)
    float32 -> `logits` (N, classes, ...). `calibration` (N, C, H, W), for int8.

    Raises:
        MissingExtraError: no OpenVINO, or for int8 no NNCF.
        InputError: it cannot be written.
    """
    openvino = quiet.openvino()
    if precision == "int8":
        quiet.nncf()  # missing, it is missed before any work
    with TemporaryDirectory() as folder:
        source = Path(folder) / "network.onnx"
        onnx.write(network, shape, source, {})
        with refusing(network, "OpenVINO IR"):
            model = openvino.convert_model(source)
    if calibration is not None and precision == "int8":
        with refusing(network, "OpenVINO IR in int8"):
            model = _quantised(model, calibration)
    _name(model)
    for key, value in facts.items():
        model.set_rt_info(value, [FACTS, key])
    openvino.save_model(model, path, compress_to_fp16=False)


def load(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """What the file computes, in float32 where it is not quantised: (N, C, H, W) -> outputs."""
    compiled = compile_model(read_model(path), threads, "f32")
    return lambda x: torch.from_numpy(compiled(x.contiguous().cpu().numpy())[0])


def read_facts(path: Path) -> dict[str, str]:
    model = read_model(path)
    return dict(model.get_rt_info(FACTS).value) if model.has_rt_info(FACTS) else {}


def read_model(path: Path) -> Any:
    """A file of OpenVINO's or an ONNX file.

    Raises:
        InputError: there is none that OpenVINO reads.
    """
    quiet.openvino()
    from openvino.frontend import FrontEndManager

    weights = path.with_suffix(".bin")
    if path.suffix not in _READERS:
        raise InputError(f"{path}: OpenVINO is given files ending with {choices(_READERS)}")
    if path.suffix == ".xml" and path.is_file() and not weights.is_file():
        raise InputError(f"{path}: its weights are in {weights.name}, which is not beside it")
    try:  # not `Core.read_model`, which lets all readers print what they think of a bad file
        reader = FrontEndManager().load_by_framework(_READERS[path.suffix])
        return reader.convert(reader.load(str(path)))
    except Exception as error:
        raise InputError(f"{path}: OpenVINO cannot read it ({_last_line(error)})") from None


def compile_model(model: Any, threads: int, precision: str, **more: Any) -> Any:
    """For the CPU, in one stream. `precision` (f32, bf16) is that of all layers that are not
    quantised: left to itself, OpenVINO takes bf16 where the CPU has it."""
    mode = "ACCURACY" if precision == "f32" else "PERFORMANCE"
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "EXECUTION_MODE_HINT": mode,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        **more,
    }
    try:
        return quiet.openvino().Core().compile_model(model, "CPU", settings)
    except Exception as error:
        raise InputError(f"OpenVINO cannot run it on this CPU ({_last_line(error)})") from None


def _name(model: Any) -> None:
    """Names what OpenVINO has numbered anew by its place, so that a network's file is the same each
    time it is written: numbers go on through a process, `Constant_15` becomes `Constant_5887`."""
    for place, op in enumerate(model.get_ordered_ops()):
        kind, name = op.get_type_name(), op.get_friendly_name()
        own = kind == "Constant" or name.startswith(kind)
        if own and re.fullmatch(r"[A-Z][A-Za-z]*_\d+", name):
            op.set_friendly_name(f"{kind}_{place}")


def _last_line(error: Exception) -> str:
    """What is wrong: OpenVINO names first where in its source it was noticed."""
    return next((s for s in map(str.strip, reversed(str(error).splitlines())) if s), "")


def _quantised(model: Any, calibration: Tensor) -> Any:
    """Weights per channel, activations per tensor. Biases are corrected layer by layer, each with
    those before it quantised; NNCF's fast way takes half the time, and leaves the outputs about
    twice as far from float32; on very few images, as for a file that is only timed, there is
    nothing to correct by. Networks with attention keep more of it in float32, and gain
    nothing from the slow way; SmoothQuant, which NNCF would add, ruined one that attends to what
    no norm has scaled."""
    nncf = quiet.nncf()
    attends = any(op.get_type_name() == "Softmax" for op in model.get_ops())
    narrow = None if sums_fit() else nncf.OverflowFix.ENABLE  # seven bits of weights
    more = nncf.AdvancedQuantizationParameters(
        overflow_fix=narrow,
        disable_bias_correction=len(calibration) < FEWEST,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),  # off
    )
    images = nncf.Dataset([image[None].numpy() for image in calibration.cpu().float()])
    return nncf.quantize(
        model,
        images,
        subset_size=len(calibration),
        fast_bias_correction=attends,
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        advanced_parameters=more,
    )
