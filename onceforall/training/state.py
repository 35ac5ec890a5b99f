"""Everything that a step changes: it flattens into tensors and plain data, and comes back.

Whatever optimiser it holds. Knows modules, no files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.errors import InputError

MODEL, EMA, OPTIMIZER = "model.", "ema.", "optimizer."  # what names of tensors begin with
MOMENTUM = "momentum."  # likewise of SGD's, in checkpoints of versions up to 0.1


class Average:
    """A running mean of a module's parameters (EMA), by which it is judged.

    The first steps count for more: after n of them the decay is at most (1 + n) / (10 + n).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.means = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = [p.detach() for p in self.module.parameters()]
        torch._foreach_lerp_(list(self.means.values()), current, 1 - decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Parameters and means change places."""
        for name, parameter in self.module.named_parameters():
            mean = self.means[name]
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)


class State:
    """Modules, optimiser, average and counters of a run.

    Attributes:
        step: steps taken, over all phases.
        seconds: of training, all parts of this run together.
        skipped: steps whose gradients were not finite.
        facts: what else must come back: plain data.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self.module, self.optimizer = module, optimizer
        self.decay = decay
        self.average = Average(module, decay) if decay else None
        self.scaler: torch.amp.GradScaler | None = None
        self.step = 0
        self.seconds = 0.0
        self.skipped = 0
        self.facts: dict[str, Any] = {}

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """A phase begins: a fresh optimiser, whose momentum would be that of channels that have
        been sorted since, and a fresh average."""
        self.optimizer = optimizer
        self.average = Average(self.module, self.decay) if self.decay else None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module has the averaged parameters while the block runs, where there are any."""
        if self.average is None:
            yield
            return
        self.average.exchange()
        try:
            yield
        finally:
            self.average.exchange()

    def flatten(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and plain data."""
        tensors = {MODEL + n: t for n, t in self.module.state_dict().items()}
        numbers: dict[str, float] = {}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{OPTIMIZER}{key}.{name}"] = value
                elif value is not None:
                    numbers[f"{key}.{name}"] = value
        facts: dict[str, Any] = {
            **self.facts,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "optimizer": numbers,
        }
        if self.average is not None:
            tensors |= {EMA + n: t for n, t in self.average.means.items()}
            facts["ema_steps"] = self.average.steps
        if self.scaler is not None:
            facts["scaler"] = self.scaler.state_dict()
        return tensors, facts

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """What `flatten` gave. The module's own tensors are checked by who reads the file.

        Raises:
            InputError: an average is wanted and there is none.
        """
        kept = _slots(tensors, facts.get("optimizer", {}))
        for name, parameter in self.module.named_parameters():
            if slots := kept.get(name):
                self.optimizer.state[parameter] = {
                    key: _like(parameter, value) for key, value in slots.items()
                }
        if self.average is not None:
            self.average.steps = facts.get("ema_steps", 0)
            for name, mean in self.average.means.items():
                if EMA + name not in tensors:
                    raise InputError(f"key {EMA + name!r} is missing")
                mean.copy_(tensors[EMA + name])
        if self.scaler is not None and "scaler" in facts:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.skipped = facts.get("skipped", 0)


def _slots(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> defaultdict[str, dict[str, Any]]:
    """By parameter, what the optimiser kept of it."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in (*tensors.items(), *((OPTIMIZER + k, v) for k, v in numbers.items())):
        if key.startswith(OPTIMIZER):
            slot, _, name = key[len(OPTIMIZER) :].partition(".")
            found[name][slot] = value
        elif key.startswith(MOMENTUM):
            found[key[len(MOMENTUM) :]]["momentum_buffer"] = value
    return found


def _like(parameter: nn.Parameter, value: Any) -> Any:
    """A tensor where and laid out as its parameter is; a count of steps stays one number."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
