"""Batch-norm statistics of a static network, measured on training images.

A sub-network that was just extracted has no statistics of its own: those of the
supernet are of no sub-network in particular. They are measured as the authors do:
batches go through the network, every batch norm normalising by the statistics of its
batch, and what each one saw is averaged.

Knows a network and batches of images; nothing of archs or files.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from onceforall.precision import float32

ESTIMATORS = ("pooled", "batch-mean")
PART = 2**18  # numbers that are squared at a time: they stay in the processor's cache


@torch.no_grad()
def calibrate(
    network: nn.Module, batches: Iterable[Tensor], estimator: str = "pooled"
) -> nn.Module:
    """Sets the running statistics of every batch norm in `network`, in place, and returns it in
    evaluation mode.

    Args:
        batches: images, each (N, C, R, R) with N > 1, at the resolution the network will be used
            at.
        estimator: "batch-mean" is the authors': the mean over values of the mean and the biased
            variance of the value's batch. "pooled" adds the variance between the batches' means
            to it, which makes it the variance over all values (law of total variance): the
            authors' is too small by that, the more so the smaller the batches.

    A channel's values are those of all images at all positions: a batch counts by images times
    positions, which is by its images where all are of one size.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: {estimator!r} is not one of {ESTIMATORS}")
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    seen = {norm: _Sums() for norm in norms}
    hooks = [norm.register_forward_pre_hook(seen[norm].add) for norm in norms]
    modes = {norm: (norm.momentum, norm.track_running_stats) for norm in norms}
    network.eval()
    for norm in norms:
        norm.train()
        norm.track_running_stats = False  # normalise by the batch, update nothing
    images = 0
    try:
        with float32():
            for batch in batches:
                if len(batch) < 2:
                    raise ValueError("calibrate: a batch of one image has no variance of its own")
                images += len(batch)
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.momentum, norm.track_running_stats = modes[norm]
    if norms and not images:
        raise ValueError("calibrate: no images given")
    for norm in norms:
        mean, variance = seen[norm].statistics(pooled=estimator == "pooled")
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
    return network.eval()


class _Sums:
    """Sums over values of per-batch means, squared means and biased variances, in float64, where
    the network is: no batch waits for a GPU."""

    def __init__(self) -> None:
        self.values = 0  # of one channel
        self.mean = self.square = self.variance = torch.zeros((), dtype=torch.float64)

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]  # (N, C) or (N, C, ...)
        variance, mean = (t.double() for t in _variance_and_mean(x.float()))
        n = x.numel() // x.shape[1]
        self.values += n
        self.mean = self.mean + n * mean
        self.square = self.square + n * mean * mean
        self.variance = self.variance + n * variance

    def statistics(self, pooled: bool) -> tuple[Tensor, Tensor]:
        mean = self.mean / self.values
        variance = self.variance / self.values
        if pooled:
            variance = variance + (self.square / self.values - mean * mean).clamp(min=0)
        return mean, variance


def _variance_and_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel of (N, C, ...): biased variance and mean, (C,) each. On the CPU `var_mean`
    takes many times as long where channels are last, as it does not sum along memory."""
    last = x.movedim(1, -1)  # (N, ..., C)
    if x.device.type != "cpu" or x.is_contiguous() or not last.is_contiguous():
        return torch.var_mean(x, dim=[d for d in range(x.dim()) if d != 1], correction=0)
    values = last.reshape(-1, x.shape[1])  # (N * positions, C)
    mean = values.mean(0)
    total = torch.zeros(len(mean), dtype=torch.float64)
    for part in values.split(max(1, PART // len(mean))):
        total += (part - mean).square_().sum(0)
    return total / len(values), mean
