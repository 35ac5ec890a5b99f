"""ncnn on this machine's CPU, in float32. Knows a file, never a network or an arch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from onceforall.export.ncnn import runner

if TYPE_CHECKING:
    from onceforall.devices import Target


def open(file: Path, example: Tensor, target: Target) -> Callable[[], object]:
    """A call that runs the file once on `example`, (1, C, H, W)."""
    run = runner(file, target.threads)
    (image,) = example
    return lambda: run(image)
