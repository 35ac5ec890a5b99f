"""The devices, as a table: what each opens, in which precisions, and what must be installed.

A device opens the file of a network and gives a call that runs it once, which is timed: by the
clock of this process (`timing`), or, where the call has a method `times`, by whatever runs it (a
phone, a simulator). Each has a file of its own in this room, imported when it is used; more are
found by the entry point `onceforall.devices`, and a device behind a command is described by a file
(`command`). Knows names and functions, nothing of networks.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points, packages_distributions, version
from typing import Any

from onceforall.devices.description import describe, is_description
from onceforall.errors import InputError, choices, suggestion
from onceforall.export import quiet

MODULE = "module"  # in place of a format: a network in this process


@dataclass(frozen=True)
class Device:
    """Where networks run.

    Attributes:
        formats: it opens, the one it likes best first; "module": a network of this process.
        precisions: it runs networks in. int8 is the file's; another is a way to run a file.
        opens: a function `open(file, example, target)`, or where it is: "package.module:name".
        package: the runtime, whose version its times are of, and `extra`, which brings it.
        here: it runs on this machine, in this process.
        gpu: not on its processor, whose energy alone the system tells.
        batched: it runs several images at once.
        estimated: its times are calculated, not measured.
        facts: of `(target)`: more of what its times are of, in place of this machine's.
        options: its name may go on with `:` and what its file understands.
        ready: says why it cannot be used here, in a few words; None: where its package is there.
    """

    name: str
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    opens: str | Callable[..., Callable[[], object]]
    package: str = ""
    extra: str = ""
    here: bool = True
    gpu: bool = False
    batched: bool = True
    estimated: bool = False
    facts: str | Callable[[Any], dict[str, Any]] | None = None
    ready: str | Callable[[], str] | None = None
    options: bool = False

    def open(self, file: Any, example: Any, target: Any) -> Callable[[], object]:
        """A call that runs a file (or a module) once on `example` (N, C, H, W)."""
        return _found(self.opens)(file, example, target)

    def profile(self, file: Any, example: Any, target: Any) -> list[tuple[str, str, float]]:
        """Name, kind and milliseconds of each layer that runs.

        Raises:
            InputError: it tells no times of layers.
        """
        if isinstance(self.opens, str):
            module = importlib.import_module(self.opens.partition(":")[0])
            if hasattr(module, "profile"):
                return module.profile(file, example, target)
        having = [d.name for d in devices().values() if d.profiles]
        raise InputError(
            f"device: {self.name} does not tell what layers take; {choices(having)} do"
        )

    @property
    def profiles(self) -> bool:
        if not isinstance(self.opens, str) or self.missing():
            return False
        return hasattr(importlib.import_module(self.opens.partition(":")[0]), "profile")

    def missing(self) -> str:
        """Why it cannot be used here; "" where it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"pip install 'onceforall[{self.extra}]'"
        return "" if self.ready is None else _found(self.ready)()

    def told(self, target: Any) -> dict[str, Any]:
        """What its times are of, in place of this machine's processor and runtime."""
        return {} if self.facts is None else _found(self.facts)(target)

    def runtime(self) -> str:
        """Name and version, such as `onnxruntime 1.20.1`."""
        if not self.package:
            return "unknown"
        known = getattr(quiet.imported(self.package), "__version__", None)
        if known is None:
            names = packages_distributions().get(self.package, [])
            return f"{names[0]} {version(names[0])}" if names else f"{self.package} unknown"
        return f"{self.package} {known}"


def _found(function: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


_ROOM = "onceforall.devices"
_OURS = (
    Device(
        "onnxruntime-cpu",
        ("onnx",),
        ("fp32", "int8"),
        f"{_ROOM}.onnxruntime_cpu:open",
        "onnxruntime",
    ),
    Device(  # in int8 CUDA would compute in fp32, and TensorRT has no zero points, as ours have
        "onnxruntime-cuda",
        ("onnx",),
        ("fp32",),
        f"{_ROOM}.onnxruntime_gpu:open_cuda",
        "onnxruntime",
        gpu=True,
        ready=f"{_ROOM}.onnxruntime_gpu:missing_cuda",
    ),
    Device(
        "onnxruntime-tensorrt",
        ("onnx",),
        ("fp32",),
        f"{_ROOM}.onnxruntime_gpu:open_tensorrt",
        "onnxruntime",
        gpu=True,
        ready=f"{_ROOM}.onnxruntime_gpu:missing_tensorrt",
    ),
    Device(
        "openvino-cpu",
        ("openvino", "onnx"),
        ("fp32", "bf16", "int8"),
        f"{_ROOM}.openvino_cpu:open",
        "openvino",
        "openvino",
    ),
    Device(
        "executorch",
        ("executorch",),
        ("fp32", "int8"),
        f"{_ROOM}.executorch:open",
        "executorch",
        "executorch",
        batched=False,
    ),
    Device(
        "ncnn-cpu",
        ("ncnn",),
        ("fp32",),
        f"{_ROOM}.ncnn_cpu:open",
        "ncnn",
        "ncnn",
        batched=False,
    ),
    Device(
        "litert-cpu",
        ("litert",),
        ("fp32", "int8"),
        f"{_ROOM}.litert_cpu:open",
        "ai_edge_litert",
        "litert",
    ),
    Device(
        "vela",
        ("litert",),
        ("int8",),
        f"{_ROOM}.vela:open",
        "ethosu",
        "vela",
        here=False,
        batched=False,
        estimated=True,
        facts=f"{_ROOM}.vela:provenance",
        options=True,
    ),
    Device("torch-cpu", (MODULE, "pt2"), ("fp32", "bf16"), f"{_ROOM}.pytorch:open_cpu", "torch"),
    Device(
        "torch-cpu-compiled",
        (MODULE, "pt2"),
        ("fp32", "bf16"),
        f"{_ROOM}.pytorch:open_cpu_compiled",
        "torch",
        ready=f"{_ROOM}.pytorch:missing_compiler",
    ),
    Device(
        "torch-cuda",
        (MODULE, "pt2"),
        ("fp32", "fp16", "bf16"),
        f"{_ROOM}.pytorch:open_cuda",
        "torch",
        gpu=True,
        ready=f"{_ROOM}.pytorch:missing_cuda",
    ),
    Device(
        "torch-cuda-compiled",
        (MODULE, "pt2"),
        ("fp32", "fp16", "bf16"),
        f"{_ROOM}.pytorch:open_cuda_compiled",
        "torch",
        gpu=True,
        ready=f"{_ROOM}.pytorch:missing_cuda",
    ),
)


@cache
def devices() -> dict[str, Device]:
    """All devices by name, those of plug-ins last."""
    plugins = [plugin.load() for plugin in entry_points(group="onceforall.devices")]
    return {known.name: known for known in (*_OURS, *plugins)}


def names() -> list[str]:
    return list(devices())


@cache
def device_named(name: str) -> Device:
    """The device of a name: one of the table, one with options (`vela:ethos-u55-256`), or one that
    a file describes (`phone.yaml`).

    Raises:
        InputError: there is none of that name.
    """
    if is_description(name):
        given = describe(name)
        return Device(
            f"command:{given.name}",
            given.formats,
            given.precisions,
            f"{_ROOM}.command:open",
            here=False,
            estimated=given.estimated,
            facts=f"{_ROOM}.command:provenance",
        )
    base = devices().get(name.partition(":")[0])
    if base is not None and base.options:
        return replace(base, name=name)
    if name not in devices():
        raise InputError(
            f"device: {name!r} is not known; there are {choices(names())}"
            + suggestion(name, names())
        )
    return devices()[name]
