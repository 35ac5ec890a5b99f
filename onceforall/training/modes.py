"""How the networks of a run compute: precision, layout of weights, statistics of batch norm.

It follows from the settings and the device, and is the same for networks that learn and for the one
that teaches.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from onceforall.training.ranks import Group
from onceforall.training.settings import AUTO, Settings
from onceforall.training.synchronised import Synchronised

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Modes:
    """Contexts that networks of a run are called in.

    Attributes:
        precision: that of the settings; where they leave it open, fp32 until `Job` has chosen.
    """

    settings: Settings
    group: Group
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        self.precision = "fp32" if self.settings.precision == AUTO else self.settings.precision

    def autocast(self) -> AbstractContextManager[Any]:
        """Half precision, where that is the run's."""
        wanted = HALF.get(self.precision)
        return torch.autocast(
            self.group.device.type, wanted or torch.bfloat16, enabled=wanted is not None
        )

    def norms(self) -> AbstractContextManager[Any]:
        """Batch norms average over a process's own images, or over those of all processes."""
        apart = self.group.size == 1 or not self.settings.sync_batch_norm
        return nullcontext() if apart else Synchronised()

    def place(self, module: nn.Module) -> None:
        """Moves a module to the run's device, weights with channels last where that is faster: on a
        CPU, by half, and on a GPU in half precision."""
        module.to(self.group.device)
        if self.group.device.type == "cpu" or self.precision in HALF:
            module.to(memory_format=torch.channels_last)
