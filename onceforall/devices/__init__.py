"""Devices: where a network can be run and timed.

A device is a function `prepare(network, example, threads, precision)` that returns a
call to time and leaves the network as it was; both are on the CPU, wherever the network
given to a `Target` lives. What must hold while the call is timed, and only then, is a
method `stretch` of it (`timing.py`). More devices are found by the entry point
`onceforall.devices`. Devices know an `nn.Module`, never an arch.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import math
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.costs import FLOAT_BYTES, cost
from onceforall.devices.timing import ROUNDS, Latency, time_calls
from onceforall.errors import InputError, choices

__all__ = [
    "Latency",
    "Target",
    "disturbed",
    "measure",
    "measure_many",
    "names",
    "provenance",
    "time_calls",
]

Prepare = Callable[[nn.Module, Tensor, int, str], Callable[[], object]]


@dataclass(frozen=True)
class _Own:
    """A device of ours."""

    module: str
    function: str
    precisions: tuple[str, ...]
    runtime: str  # the package that runs networks; it has a `__version__`


_DEVICES = {
    "onnxruntime-cpu": _Own(
        "onceforall.devices.onnxruntime_cpu", "prepare", ("fp32",), "onnxruntime"
    ),
    "torch-cpu": _Own("onceforall.devices.pytorch", "prepare_cpu", ("fp32", "bf16"), "torch"),
    "torch-cuda": _Own(
        "onceforall.devices.pytorch", "prepare_cuda", ("fp32", "fp16", "bf16"), "torch"
    ),
}
ATTEMPTS = 8  # at timing on an undisturbed machine
PAUSE_SECONDS = 1.0  # between two of them
DISTURBED = 1.1  # the anchor's time, as a multiple of its fastest
PROBES = 12  # of the anchor, before its first use
TOGETHER = 12  # networks timed in turns: as many as are prepared at a time


@dataclass(frozen=True)
class Target:
    """A device and how it is used: what a latency is a latency of."""

    device: str = "onnxruntime-cpu"
    threads: int = 1
    batch: int = 1  # images a run
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.device not in names():
            raise InputError(f"device: {self.device!r} is not known; there are {choices(names())}")
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} is below 1")
        cores = os.cpu_count() or 1
        if self.device in _DEVICES and self.threads > cores:  # a plug-in's can be elsewhere
            raise InputError(
                f"threads: {self.threads} is more than the {cores} logical cores of this machine"
            )
        allowed = _DEVICES[self.device].precisions if self.device in _DEVICES else ("fp32",)
        if self.precision not in allowed:
            raise InputError(
                f"precision: {self.device} has {choices(allowed)}, not {self.precision!r}"
            )

    def __str__(self) -> str:
        """As it stands in records: device, and whatever is not the usual of the rest."""
        extras = [f"threads{self.threads}"] if self.threads != 1 else []
        extras += [f"batch{self.batch}"] if self.batch != 1 else []
        extras += [self.precision] if self.precision != "fp32" else []
        return "-".join([self.device, *extras])

    def prepare(self, network: nn.Module, shape: tuple[int, ...]) -> Callable[[], object]:
        """A call that runs `network` once on random numbers of `shape`, (C, H, W); its first run
        is over, so that what a run needs is there.

        Raises:
            InputError: a batch does not fit into memory.
        """
        network = _on_cpu(network)
        needed, there = _run_bytes(network, shape, self.batch), _memory_bytes()
        if needed > there:
            raise self._too_large(shape, f"needs {_gib(needed)}, this machine has {_gib(there)}")
        try:
            generator = torch.Generator().manual_seed(0)
            example = torch.randn((self.batch, *shape), generator=generator)
            call = _prepare_of(self.device)(network, example, self.threads, self.precision)
            call()
        except Exception as error:  # each runtime has an exception of its own for this
            if isinstance(error, InputError) or not _of_memory(error):
                raise
            raise self._too_large(shape, f"needs {_gib(needed)}, which was not there") from None
        return call

    def _too_large(self, shape: tuple[int, ...], why: str) -> InputError:
        size = "x".join(str(n) for n in shape)
        return InputError(
            f"batch: {self.batch} x {size} {why}; a smaller --batch or --resolution is needed"
        )


def _on_cpu(network: nn.Module) -> nn.Module:
    """The network, or a copy of one that lives elsewhere."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return network
    return copy.deepcopy(network).cpu()


