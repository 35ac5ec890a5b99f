"""How good a supernet is so far: the ends of a phase's space, and some networks at random, each
calibrated, on validation images. The processes share the images, so that none waits for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from torch import nn

from onceforall.data import Data, in_order
from onceforall.data.batches import on, put
from onceforall.errors import InputError
from onceforall.space import Arch, Space
from onceforall.supernet import calibrate, evaluate, placing, unlabelled_batches
from onceforall.supernet.tasks import Metric
from onceforall.training.ranks import Group
from onceforall.training.seeds import seed_of

IMAGES = 2000  # of validation
CALIBRATION = 2000  # images, of training
BATCH = 250
LARGEST, SMALLEST = "largest", "smallest"


class Student(Protocol):
    """What can be looked at: a supernet, or a network alone."""

    def extract(self, arch: Arch) -> nn.Module: ...


def archs_of(space: Space, n: int, seed: int) -> Iterator[tuple[str, Arch]]:
    """The networks that are looked at: always the same `n` beside the ends."""
    yield LARGEST, space.largest()
    if space.size == 1:
        return
    yield SMALLEST, space.smallest()
    rng = np.random.default_rng(seed_of("validation", seed))
    for i, arch in enumerate(space.decode(space.sample(rng, n))):
        yield f"random_{i + 1}", arch


def validate(
    student: Student, space: Space, n: int, seed: int, data: Data, metric: Metric, group: Group
) -> dict[str, float]:
    """The metric of each of `archs_of` by name, as in `top1_largest`; the same in all processes."""
    return {
        f"{metric.name}_{name}": score(student.extract(arch), arch.resolution, data, metric, group)
        for name, arch in archs_of(space, n, seed)
    }


def calibrated(network: nn.Module, resolution: int, data: Data) -> nn.Module:
    """The network, with statistics of batch norm of its own from now on, in evaluation mode."""
    return calibrate(network, unlabelled_batches(data.train, resolution, CALIBRATION, network))


def score(network: nn.Module, resolution: int, data: Data, metric: Metric, group: Group) -> float:
    """Of a network with its own statistics of batch norm, which it is given here."""
    place = placing(network)
    calibrated(network, resolution, data)
    n = min(IMAGES, len(data.validation))
    mine = range(group.rank, n, group.size) if n >= group.size else range(n)
    images = on(data.validation, group.device).stream(in_order(mine, BATCH, resolution))
    found = evaluate(network, ((place(x), put(y, group.device)) for x, y in images), metric)
    if found.sums is None:
        raise InputError("validation: none of its images can be read")
    return metric.values(group.sum(found.sums).cpu())[metric.name]
