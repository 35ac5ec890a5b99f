"""The batches of a run, from any step on: which images, at which size, augmented how.

Everything is a function of (seed, step, rank), so that a run that was stopped goes on with the
batches it would have had. Knows images and a curriculum, no networks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onceforall.data import Images, Request, epoch_order, mix
from onceforall.training.curricula import Curriculum
from onceforall.training.ranks import Group
from onceforall.training.seeds import seed_of


class Batch(NamedTuple):
    """What this process trains on in a step."""

    images: Tensor  # (N, C, R, R), normalised, at the largest resolution of the step
    targets: Any  # of a length of N

    def pieces(self, parts: int) -> Iterator[Batch]:
        """So many parts of it, of equal size where that can be."""
        images, targets = self.images.chunk(parts), chunked(self.targets, parts)
        return (Batch(*pair) for pair in zip(images, targets, strict=True))


def chunked(targets: Any, parts: int) -> Sequence[Any]:
    """As `Tensor.chunk`, also of a list."""
    if isinstance(targets, Tensor):
        return targets.chunk(parts)
    size = -(-len(targets) // parts)
    return [targets[i : i + size] for i in range(0, len(targets), size)]


class Feed:
    """The batches of a curriculum on a set of images.

    Attributes:
        batch: images of a batch, over all processes; a step takes one, or one a network.
        balance: how the order of an epoch is drawn, see `data.epoch_order`.
        mix: images, targets and a seed -> images and targets, mixed among themselves.
    """

    def __init__(
        self,
        images: Images,
        curriculum: Curriculum,
        batch: int,
        seed: int,
        group: Group,
        balance: str = "none",
        mix: Callable[[Tensor, Any, int], tuple[Tensor, Any]] | None = None,
    ) -> None:
        self.images, self.curriculum, self.batch = images, curriculum, batch
        self.seed, self.group, self.balance, self.mix = seed, group, balance, mix

    def batches(self, step: int) -> Generator[Batch, None, None]:
        """One for each step from this one on, where the group's device wants them."""
        for images, targets in self.images.stream(self.requests(step)):
            images, targets = self._placed(images), self._placed(targets)
            if self.mix is not None:
                seed = seed_of("mixing", self.seed, step, self.group.rank)
                images, targets = self.mix(images, targets, seed)
            yield Batch(images, targets)
            step += 1

    def _placed(self, x: Any) -> Any:
        """On the CPU with channels last, which is by half faster there."""
        if not isinstance(x, Tensor):
            return x
        if self.group.device.type != "cpu":
            return x.to(self.group.device, non_blocking=True)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def requests(self, step: int) -> Iterator[Request]:
        """What is asked of the images, from this step on."""
        per_epoch = len(self.images) // self.batch
        order: list[int] = []
        shuffled = -1  # the epoch that `order` belongs to
        number = self.curriculum.batches_before(step)
        for at in range(step, self.curriculum.steps):
            phase, _ = self.curriculum.at(at)
            indices: list[int] = []
            for _ in range(phase.batches):
                epoch, i = divmod(number, per_epoch)
                number += 1
                if epoch != shuffled:
                    order, shuffled = self._order(epoch), epoch
                indices += self.group.share(order[i * self.batch : (i + 1) * self.batch])
            slots = phase.draw(self.seed, at)
            resolution = max(arch.resolution for slot in slots for arch in slot)
            augmentation = seed_of("augmentation", self.seed, at, self.group.rank)
            yield Request(indices, resolution, augmentation)

    def _order(self, epoch: int) -> list[int]:
        rng = np.random.default_rng(seed_of("order", self.seed, epoch))
        return epoch_order(len(self.images), rng, self.balance, self.images.labels).tolist()


def mixed(
    classes: int, mixup: float, cutmix: float, images: Tensor, labels: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Images of a batch mixed among themselves, and soft labels (N, classes)."""
    generator = torch.Generator().manual_seed(seed)
    return mix(images, labels, classes, generator, mixup=mixup, cutmix=cutmix)
