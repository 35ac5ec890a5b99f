"""LiteRT on this machine's CPU, with its XNNPACK kernels: `.tflite` files.

What is timed is the run itself, as LiteRT's `benchmark_model` does; the images were given before.
Knows a file, never a network or an arch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from onceforall.errors import InputError
from onceforall.export import litert

if TYPE_CHECKING:
    from onceforall.devices import Target


def open(file: Path, example: Tensor, target: Target) -> Callable[[], object]:
    """A call that runs the file once on `example`, (N, C, H, W).

    Raises:
        InputError: the file does not have the target's precision, or takes other images.
    """
    runner = litert.interpreter(file, target.threads, len(example))
    (given,) = runner.get_input_details()
    precision = "int8" if given["dtype"] == np.int8 else "fp32"
    if precision != target.precision:
        raise InputError(f"{file}: its precision is {precision}, not {target.precision}")
    litert.feed(runner, example)
    return runner.invoke
