"""Several processes on one training run: ranks, and gradients averaged over them.

Started by `torchrun`; without it there is one process and nothing to do. Each process
starts with the first one's weights, takes its share of every batch and the same archs,
so all of them step alike. Knows no networks, only tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from onceforall.errors import InputError, Lost, SharedError

T = TypeVar("T")
BUCKET_BYTES = 25 * 2**20  # of gradients that are sent together
PATIENCE = timedelta(minutes=30)  # that a process waits for the others
GONE = ("closed by peer", "reset by peer", "roken pipe", "failed to recv", "process exited")


@contextmanager
def reaching() -> Iterator[None]:
    """While the block sends to other processes, or waits for them.

    Raises:
        Lost: one of them is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in GONE):
            raise Lost("another process of this run is gone") from None
        raise


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

    def shares(self, shares: int) -> range:
        """Which of so many shares of a batch are this process's."""
        return range(self.rank, shares, self.size)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's values, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            sent = tensor.detach().contiguous()
            with reaching():
                dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes; the tensor itself is left as it is."""
        if self.size == 1:
            return tensor
        import torch.distributed as dist

        total = tensor.detach().to(self.device, copy=True)
        with reaching():
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
        with reaching():
            dist.all_reduce(shared)
        return bool(shared)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            import torch.distributed as dist

            with reaching():
                dist.barrier()

    def together(self, work: Callable[[], T]) -> T:
        """Does something in every process; where it fails in any, all raise the error of the first
        that it failed in, so that none is left waiting.

        Raises:
            SharedError: as `work`, in all processes.
        """
        if self.size == 1:
            return work()
        error: str | None = None
        try:
            found = work()
        except (InputError, OSError) as raised:
            error = str(raised)
        every = self.gather(error)
        for rank, text in enumerate(every):
            if text is not None:
                where = f" (in process {rank})" if None in every else ""
                raise SharedError(f"{text}{where}")
        return found

    def gather(self, value: T) -> list[T]:
        """Plain data of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with reaching():
            dist.all_gather_object(found, value)
        return found

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Refuses processes that were started with other settings or versions.

        Raises:
            SharedError: in all processes; names the first that differs, and both values.
        """
        every = self.gather(dict(facts))
        for rank, other in enumerate(every):
            for name in sorted({*every[0], *other}):
                mine, its = every[0].get(name), other.get(name)
                if mine != its:
                    raise SharedError(
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
            with reaching():
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
            with reaching():
                work = dist.all_reduce(flat, async_op=True)
            self._sent.append((gradients, flat, work))


def join() -> Group:
    """The group that `torchrun` started this process in, or a group of one."""
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        return Group(device=torch.device("cuda" if cuda else "cpu"))
    import torch.distributed as dist

    device = torch.device("cpu")
    if cuda:
        here, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if here >= there:
            raise InputError(f"process {here} of this machine: it has {there} GPUs, one a process")
        device = torch.device("cuda", here)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # Plain data and flags go by gloo, which does not wait for the GPU.
        backends = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backends, timeout=PATIENCE, **_meeting_place())
    return Group(dist.get_rank(), dist.get_world_size(), device)


def _meeting_place() -> dict[str, Any]:
    """Where processes of one machine find each other after `torchrun` has restarted them: in its
    store, which still has the addresses of those that are gone (PyTorch's issue 135712), a part of
    their own. Machines count restarts each by itself, so of several it is as PyTorch has it."""
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not (restarted() and shared and os.environ.get("GROUP_WORLD_SIZE") == "1"):
        return {}
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, size, is_master=False, timeout=PATIENCE
    )
    part = f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    mine = dist.PrefixStore(part, store)  # type: ignore[attr-defined]
    return {"store": mine, "rank": rank, "world_size": size}


def leave() -> None:
    """The last that a process of a group does, where all have come to their end."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether `torchrun` started this process anew, after one had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
