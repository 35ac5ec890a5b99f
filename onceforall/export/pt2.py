"""PyTorch's own files of exported programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from onceforall.export.refusing import refusing


def write(network: nn.Module, shape: tuple[int, ...], path: Path, facts: Mapping[str, str]) -> None:
    with refusing(network, "pt2"):
        program = torch.export.export(
            network,
            (torch.zeros((2, *shape)),),
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )
    torch.export.save(program, path, extra_files=dict(facts))


def run(path: Path, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.export.load(path).module()(x)
