"""The one path from an arch to its score: extract, calibrate, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from onceforall.data import Data, Images, Request, in_order
from onceforall.data.batches import on, put
from onceforall.errors import InputError, choices
from onceforall.progress import track
from onceforall.space import Arch
from onceforall.supernet.calibration import calibrate
from onceforall.supernet.evaluation import evaluate
from onceforall.supernet.supernet import SuperNet
from onceforall.supernet.tasks import TOP1, Metric, Score

TORCH_DEVICES = ("cuda", "cpu")
CALIBRATION_IMAGES = 2000  # as many as the authors use
CALIBRATION_BATCH = 200
BATCH = 250  # images evaluated at a time


def torch_device(name: str | None = None) -> torch.device:
    """Where to put a supernet or a network (`.to`), so that it is extracted, calibrated and scored
    there: on the device named, else on the GPU where there is one, else on the CPU.

    Raises:
        InputError: not one of TORCH_DEVICES, or there is no GPU.
    """
    there = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if there else "cpu")
    if name not in TORCH_DEVICES:
        raise InputError(f"on: {name!r} is not known; there are {choices(TORCH_DEVICES)}")
    if name == "cuda" and not there:
        raise InputError("on: cuda: PyTorch sees no CUDA GPU here")
    return torch.device(name)


def calibrated(supernet: SuperNet, arch: Arch, data: Data) -> nn.Module:
    """The network of an arch with its own batch-norm statistics, in evaluation mode."""
    network = supernet.extract(arch)
    batches = unlabelled_batches(data.train, arch.resolution, CALIBRATION_IMAGES, network)
    calibrate(network, batches)
    return network


def unlabelled_batches(
    images: Images, resolution: int, n: int, network: nn.Module
) -> Iterator[Tensor]:
    """Images to calibrate `network` on, as they are evaluated: without augmentation, always the
    same ones, in batches of equal size, 200 at most.

    Raises:
        InputError: fewer than two images, or that can be read.
    """
    chosen = np.random.default_rng(2).permutation(len(images))[:n].tolist()
    if len(chosen) < 2:
        raise InputError(f"calibration: needs 2 images or more, has {len(chosen)}")
    place = placing(network)
    count = -(-len(chosen) // CALIBRATION_BATCH)
    requests = (Request(part.tolist(), resolution) for part in np.array_split(chosen, count))
    enough = False
    for x, _ in on(images, place_of(network)).stream(requests):
        if len(x) > 1:  # of some, all but one may be unreadable
            enough = True
            yield place(x)
    if not enough:
        raise InputError(f"calibration: of {len(chosen)} images, fewer than 2 can be read")


def score(
    network: nn.Module,
    resolution: int,
    images: Images,
    metric: Metric = TOP1,
    *,
    limit: int | None = None,
    batch: int = BATCH,
    progress: str | None = None,
    start: int = 0,
) -> Score:
    """The metric of a calibrated network on images, from number `start` on, `limit` of them at
    most; `progress` is what to call it on a progress bar."""
    end = len(images) if limit is None else min(start + limit, len(images))
    place = placing(network)
    device = place_of(network)
    batches = on(images, device).stream(in_order(range(start, end), batch, resolution))
    if progress is not None:
        batches = track(batches, progress, -(-(end - start) // batch))
    return evaluate(network, ((place(x), put(y, device)) for x, y in batches), metric)


def place_of(network: nn.Module) -> torch.device:
    """Where a network is; one without weights of its own (an exported file) is on the CPU."""
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def placing(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Puts images where the network is; on the CPU with channels last, which is faster there."""
    device = place_of(network)
    if device.type == "cpu":
        return lambda x: x.contiguous(memory_format=torch.channels_last)
    return lambda x: put(x, device)
