"""Several processes on one training run: ranks, and gradients averaged over them.

Started by `torchrun`; without it there is one process and nothing to do. Each process
starts with the first one's weights, takes its share of every batch and the same archs,
so all of them step alike. Knows no networks, only tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """This process among all of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, indices: list[int]) -> list[int]:
        """This process's part of a batch."""
        return indices[self.rank :: self.size]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's values, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over the processes, in place, as one message. Parameters that no arch of this step
        uses have no gradient in any process, and get none here: a step leaves them alone, as it
        does in a single process."""
        if self.size == 1:
            return
        import torch.distributed as dist

        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        import torch.distributed as dist

        shared: Tensor = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(shared)
        return bool(shared)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


def join() -> Group:
    """The group that `torchrun` started this process in, or a group of one."""
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        return Group(device=torch.device("cuda" if cuda else "cpu"))
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return Group(dist.get_rank(), dist.get_world_size(), device)
