"""PyTorch itself, on the CPU or a GPU: a network of this process, or a pt2 file; as it is, or
compiled."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onceforall.errors import InputError
from onceforall.export import pt2
from onceforall.precision import float32

if TYPE_CHECKING:
    from onceforall.devices import Target

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def open_on(
    device: str, compiled: bool, file: nn.Module | Path, example: Tensor, target: Target
) -> Run:
    """A call that runs the network once on `example` (N, C, H, W), and waits for the result.

    Raises:
        InputError: no GPU, no compiler, or a pt2 file in another precision than its own.
    """
    missing = missing_cuda() if device == "cuda" else missing_compiler() if compiled else ""
    if missing:
        raise InputError(f"device: {target.device}: {missing}")
    dtype = DTYPES[target.precision]
    if isinstance(file, nn.Module):
        own = copy.deepcopy(file).eval().to(device, dtype).to(memory_format=torch.channels_last)
    elif dtype is not torch.float32:
        raise InputError(f"{file}: a pt2 file runs in fp32, not {target.precision}")
    else:
        own = pt2.module(file).to(device)
    x = example.to(device, dtype).contiguous(memory_format=torch.channels_last)
    run: Callable[[Tensor], object] = torch.compile(own, dynamic=False) if compiled else own
    return Run(run, x, target.threads if device == "cpu" else None)


def missing_cuda() -> str:
    """Why the GPU cannot be used; "" where it can."""
    return "" if torch.cuda.is_available() else "PyTorch sees no CUDA GPU here"


def missing_compiler() -> str:
    """Why networks cannot be compiled for the CPU; "" where they can."""
    return "" if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler here"


@dataclass(frozen=True)
class Run:
    """One run a call, on `threads` threads of the CPU; None: on the GPU, whose float32 is that of
    other devices."""

    network: Callable[[Tensor], object]
    x: Tensor  # (N, C, R, R)
    threads: int | None

    def __call__(self) -> None:
        as_wanted = (
            not torch.backends.cudnn.allow_tf32
            if self.threads is None
            else torch.get_num_threads() == self.threads
        )
        if not as_wanted:
            with self.stretch():
                self()
            return
        with torch.inference_mode():
            self.network(self.x)
        if self.threads is None:
            torch.cuda.synchronize()

    @property
    def on_gpu(self) -> bool:
        return self.threads is None

    @contextmanager
    def stretch(self) -> Iterator[None]:
        """While it lasts, PyTorch has the threads of this call; afterwards, those it had."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            with float32():
                yield
        finally:
            torch.set_num_threads(before)


open_cpu = partial(open_on, "cpu", False)
open_cpu_compiled = partial(open_on, "cpu", True)
open_cuda = partial(open_on, "cuda", False)
open_cuda_compiled = partial(open_on, "cuda", True)
