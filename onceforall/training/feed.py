"""The batches of a run, from any step on: which images, at which size, augmented how.

Everything is a function of (seed, step, share of the batch), so that a run that was stopped goes on
with the batches it would have had. Knows images and a curriculum, no networks.
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
    """A share of what a step trains on."""

    images: Tensor  # (N, C, R, R), normalised, at the largest resolution of the step
    targets: Any  # of a length of N
    share: int = 0  # its number

    def pieces(self, parts: int) -> Iterator[Batch]:
        """So many parts of it, of equal size where that can be."""
        images, targets = self.images.chunk(parts), chunked(self.targets, parts)
        return (Batch(*pair, self.share) for pair in zip(images, targets, strict=True))


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
        shares: that a batch is divided into: a process has one, or several of them where fewer
            processes go on with a run than began it.
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
        shares: int = 1,
        balance: str = "none",
        mix: Callable[[Tensor, Any, int], tuple[Tensor, Any]] | None = None,
    ) -> None:
        self.images, self.curriculum, self.batch = images, curriculum, batch
        self.seed, self.balance, self.mix = seed, balance, mix
        self.group, self.shares, self.own = group, shares, group.shares(shares)

    def batches(self, step: int) -> Generator[list[Batch], None, None]:
        """For each step from this one on this process's shares of it, where the group's device
        wants them."""
        found: list[Batch] = []
        for images, targets in self.images.stream(self.requests(step)):
            images, targets, share = (
                self._placed(images),
                self._placed(targets),
                self.own[len(found)],
            )
            if self.mix is not None:
                seed = seed_of("mixing", self.seed, step, share)
                images, targets = self.mix(images, targets, seed)
            found.append(Batch(images, targets, share))
            if len(found) == len(self.own):
                yield found
                found, step = [], step + 1

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
            drawn: list[list[int]] = []
            for _ in range(phase.batches):
                epoch, i = divmod(number, per_epoch)
                number += 1
                if epoch != shuffled:
                    order, shuffled = self._order(epoch), epoch
                drawn.append(order[i * self.batch : (i + 1) * self.batch])
            slots = phase.draw(self.seed, at)
            resolution = max(arch.resolution for slot in slots for arch in slot)
            for share in self.own:
                indices = [index for batch in drawn for index in batch[share :: self.shares]]
                yield Request(indices, resolution, seed_of("augmentation", self.seed, at, share))

    def _order(self, epoch: int) -> list[int]:
        rng = np.random.default_rng(seed_of("order", self.seed, epoch))
        return epoch_order(len(self.images), rng, self.balance, self.images.labels).tolist()


def mixed(
    classes: int, mixup: float, cutmix: float, images: Tensor, labels: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Images of a batch mixed among themselves, and soft labels (N, classes)."""
    generator = torch.Generator().manual_seed(seed)
    return mix(images, labels, classes, generator, mixup=mixup, cutmix=cutmix)
