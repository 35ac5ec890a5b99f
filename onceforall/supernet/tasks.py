"""What a network is trained for and judged by: a loss, and a metric.

Knows outputs and targets, never networks. Both are plain functions of tensors, so that another
task (labels of pixels, boxes) is another value of `Task`, and no other file names a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST = 5  # classes that top-5 looks at; of fewer classes, all of them


@dataclass(frozen=True)
class Metric:
    """A number that says how good outputs are; larger is better.

    Attributes:
        name: in records, JSON and CSV files: "top1".
        label: for people: "top-1".
        unit: "%".
        sums: outputs, targets -> (k,) sums over a batch, where the outputs are and in float64, so
            that sums of batches and of processes may be added up. The first is the number of
            things judged (images, pixels).
        values: total sums -> numbers by name, that of `name` first.
    """

    name: str
    label: str
    unit: str
    sums: Callable[[Tensor, Any], Tensor]
    values: Callable[[Tensor], Mapping[str, float]]


@dataclass(frozen=True)
class Score:
    """The metric of a network on labelled images, and what was found beside it."""

    metric: Metric
    values: Mapping[str, float]
    n: int  # things judged

    @property
    def value(self) -> float:
        return self.values[self.metric.name]

    @property
    def stderr(self) -> float:
        """Standard error of a share in percent, from the number of things judged alone; in the
        unit of the metric."""
        p = self.value / 100
        return 100 * (max(0.0, p * (1 - p)) / max(1, self.n)) ** 0.5


@dataclass(frozen=True)
class Task:
    """What is minimised in training, and what says how good a network is.

    Attributes:
        loss: outputs, targets, share of label smoothing (0 to 1) -> scalar.
        distil: outputs, a teacher's outputs -> scalar.
    """

    name: str
    loss: Callable[[Tensor, Any, float], Tensor]
    metric: Metric
    distil: Callable[[Tensor, Tensor], Tensor]


def labels_loss(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """(N, classes, ...), (N, ...) -> scalar: cross entropy; `smoothing` of the target's mass is
    spread over all classes. With labels of pixels, the mean over them."""
    return F.cross_entropy(outputs, labels, label_smoothing=smoothing)


def soft_labels_loss(outputs: Tensor, teacher: Tensor) -> Tensor:
    """(N, classes, ...), twice -> scalar: cross entropy to the teacher's soft labels (paper,
    section 3.3, "knowledge distillation")."""
    return F.cross_entropy(outputs, teacher.softmax(dim=1))


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, classes), (N,) -> images, those whose label is the first, those where it is among the
    first five."""
    ranked = logits.topk(min(FIRST, logits.shape[1]), dim=1).indices
    hit = ranked == labels.to(ranked.device)[:, None]
    n = torch.full((), len(labels), device=hit.device)
    return torch.stack([n, hit[:, 0].sum(), hit.sum()]).double()


def _shares(sums: Tensor) -> dict[str, float]:
    n, first, five = sums.tolist()
    return {"top1": 100 * first / max(1, n), "top5": 100 * five / max(1, n)}


TOP1 = Metric("top1", "top-1", "%", _hits, _shares)
CLASSIFICATION = Task("classification", labels_loss, TOP1, soft_labels_loss)
