"""Optimisers: which weights decay, and a step that is not taken where gradients are not finite.

Knows parameters, no networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.training.settings import Settings


def optimizer_of(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; no weight decay on batch norm and biases.

    What gets no gradient in a step is not touched by it, neither by weight decay nor by momentum:
    the blocks that none of the step's archs has, and the kernel transforms that none uses. The
    channels that none uses of a block that is used get a gradient of 0, so they do decay and
    move on with their momentum.

    The authors' code differs in the blocks: its `zero_grad()` filled gradients with 0 (PyTorch's
    own way before 2.0), so there unused blocks, too, decay and move on with their momentum. Here
    a block moves only by images that were run through it, however seldom its depth is drawn, and
    no zeros are summed over the processes.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in parameters if p.dim() > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kernels = _kernels(parameters)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, **kernels)  # type: ignore[arg-type]
    momentum = settings.momentum
    optimizer = torch.optim.SGD(groups, 0.0, momentum, nesterov=momentum > 0, **kernels)  # type: ignore[arg-type]
    if momentum and optimizer.defaults["fused"]:  # which wants momentum of all or of none
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _kernels(parameters: Sequence[nn.Parameter]) -> dict[str, bool]:
    """On a GPU one kernel, which can pass over a step itself. On the CPU that one would gain less
    than a percent, and reads a gradient that is laid out otherwise than its weights as if it were
    not."""
    return {"fused": True} if any(p.is_cuda for p in parameters) else {"foreach": True}


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def clipped(gradients: Sequence[Tensor], most: float | None) -> Tensor:
    """The norm of all gradients, which are made shorter where it is above `most`. No wait for the
    device."""
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if most is not None:
        torch._foreach_mul_(list(gradients), (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def step_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of the optimiser unless `bad` is true, without a wait for a GPU: there the optimiser's
    own kernel looks."""
    if bad.is_cuda:
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif not bad:
        optimizer.step()
