"""How float32 is multiplied on an NVIDIA GPU: as it is, or rounded to TF32, which is faster.

By PyTorch's own choice convolutions are rounded and matrix products are not. Knows PyTorch's
switches, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32(tf32: bool = False) -> Iterator[None]:
    """While the block runs, convolutions and matrix products are both exact, or both in TF32."""
    precision = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
