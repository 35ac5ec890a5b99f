"""PyTorch itself, on the CPU or a GPU, without compilation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from onceforall.errors import InputError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare(network: nn.Module, example: Tensor, threads: int, precision: str, device: str) -> Run:
    """A call that runs the network once on `example`, (N, C, R, R), and waits for the result."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: torch-cuda: PyTorch sees no CUDA GPU here")
    dtype = DTYPES[precision]
    own = copy.deepcopy(network).eval().to(device, dtype).to(memory_format=torch.channels_last)
    x = example.to(device, dtype).contiguous(memory_format=torch.channels_last)
    return Run(own, x, threads if device == "cpu" else None)


@dataclass(frozen=True)
class Run:
    """One run a call, on `threads` threads of the CPU; None: on the GPU."""

    network: nn.Module
    x: Tensor  # (N, C, R, R)
    threads: int | None

    def __call__(self) -> None:
        if self.threads is not None and torch.get_num_threads() != self.threads:
            with self.stretch():
                self()
            return
        with torch.inference_mode():
            self.network(self.x)
        if self.threads is None:
            torch.cuda.synchronize()

    @contextmanager
    def stretch(self) -> Iterator[None]:
        """While it lasts, PyTorch has the threads of this call; afterwards, those it had."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


prepare_cpu = partial(prepare, device="cpu")
prepare_cuda = partial(prepare, device="cuda")
