"""What a network is trained for and judged by: a loss, and a metric.

Knows outputs and targets, never networks. Both are plain functions of tensors, so that another
task (labels of pixels, boxes) is another value of `Task`, and no other file names a metric. A task
of your own is found in a file, as `my_task.py:segmentation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall import plugins
from onceforall.errors import InputError, choices, suggestion

FIRST = 5  # classes that top-5 looks at; of fewer classes, all of them


@dataclass(frozen=True)
class Metric:
    """A number that says how good outputs are; larger is better.

    Attributes:
        name: in records, JSON and CSV files: "top1".
        label: for people: "top-1".
        unit: "%"; "" for a plain number.
        sums: outputs, targets -> (k,) sums over a batch, where the outputs are and in float64, so
            that sums of batches and of processes may be added up. The first is the number of
            things judged (images, pixels).
        values: total sums -> numbers by name, that of `name` first.
        proportion: whether it is the share, in percent, of the things judged that are right: then
            its standard error follows from their number.
    """

    name: str
    label: str
    unit: str
    sums: Callable[[Tensor, Any], Tensor]
    values: Callable[[Tensor], Mapping[str, float]]
    proportion: bool = False

    def text(self, value: float) -> str:
        """A value for people: "73.20%"."""
        return f"{value:.2f}%" if self.unit == "%" else f"{value:.4g} {self.unit}".rstrip()

    @property
    def difference(self) -> str:
        """The unit of a difference of two values, for people."""
        return "points" if self.unit == "%" else self.unit or f"of {self.label}"


@dataclass(frozen=True)
class Score:
    """The metric of a network on labelled images, and what was found beside it.

    Scores of one metric on different images add up to that on all of them.
    """

    metric: Metric
    values: Mapping[str, float]
    n: int  # things judged
    images: int  # that they are in
    sums: Tensor | None = field(default=None, compare=False, repr=False)  # None: of no images

    @classmethod
    def of(cls, metric: Metric, sums: Tensor | None, images: int) -> Score:
        """The score of total sums, which are waited for; None: of no images, NaN."""
        if sums is None:
            return cls(metric, {metric.name: float("nan")}, 0, 0)
        sums = sums.cpu()
        return cls(metric, metric.values(sums), int(sums[0]), images, sums)

    def __add__(self, other: Score) -> Score:
        if self.sums is None or other.sums is None:
            return other if self.sums is None else self
        return Score.of(self.metric, self.sums + other.sums, self.images + other.images)

    @property
    def value(self) -> float:
        return self.values[self.metric.name]

    @property
    def stderr(self) -> float | None:
        """Standard error of a proportion, from the number of things judged alone, in percentage
        points; None of another metric, whose error that number does not say."""
        if not self.metric.proportion:
            return None
        p = self.value / 100
        return 100 * (max(0.0, p * (1 - p)) / max(1, self.n)) ** 0.5


@dataclass(frozen=True)
class Task:
    """What is minimised in training, and what says how good a network is.

    Attributes:
        name: by which `get` finds it; of one in a file, FILE.py:NAME without the file's folder.
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
    first five. Of soft labels, (N, classes), the heaviest counts."""
    labels = labels.argmax(1) if labels.dim() == 2 else labels
    ranked = logits.topk(min(FIRST, logits.shape[1]), dim=1).indices
    hit = ranked == labels.to(ranked.device, non_blocking=True)[:, None]
    n = torch.full((), len(labels), device=hit.device)
    return torch.stack([n, hit[:, 0].sum(), hit.sum()]).double()


def _shares(sums: Tensor) -> dict[str, float]:
    n, first, five = sums.tolist()
    return {"top1": 100 * first / max(1, n), "top5": 100 * five / max(1, n)}


TOP1 = Metric("top1", "top-1", "%", _hits, _shares, proportion=True)
CLASSIFICATION = Task("classification", labels_loss, TOP1, soft_labels_loss)
USUAL = CLASSIFICATION.name  # where no task is named

_TASKS = {task.name: task for task in (CLASSIFICATION,)}


def get(name: str) -> Task:
    """The task of that name; `FILE.py:NAME` is one in a person's own file, by which it is called.

    Raises:
        InputError: no such task.
    """
    if not plugins.is_file(name):
        if name not in _TASKS:
            raise InputError(
                f"task: {name!r} is not known; there are {choices(_TASKS)}, and FILE.py:NAME for"
                " one in your own file" + suggestion(name, _TASKS)
            )
        return _TASKS[name]
    found = plugins.find("task", "tasks", name, Task)
    if not isinstance(found.value, Task):
        raise InputError(
            f"task: {found.short}: is {type(found.value).__name__}; it must be a Task"
            " (onceforall.supernet.tasks)"
        )
    return replace(found.value, name=found.short)
