"""Stochastic depth (Huang et al., 2016): residual branches that are left out for an image.

Works on blocks that say they have a `shortcut`, an attribute of the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.errors import InputError


@contextmanager
def dropping(network: nn.Module, share: float) -> Iterator[None]:
    """While the block runs, each residual branch is left out for this share of the images, and
    counts for more for the others. The share rises in proportion from the first block to the last,
    which has it whole.

    Raises:
        InputError: as `branches`.
    """
    blocks = branches(network)
    hooks = []
    for i, block in enumerate(blocks):
        hooks.append(block.register_forward_hook(_Dropped(share * (i + 1) / len(blocks))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def branches(network: nn.Module) -> list[nn.Module]:
    """Blocks with a residual branch.

    Raises:
        InputError: there is none that is known.
    """
    blocks = [m for m in network.modules() if getattr(m, "shortcut", False) is True]
    if not blocks:
        raise InputError(
            "stochastic_depth: this family's networks have no residual blocks that say so"
            " (a module's attribute `shortcut`); 0 is right for them"
        )
    return blocks


class _Dropped:
    """Of a block's output x + f(x), makes x + f(x) / (1 - share), or x alone."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        x: Tensor = inputs[0]
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.share
        return x + (output - x) * kept / (1 - self.share)
