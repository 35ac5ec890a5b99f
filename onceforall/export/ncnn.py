"""ncnn's files: layers as text (`.ncnn.param`), weights (`.ncnn.bin`), and what we say of them
(`.ncnn.json`), for which ncnn has no place.

Written by pnnx, in a folder that goes with all else it writes. Weights stay float32 unless fp16 is
asked for; either way ncnn computes in float32 here. A file takes one image at a time. Knows an
`nn.Module` and a path, never an arch or a device.
"""

from __future__ import annotations

import json
import operator
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from onceforall.errors import InputError, MissingExtraError
from onceforall.export.folding import folded
from onceforall.export.refusing import refusing
from onceforall.export.silence import silent
from onceforall.families.layers import SameConv2d
from onceforall.files import read_json, read_text

_NARROW = ("use_fp16", "use_bf16", "use_int8")  # how ncnn's options that round begin
_HEADER = 2  # lines before the layers: a number that marks the format, and how many there are
_CONVERTER_SECONDS = 600.0
_ARITHMETIC = (operator.add, operator.iadd, operator.mul, operator.imul)


def write(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, str],
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> None:
    """Of a network in evaluation mode on the CPU, which may be changed; `in0` (C, H, W) float32 ->
    `out0` (classes, ...). fp16: weights are rounded, and the file has half the size.

    Raises:
        MissingExtraError: no pnnx or no ncnn.
        InputError: it cannot be written, or ncnn lacks a layer of it.
    """
    runtime()
    with TemporaryDirectory() as name:
        folder = Path(name)
        _trace(network, shape, folder / "network.pt")
        _convert(network, shape, folder, half=precision == "fp16")
        _refuse_unknown(network, folder / "network.ncnn.param")
        path.write_bytes((folder / "network.ncnn.param").read_bytes())
        path.with_suffix(".bin").write_bytes((folder / "network.ncnn.bin").read_bytes())
    told = json.dumps({"precision": precision, "facts": dict(facts)}, indent=1)
    path.with_suffix(".json").write_text(told + "\n", encoding="utf-8")


def load(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """What the file computes, in float32: (N, C, H, W) -> outputs, image after image."""
    run = runner(path, threads)
    return lambda x: torch.stack([torch.from_numpy(run(image)) for image in x.cpu().float()])


def runner(path: Path, threads: int) -> Callable[[Tensor], np.ndarray]:
    """(C, H, W) -> (classes, ...): ncnn's network of a file, in float32.

    Raises:
        InputError: ncnn cannot read the file, or run the image.
    """
    ncnn = runtime()
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in dir(net.opt):
        if option.startswith(_NARROW):
            setattr(net.opt, option, False)
    with silent():
        read = [net.load_param(str(path)), net.load_model(str(path.with_suffix(".bin")))]
    if any(read) or not net.input_names() or not net.output_names():
        raise InputError(f"{path}: ncnn cannot read it, or {path.with_suffix('.bin').name}")
    first, last = net.input_names()[0], net.output_names()[-1]

    def run(image: Tensor) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(first, ncnn.Mat(image.contiguous().numpy()))
        status, out = extractor.extract(last)
        if status:
            size = "x".join(str(n) for n in image.shape)
            raise InputError(f"{path}: ncnn cannot run it on an image of {size}")
        return np.array(out)

    return run


def read_facts(path: Path) -> dict[str, str]:
    return read_json(path.with_suffix(".json"))["facts"]


def runtime() -> Any:
    """The package ncnn.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ncnn
    except ModuleNotFoundError:
        raise MissingExtraError("ncnn", "ncnn", "ncnn") from None
    return ncnn


def _trace(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """The TorchScript that pnnx reads. torch.export makes one way and fixed sizes of whatever a
    network does with its input's, which pnnx may reckon wrongly; it takes a second, so that
    networks of modules alone go without."""
    for module in network.modules():
        if isinstance(module, nn.AvgPool2d) and module.padding in (0, (0, 0)):
            module.count_include_pad = False  # ncnn would count what rounding up adds, too
    example = torch.zeros((1, *shape))
    with refusing(network, "ncnn"), torch.no_grad():
        traced = folded(network)
        if not _of_modules(traced):
            traced = torch.export.export(traced, (example,)).module(check_guards=False)
        torch.jit.trace(traced, (example,), check_trace=False).save(str(path))


def _of_modules(network: nn.Module) -> bool:
    """Whether it is modules in a fixed order, and sums and products of what they give."""
    if not isinstance(network, fx.GraphModule):
        return False
    nodes = network.graph.nodes
    plain = all(n.op != "call_method" for n in nodes) and all(
        n.target in _ARITHMETIC for n in nodes if n.op == "call_function"
    )
    return plain and not any(isinstance(m, SameConv2d) for m in network.modules())


def _convert(network: nn.Module, shape: tuple[int, ...], folder: Path, half: bool) -> None:
    """`network.ncnn.param` and `.bin` beside the traced `network.pt`."""
    try:
        import pnnx
    except ModuleNotFoundError:
        raise MissingExtraError("pnnx", "ncnn", "writing ncnn's files") from None
    size = ",".join(str(n) for n in (1, *shape))
    command = [pnnx.EXEC_PATH, "network.pt", f"inputshape=[{size}]f32", f"fp16={int(half)}"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CONVERTER_SECONDS,
            check=False,
        )
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else f"exit status {done.returncode}"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, reason = True, f"not done after {_CONVERTER_SECONDS:.0f} seconds"
    made = [folder / "network.ncnn.param", folder / "network.ncnn.bin"]
    if failed or not all(file.is_file() for file in made):
        raise InputError(f"{type(network).__name__}: cannot be written as ncnn: {reason} (pnnx)")


def _refuse_unknown(network: nn.Module, param: Path) -> None:
    """pnnx passes on what it does not know, and ncnn would not load it."""
    lines = [line.split() for line in read_text(param).splitlines()[_HEADER:]]
    kinds = {words[0] for words in lines if words}
    unknown = sorted(kind for kind in kinds if runtime().layer_to_index(kind) < 0)
    if unknown:
        raise InputError(
            f"{type(network).__name__}: cannot be written as ncnn, which has no layer"
            f" {', '.join(unknown)}"
        )
