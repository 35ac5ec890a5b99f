"""Several processes on one training run: ranks, and gradients averaged over them.

Started by `torchrun`; without it there is one process and nothing to do. Each process
starts with the first one's weights, takes its share of every batch and the same archs,
so all of them step alike. Knows no networks, only tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from onceforall.errors import InputError

T = TypeVar("T")
BUCKET_BYTES = 25 * 2**20  # of gradients that are sent together
PATIENCE = timedelta(minutes=30)  # that a process waits for the others


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

    def share(self, indices: Sequence[int]) -> list[int]:
        """This process's part of a batch."""
        return list(indices[self.rank :: self.size])

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's values, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes; the tensor itself is left as it is."""
        if self.size == 1:
            return tensor
        import torch.distributed as dist

        total = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes."""
        return self.sum(tensor) / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        import torch.distributed as dist

        shared = torch.tensor(int(flag))  # on the CPU: no wait for a GPU
        dist.all_reduce(shared)
        return bool(shared)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def together(self, work: Callable[[], T]) -> T:
        """Does something in every process; where it fails in any, all raise the error of the first
        that it failed in, so that none is left waiting.

        Raises:
            InputError: as `work`, in all processes.
        """
        if self.size == 1:
            return work()
        error: InputError | None = None
        try:
            found = work()
        except InputError as raised:
            error = raised
        first = next((text for text in self.gather(error and str(error)) if text), None)
        if first is not None:
            raise InputError(first)
        return found

    def gather(self, value: T) -> list[T]:
        """Plain data of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Refuses processes that were started with other settings or versions.

        Raises:
            InputError: in all processes; names the first that differs, and both values.
        """
        every = self.gather(dict(facts))
        for rank, other in enumerate(every):
            for name in {*every[0], *other}:
                mine, its = every[0].get(name), other.get(name)
                if mine != its:
                    raise InputError(
                        f"{name}: {mine!r} in process 0, {its!r} in process {rank}; all processes"
                        " of a run are started alike"
                    )


class GradientMeans:
    """Means of gradients over the processes, sent in buckets while the last backward pass of a
    step goes on.

    Buckets are in the reverse order of the parameters, as the backward pass comes by them, and are
    sent in that order in all processes. Parameters that no arch of a step uses have no gradient in
    any process, and get none: a step leaves them alone, as it does in a single process.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], group: Group, most: int = BUCKET_BYTES
    ) -> None:
        self.group = group
        self.buckets: list[list[nn.Parameter]] = []
        self._waiting: list[set[nn.Parameter]] = []  # by bucket: whose gradient is not whole yet
        self._sent: list[tuple[list[Tensor], Tensor, Any]] = []
        self._watching = False
        self._hooks: list[Any] = []
        if group.size == 1:
            return
        size = most
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if size >= most:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            size += parameter.numel() * parameter.element_size()
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._ready))

    def close(self) -> None:
        """Lets go of the parameters."""
        for hook in self._hooks:
            hook.remove()

    def last(self, used: Collection[nn.Parameter]) -> None:
        """The next backward pass is the last of the step; it gives gradients to these at most. All
        others are whole."""
        if self.group.size == 1:
            return
        among = set(used)
        self._waiting = [{p for p in bucket if p in among} for bucket in self.buckets]
        self._watching = True
        self._send()

    def finish(self) -> None:
        """Sends what is left, and puts all means into the parameters' gradients."""
        if self.group.size == 1:
            return
        self._watching = False
        for waiting in self._waiting:
            waiting.clear()
        self._send()
        for gradients, flat, work in self._sent:
            work.wait()
            flat /= self.group.size
            parts = flat.split([g.numel() for g in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        self._sent = []

    def _ready(self, parameter: nn.Parameter) -> None:
        if not self._watching:
            return
        for waiting in self._waiting[len(self._sent) :]:
            if parameter in waiting:
                waiting.discard(parameter)
                break
        self._send()

    def _send(self) -> None:
        """All buckets that are whole, in order."""
        import torch.distributed as dist

        while len(self._sent) < len(self.buckets) and not self._waiting[len(self._sent)]:
            bucket = self.buckets[len(self._sent)]
            gradients = [p.grad for p in bucket if p.grad is not None]
            empty = torch.empty(0, device=self.group.device)
            flat = torch.cat([g.reshape(-1) for g in gradients]) if gradients else empty
            work = dist.all_reduce(flat, async_op=True)
            self._sent.append((gradients, flat, work))


def join() -> Group:
    """The group that `torchrun` started this process in, or a group of one."""
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        return Group(device=torch.device("cuda" if cuda else "cpu"))
    import torch.distributed as dist

    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # Plain data and flags go by gloo, which does not wait for the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    return Group(dist.get_rank(), dist.get_world_size(), device)


def restarted() -> bool:
    """Whether `torchrun` started this process anew, after one had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
