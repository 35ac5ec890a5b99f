"""Batch norm by the statistics of the whole batch, where each process has a part of it.

Works on whatever calls PyTorch's `batch_norm`, and on a CPU, too, which `nn.SyncBatchNorm` does
not. Without it each process normalises by its own part, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from onceforall.training.ranks import reaching


class Synchronised(TorchFunctionMode):
    """While it lasts, batch norms in training share their statistics with all processes, which must
    run the same networks."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # (N, C, ...)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    shape = [1, -1] + [1] * (input.dim() - 2)
    every = [d for d in range(input.dim()) if d != 1]
    x = input if input.dtype == torch.float64 else input.float()
    n = torch.full((1,), x.numel() / x.shape[1], device=x.device)  # values of a channel
    total = _sum(torch.cat([x.sum(every), n]))
    mean, n = total[:-1] / total[-1], total[-1]
    centred = x - mean.view(shape)
    var = _sum(centred.square().sum(every)) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * (n / (n - 1))).to(running_var), momentum)
    found = centred * (var + eps).rsqrt().view(shape)
    if weight is not None:
        found = found * weight.view(shape)
    if bias is not None:
        found = found + bias.view(shape)
    return found.to(input.dtype)


def _sum(tensor: Tensor) -> Tensor:
    """The sum over the processes; its gradient is the sum of theirs."""
    found: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return found


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # type: ignore[override]
        import torch.distributed as dist

        total = tensor.clone()
        with reaching():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        import torch.distributed as dist

        total = gradient.clone()
        with reaching():
            dist.all_reduce(total)
        return total
