"""ONNX Runtime on a CUDA GPU, by its own kernels or by TensorRT: ONNX files.

Images and outputs stay on the GPU. Where a provider cannot start, ONNX Runtime would run the file
on the CPU and say so on stderr; here it is refused. Knows a file, never a network or an arch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onceforall.devices.onnxruntime_cpu import check_precision
from onceforall.errors import InputError
from onceforall.export import quiet

if TYPE_CHECKING:
    from onceforall.devices import Target

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_OPTIONS = {CUDA: {"use_tf32": "0"}, TENSORRT: {}}  # float32 is float32 (TensorRT decides itself)


def open_on(provider: str, file: Path, example: Tensor, target: Target) -> Callable[[], object]:
    """A call that runs the file once on `example`, (N, C, H, W), and waits for the result.

    Raises:
        InputError: this ONNX Runtime does not have the provider, or it does not start.
    """
    onnxruntime = quiet.onnxruntime()
    check_precision(file, target.precision)
    session = _session(provider, file, target.device)
    image = onnxruntime.OrtValue.ortvalue_from_numpy(example.contiguous().numpy(), "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)
    return Run(session, binding)


@dataclass(frozen=True)
class Run:
    """One run a call."""

    session: Any
    binding: Any
    on_gpu = True

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def _session(provider: str, file: Path, device: str) -> Any:
    onnxruntime = quiet.onnxruntime()
    missing = missing_provider(provider)
    if missing:
        raise InputError(f"device: {device}: {missing}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    rest = [(CUDA, _OPTIONS[CUDA])] if provider == TENSORRT else []  # of what TensorRT lacks
    wanted = [(provider, _OPTIONS[provider]), *rest]
    session = onnxruntime.InferenceSession(str(file), options, providers=wanted)
    if session.get_providers()[0] != provider:
        raise InputError(
            f"device: {device}: {provider} did not start, and ONNX Runtime fell back to"
            f" {session.get_providers()[0]}; are its libraries and the GPU's driver installed?"
        )
    return session


def missing_provider(provider: str) -> str:
    """Why ONNX Runtime cannot be used with a provider; "" where it can."""
    onnxruntime = quiet.onnxruntime()
    there = onnxruntime.get_available_providers()
    if provider in there:
        return ""
    return (
        f"this ONNX Runtime has {', '.join(there)}, not {provider}:"
        " pip install onnxruntime-gpu in the place of onnxruntime"
    )


missing_cuda = partial(missing_provider, CUDA)
missing_tensorrt = partial(missing_provider, TENSORRT)
open_cuda = partial(open_on, CUDA)
open_tensorrt = partial(open_on, TENSORRT)
