"""What a step minimises: for each of its networks a loss, on labels and on a teacher's outputs.

`losses` yields them one by one, so that each network's memory is free again before the next one
is run. Knows a student that is called with images and an arch, never its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from onceforall.space import Arch
from onceforall.supernet.tasks import Task
from onceforall.training.curricula import Phase
from onceforall.training.feed import chunked

Forward = Callable[[Tensor, Arch], Tensor]  # (N, C, R, R) images, arch -> outputs
Divergence = Callable[[Tensor, Tensor], Tensor]  # outputs, a teacher's outputs -> scalar

ALPHAS = (-1.0, 1.0)  # of the adaptive alpha divergence, as its authors chose them
MOST_WEIGHT = 5.0  # of one class in it: larger ones are cut off, likewise


class Loss(NamedTuple):
    """Of one network of a step."""

    arch: Arch
    value: Tensor  # scalar, to be minimised
    outputs: Tensor
    targets: Any  # what the outputs are compared with


@dataclass(frozen=True)
class Objective:
    """What stays the same from step to step.

    Attributes:
        smoothing: share of label smoothing, 0 to 1.
        autocast: makes the context that networks are run in.
        average: the mean of a tensor over all processes.
    """

    task: Task
    smoothing: float
    autocast: Callable[[], AbstractContextManager[Any]]
    average: Callable[[Tensor], Tensor]

    def losses(
        self,
        student: Forward,
        teacher: Callable[[Tensor], Tensor] | None,
        phase: Phase,
        slots: Sequence[Sequence[Arch]],
        images: Tensor,  # (N, C, R, R) at the largest resolution of the step
        targets: Any,  # of a length of N
    ) -> Iterator[Loss]:
        """The losses of a step's networks. The gradient of each must be taken before the next one
        is asked for: in the sandwich the largest teaches as it is."""
        parts = len(slots) if phase.own_images else 1
        batches = list(zip(images.chunk(parts), chunked(targets, parts), strict=True))
        lesson: Tensor | None = None
        for i, candidates in enumerate(slots):
            images, targets = batches[i % parts]
            if phase.distil and (lesson is None or phase.own_images):
                lesson = self._lesson(student, teacher, phase, i, images)
            arch = self._chosen(student, phase, candidates, images, targets)
            with self.autocast():
                outputs = student(at_resolution(images, arch), arch)
            outputs = outputs.float()
            if lesson is None:
                loss = self.task.loss(outputs, targets, self.smoothing)
            else:
                loss = self._taught(phase, outputs, targets, lesson)
            yield Loss(arch, loss, outputs.detach(), targets)
            if phase.rule == "sandwich" and i == 0 and phase.distil:
                lesson = outputs.detach()

    def _taught(self, phase: Phase, outputs: Tensor, targets: Any, lesson: Tensor) -> Tensor:
        """Labels and a teacher, scaled as the authors scale them: to a weight of 2 in all."""
        loss = phase.distil * self._divergence(phase)(outputs, lesson)
        if phase.labels:
            loss = loss + phase.labels * self.task.loss(outputs, targets, self.smoothing)
            return loss * (2 / (phase.labels + phase.distil))
        return loss

    def _divergence(self, phase: Phase) -> Divergence:
        return DIVERGENCES[phase.divergence] or self.task.distil

    @torch.no_grad()
    def _lesson(
        self,
        student: Forward,
        teacher: Callable[[Tensor], Tensor] | None,
        phase: Phase,
        i: int,
        images: Tensor,
    ) -> Tensor | None:
        """What network number `i` of a step is to match beside the labels: the teacher's outputs;
        in the sandwich the largest network's, which itself has no teacher."""
        with self.autocast():
            if phase.rule != "sandwich":
                return None if teacher is None else teacher(images).float()
            return None if i == 0 else student(images, phase.space.largest()).float()

    @torch.no_grad()
    def _chosen(
        self,
        student: Forward,
        phase: Phase,
        candidates: Sequence[Arch],
        images: Tensor,
        targets: Any,
    ) -> Arch:
        """The candidate whose loss on the batch is the best or the worst, the same in all
        processes. (This waits for the device, so that training by it is slower by more than the
        candidates' own time.)"""
        if len(candidates) == 1:
            return candidates[0]
        found = []
        for arch in candidates:
            with self.autocast():
                outputs = student(at_resolution(images, arch), arch)
            found.append(self.task.loss(outputs.float(), targets, 0.0))
        losses = self.average(torch.stack(found))
        return candidates[int(losses.argmin() if phase.attend == "best" else losses.argmax())]


def at_resolution(images: Tensor, arch: Arch) -> Tensor:
    """(N, C, R, R) images made smaller, where an arch of a step wants them so."""
    if images.shape[-1] == arch.resolution:
        return images
    size = (arch.resolution, arch.resolution)
    return functional.interpolate(images, size, mode="bilinear", antialias=True)


def alpha_divergence(outputs: Tensor, teacher: Tensor) -> Tensor:
    """(N, classes) twice -> scalar: for each image the larger of the divergences of two orders
    (Wang et al., 2021, AlphaNet, equation 6), one of which punishes probability that the student
    misses, the other probability that it adds.

    With p of the teacher, q of the student and t = p / q, the divergence of order a has the
    gradient -sum q (t^a / a) d log q, so t^a is taken as a constant, and cut off at MOST_WEIGHT.
    """
    log_q = functional.log_softmax(outputs, dim=1)
    q = log_q.detach().exp()
    p = teacher.softmax(dim=1)
    values, losses = [], []
    for alpha in ALPHAS:
        power = ((p.clamp_min(1e-30).log() - log_q.detach()) * alpha).exp()  # t^a
        weight = power.clamp(max=MOST_WEIGHT)
        losses.append(-(q * weight / alpha * log_q).sum(1))
        if alpha == 1:  # the limit: KL(p || q)
            values.append((p * (p.clamp_min(1e-30).log() - log_q.detach())).sum(1))
        else:
            values.append((q * (weight - 1)).sum(1) / (alpha * (alpha - 1)))
    return torch.where(values[0] > values[1], losses[0], losses[1]).mean()


DIVERGENCES: dict[str, Divergence | None] = {  # None: the task's own
    "cross-entropy": None,
    "alpha": alpha_divergence,
}
