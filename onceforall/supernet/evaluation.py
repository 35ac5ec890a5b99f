"""Accuracy of a static network on labelled images.

Knows a network and batches; nothing of archs, supernets or where images come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Accuracy:
    """Shares of images, in percent, whose label is the first, or among the first five."""

    top1: float
    top5: float
    n: int  # images

    @property
    def top1_stderr(self) -> float:
        """Standard error of `top1` from the number of images, percentage points."""
        p = self.top1 / 100
        return 100 * (p * (1 - p) / max(1, self.n)) ** 0.5


@torch.inference_mode()
def evaluate(
    network: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> Accuracy:
    """Runs `network` as it is (in evaluation mode, calibrated) over (images, labels) batches.

    With fewer than five classes, top5 counts all of them.
    """
    n = first = five = 0
    for images, labels in batches:
        logits = network(images)
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.to(labels.device)
        hit = ranked == labels[:, None]
        n += len(labels)
        first += int(hit[:, 0].sum())
        five += int(hit.any(dim=1).sum())
    return Accuracy(100 * first / n if n else 0.0, 100 * five / n if n else 0.0, n)
