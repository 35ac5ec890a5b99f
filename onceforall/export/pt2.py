"""PyTorch's own files of exported programs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from onceforall.errors import InputError
from onceforall.export.refusing import refusing

_EXTRA = "/extra/"  # in the archive's names, before that of a fact


def write(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, str],
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> None:
    """Of a network in evaluation mode on the CPU; there is fp32 alone."""
    with refusing(network, "pt2"):
        program = torch.export.export(
            network,
            (torch.zeros((2, *shape)),),
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )
    torch.export.save(program, path, extra_files=dict(facts))


def load(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """What PyTorch computes from the file, on as many threads as it has at the time."""
    program = module(path)

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return program(x)

    return run


def module(path: Path) -> nn.Module:
    """The program of a file, as a module for the CPU."""
    try:
        return torch.export.load(path).module()
    except Exception as error:  # whatever a damaged archive makes of it
        raise InputError(f"{path}: PyTorch cannot read it ({type(error).__name__})") from None


def read_facts(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.partition(_EXTRA)[2]: archive.read(name).decode()
                for name in archive.namelist()
                if _EXTRA in name
            }
    except zipfile.BadZipFile:
        raise InputError(f"{path}: is no pt2 file") from None
