"""OpenVINO on this machine's CPU: its own files and ONNX files.

A precision is what the multiplying layers ran in, as OpenVINO tells after compiling: a file that
would run in another than was asked for is refused. Knows a file, never a network or an arch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onceforall.errors import InputError
from onceforall.export import quiet
from onceforall.export.openvino import compile_model, read_model

if TYPE_CHECKING:
    from onceforall.devices import Target

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not quantised
_MULTIPLY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")  # layers, by type
_WITHIN = ("undef", "unknown")  # kernels of layers that run as part of others, or not at all
PROFILED = 100  # runs that a profile is the mean of
WARMING = 5  # runs before them


def open(file: Path, example: Tensor, target: Target) -> Callable[[], object]:
    """A call that runs the file once on `example`, (N, C, H, W).

    Raises:
        InputError: the file, or this CPU, does not have the target's precision.
    """
    request = _request(file, example, target)
    return lambda: request.infer(share_outputs=True)


def profile(file: Path, example: Tensor, target: Target) -> list[tuple[str, str, float]]:
    """Of each layer that runs: name, type and milliseconds of one run; in their order. OpenVINO
    counts whole microseconds, on average over all runs since the file was opened: the first ones,
    which take longer, are taken out again."""
    request = _request(file, example, target, PERF_COUNT=True)
    totals = []  # milliseconds of each layer, after some runs and after all
    for more, runs in ((WARMING, WARMING), (PROFILED, WARMING + PROFILED)):
        for _ in range(more):
            request.infer()
        totals.append(
            {
                (layer.node_name, layer.node_type): 1e3 * layer.real_time.total_seconds() * runs
                for layer in request.profiling_info
                if layer.exec_type.partition("_")[0] not in _WITHIN
            }
        )
    first, every = totals
    return [(*layer, max(0.0, every[layer] - first[layer]) / PROFILED) for layer in every]


def ran_in(compiled: Any) -> set[str]:
    """Precisions of the layers that multiply, in OpenVINO's names: f32, bf16, i8, u8 ..."""
    told = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    return {t["runtimePrecision"].value for t in told if t["layerType"].value in _MULTIPLY}


def _request(file: Path, example: Tensor, target: Target, **more: Any) -> Any:
    openvino = quiet.openvino()
    model = read_model(file)
    if target.precision == "bf16" and "BF16" not in openvino.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise InputError("precision: this CPU has no bf16, which OpenVINO would replace by fp32")
    try:
        model.reshape(list(example.shape))
    except RuntimeError:
        given = "x".join(str(n) for n in example.shape)
        raise InputError(f"{file}: images are {model.input().partial_shape}, not {given}") from None
    compiled = compile_model(model, target.threads, _HINTS[target.precision], **more)
    _check(file, target.precision, ran_in(compiled))
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(example.contiguous().numpy(), shared_memory=True))
    return request


def _check(file: Path, precision: str, found: set[str]) -> None:
    quantised = bool(found & {"i8", "u8"})
    if precision == "int8" and not quantised:
        raise InputError(f"{file}: no layer of it runs in int8; was it written with int8?")
    if precision != "int8" and quantised:
        raise InputError(f"{file}: is quantised; its precision is int8, not {precision}")
    if precision == "fp32" and found - {"f32"}:
        raise InputError(f"{file}: runs in {', '.join(sorted(found))}, not in fp32 alone")
    if precision == "bf16" and "bf16" not in found:
        raise InputError(f"{file}: no layer of it runs in bf16")
