"""The one path from an arch to its accuracy: extract, calibrate, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from onceforall.calibration import calibrate
from onceforall.data import Data
from onceforall.evaluation import Accuracy, evaluate
from onceforall.images import Images, Request, in_order
from onceforall.space import Arch
from onceforall.supernet import SuperNet

CALIBRATION_IMAGES = 2000  # as many as the authors use
CALIBRATION_BATCH = 200
BATCH = 250  # images evaluated at a time


def calibrated(
    supernet: SuperNet, arch: Arch, data: Data, images: int = CALIBRATION_IMAGES
) -> nn.Sequential:
    """The network of an arch with its own batch-norm statistics, in evaluation mode."""
    network = supernet.extract(arch)
    calibrate(network, calibration_batches(data, arch.resolution, images, network))
    return network


def calibration_batches(
    data: Data, resolution: int, images: int, network: nn.Module
) -> Iterator[Tensor]:
    """Training images as they are evaluated, without augmentation; always the same ones."""
    chosen = np.random.default_rng(2).permutation(len(data.train))[:images].tolist()
    subset = data.train.subset(chosen)
    place = placing(network)
    for x, _ in subset.stream(in_order(len(chosen), CALIBRATION_BATCH, resolution)):
        yield place(x)


def accuracy(
    network: nn.Module, resolution: int, images: Images, limit: int | None = None
) -> Accuracy:
    """Top-1 and top-5 of a calibrated network on images, the first `limit` of them."""
    n = len(images) if limit is None else min(limit, len(images))
    place = placing(network)
    batches = images.stream(in_order(n, BATCH, resolution))
    return evaluate(network, ((place(x), y) for x, y in batches))


def placing(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Puts images where the network is; on the CPU with channels last, which is faster there."""
    device = next(network.parameters()).device
    if device.type == "cpu":
        return lambda x: x.contiguous(memory_format=torch.channels_last)
    return lambda x: x.to(device)
