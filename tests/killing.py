"""A process that is killed at a moment of a training run, for tests."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from onceforall.training import loop

MOMENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.scandir"}


def dying(run: Path, at: int, counted: Path) -> None:
    """This process is killed at its so-and-so-many-th moment: when it is about to touch a file of
    the run, when half of a file of tensors is written, and before and after gradients are used."""
    import safetensors.torch

    n = 0

    def moment() -> None:
        nonlocal n
        n += 1
        if n == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, args: tuple[Any, ...]) -> None:
        if event in MOMENTS and args and str(run) in str(args[0]):
            moment()

    def half(tensors: Any, path: Path, **more: Any) -> None:
        save(tensors, path, **more)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        moment()
        Path(path).write_bytes(whole)

    def stepped(bad: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        moment()
        step(bad, optimizer)
        moment()
        counted.write_text(str(n))

    save, step = safetensors.torch.save_file, loop.step_unless
    safetensors.torch.save_file = half
    loop.step_unless = stepped
    sys.addaudithook(heard)
