"""PyTorch itself, on the CPU or a GPU, without compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from onceforall.errors import InputError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare(
    network: nn.Module, example: Tensor, threads: int, precision: str, device: str
) -> Callable[[], object]:
    """A call that runs the network once on `example`, (N, C, R, R), and waits for the result."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: torch-cuda: PyTorch sees no CUDA GPU here")
    dtype = DTYPES[precision]
    own = copy.deepcopy(network).eval().to(device, dtype).to(memory_format=torch.channels_last)
    x = example.to(device, dtype).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        before = torch.get_num_threads()
        if device == "cpu" and before != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            own(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


prepare_cpu = partial(prepare, device="cpu")
prepare_cuda = partial(prepare, device="cuda")
