"""How long forward and backward passes take in each precision and memory layout, by kernel size:
what the defaults of training on a device are to be chosen by.

    python benchmarks/kernel_sizes.py --out docs/figures/kernel-sizes.json
    python benchmarks/kernel_sizes.py --device cuda --batch 256 --resolution 224

The networks are the largest of `ofa_mbv3_w1.0`, all of whose depthwise convolutions are 3x3, 5x5 or
7x7. They take their turns, each in every setting before the next round; medians and quartiles of
milliseconds. Losses in fp16 are scaled. On the CPU fp32 with channels last, which is how training
runs there, is timed with its compiled kernels and with PyTorch's operations.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import figures
import torch
from torch import nn

from onceforall import families
from onceforall.families.kernels import SWITCH
from onceforall.supernet import SuperNet

FAMILY = "ofa_mbv3_w1.0"
KERNELS = (3, 5, 7)
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16", "fp16")}
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
SCALE = 2.0**16  # of losses in fp16


class Setting(NamedTuple):
    precision: str
    layout: str
    kernels: bool  # the compiled ones

    def __str__(self) -> str:
        kind = ", kernels" if self.kernels else ""
        return f"{self.precision}, {self.layout}{kind}"


def settings(device: str) -> Iterator[Setting]:
    if device == "cpu":
        yield Setting("fp32", "channels last", True)
    for precision in PRECISIONS[device]:
        for layout in LAYOUTS:
            yield Setting(precision, layout, False)


def network_of(kernel: int, device: torch.device) -> nn.Module:
    family = families.get(FAMILY)
    supernet = SuperNet(family, torch.Generator().manual_seed(0))
    space = family.space.restrict(kernel=(kernel,))
    return supernet.extract(space.largest()).to(device).train()


def milliseconds(network: nn.Module, images: torch.Tensor, setting: Setting) -> float:
    """Of one forward and one backward pass."""
    device = images.device
    os.environ[SWITCH] = str(int(setting.kernels))
    torch.backends.cuda.matmul.allow_tf32 = setting.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = setting.precision == "tf32"
    network.to(memory_format=LAYOUTS[setting.layout])  # type: ignore[call-overload]
    images = images.contiguous(memory_format=LAYOUTS[setting.layout])
    half = HALF.get(setting.precision)
    network.zero_grad(set_to_none=True)
    wait(device)
    since = time.perf_counter()
    with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        found = network(images)
    loss = found.float().square().mean()
    (loss * SCALE if setting.precision == "fp16" else loss).backward()
    wait(device)
    return 1e3 * (time.perf_counter() - since)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=tuple(PRECISIONS), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    figures.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(given.device)
    networks = {kernel: network_of(kernel, device) for kernel in KERNELS}
    images = torch.randn(given.batch, 3, given.resolution, given.resolution, device=device)
    times: dict[tuple[Setting, int], list[float]] = {}
    for i in range(given.rounds + 2):
        for kernel, network in networks.items():
            for setting in settings(given.device):
                found = milliseconds(network, images, setting)
                if i >= 2:  # the first rounds are to warm up
                    times.setdefault((setting, kernel), []).append(found)
    cell = "{{k{0}:.0f}} ({{k{0}_low:.0f}} to {{k{0}_high:.0f}})"
    named = {f"{kernel}x{kernel}, ms": cell.format(kernel) for kernel in KERNELS}
    table = figures.Table({"setting": "{setting}", **named})
    for setting in settings(given.device):
        row: dict[str, float] = {}
        for kernel in KERNELS:
            cut = statistics.quantiles(times[setting, kernel], n=4)
            names = (f"k{kernel}_low", f"k{kernel}", f"k{kernel}_high")
            row |= dict(zip(names, cut, strict=True))
        table.add(setting=str(setting), **row)
    figures.write(given.out, {"kernel-sizes": table})


if __name__ == "__main__":
    main()
