"""Activation checkpointing (Chen et al., 2016): blocks keep their input alone and are run again in
the backward pass. Less memory, a third more time, the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from onceforall.errors import InputError
from onceforall.space import Arch
from onceforall.supernet import SuperNet
from onceforall.training.alone import Alone


def recomputed(
    student: SuperNet | Alone,
    images: Tensor,
    arch: Arch,
    around: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """What the student computes.

    Args:
        around: what the call stands in, for when blocks are run again.

    Raises:
        InputError: its networks are not layers in a row.
    """
    network = student.skeleton(arch).train(student.training)
    if not isinstance(network, nn.Sequential):
        raise InputError(
            f"recompute: networks of {student.family.name} are not layers in a row;"
            " false is right for them"
        )
    lent: Mapping[str, Tensor] = student.lend(network) if isinstance(student, SuperNet) else {}
    x = images
    for place, layer in network.named_children():
        own = {n[len(place) + 1 :]: t for n, t in lent.items() if n.startswith(f"{place}.")}
        x = checkpoint(
            functional_call,
            layer,
            own,
            (x,),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), around()),
        )
    return x