def _run_bytes(network: nn.Module, shape: tuple[int, ...], batch: int) -> int:
    """What a run needs at least: the images, and of a batch the activations at their peak, where
    they can be counted. (Those of one image fit wherever it does; counting takes time.)"""
    images = batch * FLOAT_BYTES * math.prod(shape)
    if batch == 1:
        return images
    try:
        return batch * cost(network, shape).peak_activation_bytes
    except InputError:
        return images


def _memory_bytes() -> float:
    """All of this machine's; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _of_memory(error: Exception) -> bool:
    """Whether it says that memory could not be had."""
    return isinstance(error, MemoryError) or bool(re.search("memory|alloc", str(error), re.I))


def names() -> list[str]:
    """All devices, those of plug-ins last."""
    return [*_DEVICES, *_plugins()]


def measure(
    target: Target, network: nn.Module, shape: tuple[int, ...], rounds: int = ROUNDS
) -> Latency:
    """Latency of one network for images of `shape` (C, H, W)."""
    return measure_many(target, [(network, shape)], rounds)[0]


def measure_many(
    target: Target,
    networks: Sequence[tuple[nn.Module, tuple[int, ...]]],
    rounds: int = ROUNDS,
) -> list[Latency]:
    """Latencies of networks that are timed in turns, so that they can be compared.

    A small anchor network is timed with them. While it is slower than it has been seen to be, the
    machine is disturbed, and the networks are timed again after a pause; of all attempts the one
    with the fastest anchor counts.
    """
    anchor = _anchor(target)
    calls = [anchor.call, *(target.prepare(network, shape) for network, shape in networks)]
    best: list[Latency] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        found = time_calls(calls, rounds)
        anchor.fastest_ms = min(anchor.fastest_ms, found[0].median_ms)
        if not best or found[0].median_ms < best[0].median_ms:
            best = found
        anchor.latest_ms = best[0].median_ms
        if not anchor.disturbed:
            break
    return best[1:]


def disturbed(target: Target) -> bool:
    """Whether the machine was slower than it had been seen to be in all attempts of the last
    `measure_many`: its latencies are above those that were taken before."""
    return _anchor(target).disturbed


@dataclass
class _Anchor:
    """A call whose time tells the state of the machine."""

    call: Callable[[], object]
    fastest_ms: float
    latest_ms: float = 0.0  # in the attempt that counted

    @property
    def disturbed(self) -> bool:
        return self.latest_ms > DISTURBED * self.fastest_ms


@cache
def _anchor(target: Target) -> _Anchor:
    """Probed over some seconds, so that a short disturbance does not set the standard."""
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
    call = target.prepare(network, (3, 32, 32))
    fastest = float("inf")
    for _ in range(PROBES):
        fastest = min(fastest, time_calls([call], 1)[0].median_ms)
        time.sleep(PAUSE_SECONDS / 4)
    return _Anchor(call, fastest)


def provenance(target: Target) -> dict[str, Any]:
    """What a latency is a latency of, beside the target: the machine, its processor (of
    torch-cuda the GPU), and the runtime with its version. That of a plug-in is the package it
    comes with, and what it runs on is not known: the machine is the one that this runs on."""
    processor = _processor()
    if target.device == "torch-cuda" and torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": processor,
        "runtime": _runtime(target.device),
        "torch": torch.__version__,
    }


def _runtime(device: str) -> str:
    """Name and version, such as `onnxruntime 1.20.1`."""
    if device in _DEVICES:
        name = _DEVICES[device].runtime
        return f"{name} {importlib.import_module(name).__version__}"
    package = _plugins()[device].dist
    return "unknown" if package is None else f"{package.name} {package.version}"


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _prepare_of(device: str) -> Prepare:
    if device in _DEVICES:
        own = _DEVICES[device]
        return getattr(importlib.import_module(own.module), own.function)
    return _plugins()[device].load()


def _plugins() -> dict[str, EntryPoint]:
    return {plugin.name: plugin for plugin in entry_points(group="onceforall.devices")}
