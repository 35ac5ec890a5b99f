"""Writes a network in a format, runs the file, and compares it with PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.errors import InputError, choices
from onceforall.export import onnx, pt2
from onceforall.export.facts import texts
from onceforall.files import refuse_existing, write_atomically

FORMATS = {"onnx": ".onnx", "pt2": ".pt2"}
TOLERANCE = 1e-4  # largest difference to PyTorch, as a share of the largest logit


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    format: str
    bytes: int
    max_abs_diff: float  # of the logits, against PyTorch, on the same images


def export(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    format: str = "onnx",
    facts: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Exported:
    """Writes `network` for images of `shape` (C, H, W), any batch size, and runs the file.

    Args:
        facts: written into the file: what whoever runs it must know (classes, mean, std).

    Raises:
        InputError: unknown format, the path exists, or no way is known to write the network.
        RuntimeError: the file does not compute what the network does; it is not kept.
    """
    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not known; there are {choices(FORMATS)}")
    refuse_existing(path, overwrite)
    network = copy.deepcopy(network).cpu().eval()
    write, run = _WRITERS[format]
    found: list[float] = []

    def write_and_check(temporary: Path) -> None:
        write(network, shape, temporary, texts(facts or {}))
        found.append(_difference(network, shape, lambda x: run(temporary, x)))

    write_atomically(path, write_and_check, overwrite=overwrite)
    return Exported(path, format, path.stat().st_size, found[0])


def _difference(
    network: nn.Module, shape: tuple[int, ...], run: Callable[[Tensor], Tensor]
) -> float:
    """Largest difference over batches of 1 and 3 random images.

    Raises:
        RuntimeError: it is more than TOLERANCE of the largest logit.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for n in (1, 3):
        x = torch.randn((n, *shape), generator=generator)
        with torch.inference_mode():
            expected = network(x)
        difference = float((run(x) - expected).abs().max())
        scale = float(expected.abs().max())
        if not difference <= TOLERANCE * max(1.0, scale):
            raise RuntimeError(
                f"the exported file differs from the network by {difference:.3g}"
                f" at logits up to {scale:.3g}"
            )
        worst = max(worst, difference)
    return worst


_WRITERS: dict[str, tuple[Callable[..., None], Callable[[Path, Tensor], Tensor]]] = {
    "onnx": (onnx.write, onnx.run_onnx),
    "pt2": (pt2.write, pt2.run),
}
