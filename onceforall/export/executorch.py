"""ExecuTorch's files (`.pte`), with all that XNNPACK can run given to XNNPACK.

A file takes one image at a time, and has facts as a method that returns them. Knows an `nn.Module`
and a path, never an arch or a device.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.export.executorch_int8 import quantised
from onceforall.export.executorch_program import TOLD, Program, runtime, told
from onceforall.export.folding import folded, without_ceilings
from onceforall.export.refusing import refusing


def write(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, str],
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> None:
    """Of a network in evaluation mode on the CPU, which may be changed; (1, C, H, W) float32 ->
    (1, classes, ...). `calibration` (N, C, H, W), for int8.

    Raises:
        MissingExtraError: no ExecuTorch.
        InputError: it cannot be written.
    """
    text = json.dumps({"precision": precision, "facts": dict(facts)})
    images = calibration if precision == "int8" else None
    lowered = _lowered(network, shape, images, {TOLD: text})
    with refusing(network, "ExecuTorch"):
        program = lowered.to_executorch()
    path.write_bytes(program.buffer)


def outside_xnnpack(
    network: nn.Module, shape: tuple[int, ...], calibration: Tensor | None = None
) -> list[str]:
    """Operators that XNNPACK leaves to ExecuTorch's own kernels; with `calibration` in int8."""
    lowered = _lowered(copy.deepcopy(network), shape, calibration, {})
    nodes = [n for n in lowered.exported_program().graph.nodes if n.op == "call_function"]
    names = [str(getattr(node.target, "__name__", node.target)) for node in nodes]
    return [name for name in names if name not in ("executorch_call_delegate", "getitem")]


def _lowered(
    network: nn.Module,
    shape: tuple[int, ...],
    calibration: Tensor | None,
    methods: dict[str, str],
) -> Any:
    runtime()
    with refusing(network, "ExecuTorch"), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        without_ceilings(network, shape)
        module = folded(network)
        if calibration is not None:
            module = quantised(module, shape, calibration)
        program = torch.export.export(module, (torch.zeros((1, *shape)),))
        return to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods=methods
        )


def load(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """What the file computes: (N, C, H, W) float32 -> outputs, image after image."""
    program = Program(path, threads)
    return lambda x: torch.cat([program(image[None]) for image in x.cpu().float()])


def read_facts(path: Path) -> dict[str, str]:
    return told(path).get("facts", {})
