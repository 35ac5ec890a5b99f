"""How good a static network is on labelled images.

Knows a network, batches and a metric; nothing of archs, supernets or where images come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from onceforall.precision import float32
from onceforall.supernet.tasks import TOP1, Metric, Score


@torch.inference_mode()
def evaluate(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Any]],
    metric: Metric = TOP1,
) -> Score:
    """Runs `network` as it is (in evaluation mode, calibrated) over (images, targets) batches.

    Sums are added up where the outputs are, and waited for once, at the end. A GPU, too, computes
    in float32.
    """
    total: Tensor | None = None
    n = 0
    with float32():
        for images, targets in batches:
            sums = metric.sums(network(images), targets)
            total = sums if total is None else total + sums
            n += len(images)
    return Score.of(metric, total, n)
