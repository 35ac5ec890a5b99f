"""A device and how it is used: what a latency is a latency of (`Target`)."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from onceforall.costs import FLOAT_BYTES, cost
from onceforall.devices.table import MODULE, Device, device_named
from onceforall.errors import InputError, choices
from onceforall.export import Format, format_named, format_of, write_for_timing

Network = nn.Module | Path  # or the exported file of one
Shape = tuple[int, ...]  # (C, H, W)


@dataclass(frozen=True)
class Target:
    """A device, and how networks run there."""

    device: str = "onnxruntime-cpu"
    threads: int = 1
    batch: int = 1  # images a run
    precision: str = "fp32"

    def __post_init__(self) -> None:
        known = device_named(self.device)
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} is below 1")
        cores = os.cpu_count() or 1
        if known.here and self.threads > cores:
            raise InputError(
                f"threads: {self.threads} is more than the {cores} logical cores of this machine"
            )
        if self.batch > 1 and not known.batched:
            raise InputError(f"batch: {known.name} runs one image at a time, not {self.batch}")
        if self.precision not in known.precisions:
            raise InputError(
                f"precision: {known.name} has {choices(known.precisions)}, not {self.precision!r}"
            )

    @property
    def known(self) -> Device:
        return device_named(self.device)

    def __str__(self) -> str:
        """As it stands in records: device, and whatever is not the usual of the rest."""
        extras = [f"threads{self.threads}"] if self.threads != 1 else []
        extras += [f"batch{self.batch}"] if self.batch != 1 else []
        extras += [self.precision] if self.precision != "fp32" else []
        return "-".join([self.known.name, *extras])

    @property
    def format(self) -> Format | None:
        """Of the files that networks are written to for it; None: it runs modules."""
        first = self.known.formats[0]
        return None if first == MODULE else format_named(first)

    @property
    def delivered_format(self) -> Format:
        """Of the file that a network is delivered in: what the device opens; ONNX, which most
        runtimes read, where it runs modules."""
        return self.format or format_named("onnx")

    def file_precision(self, form: Format) -> str:
        """Of the file: int8 is written; what is left is a way to run a file in fp32."""
        return self.precision if self.precision in form.precisions else "fp32"

    def prepare(
        self, network: Network, shape: Shape, calibration: Tensor | None = None
    ) -> Callable[[], object]:
        """A call that runs `network`, or the exported file of one, once on random numbers of
        `shape` (C, H, W); its first run is over, so that what a run needs is there.

        Raises:
            InputError: a batch does not fit into memory, the device does not open such a file, or
                its runtime is not installed.
        """
        needed = self._check_memory(network, shape)
        try:
            generator = torch.Generator().manual_seed(0)
            example = torch.randn((self.batch, *shape), generator=generator)
            call = self._opened(network, example, calibration)
            call()
        except Exception as error:  # each runtime has an exception of its own for this
            if isinstance(error, InputError) or not _of_memory(error):
                raise
            raise self._too_large(shape, f"needs {_gib(needed)}, which was not there") from None
        return call

    def written(
        self, network: Network, shape: Shape, folder: Path, calibration: Tensor | None = None
    ) -> Network:
        """What the device opens: the file that was given, one written to `folder` (which is made),
        or the module. `prepare` takes it.

        Raises:
            InputError: as `prepare`.
        """
        self._check_memory(network, shape)
        return self._file(network, shape, folder, calibration)

    def profile(
        self, network: Network, shape: Shape, calibration: Tensor | None = None
    ) -> list[tuple[str, str, float]]:
        """Name, kind and milliseconds of each layer that the device runs."""
        example = torch.randn((self.batch, *shape), generator=torch.Generator().manual_seed(0))
        with tempfile.TemporaryDirectory() as folder:
            file = self._file(network, shape, Path(folder), calibration)
            return self.known.profile(file, example, self)

    def _opened(
        self, network: Network, example: Tensor, calibration: Tensor | None
    ) -> Callable[[], object]:
        with tempfile.TemporaryDirectory() as folder:
            file = self._file(network, tuple(example.shape[1:]), Path(folder), calibration)
            return self.known.open(file, example, self)

    def _file(
        self, network: Network, shape: Shape, folder: Path, calibration: Tensor | None
    ) -> Network:
        """What the device opens: the file that was given, one written to `folder`, or a module."""
        if isinstance(network, Path):
            form = format_of(network)
            if form is None or form.name not in self.known.formats:
                raise InputError(
                    f"{network}: {self.known.name} opens {choices(self.known.formats)}"
                )
            return network
        network = _on_cpu(network)
        if self.format is None:
            return network
        folder.mkdir(exist_ok=True)
        precision = self.file_precision(self.format)
        return write_for_timing(network, shape, folder, self.format, precision, calibration)

    def _check_memory(self, network: Network, shape: Shape) -> int:
        """Bytes that a run needs at least; raises InputError where this machine has less."""
        needed, there = _run_bytes(network, shape, self.batch), _memory_bytes()
        if self.known.here and needed > there:
            raise self._too_large(shape, f"needs {_gib(needed)}, this machine has {_gib(there)}")
        return needed

    def _too_large(self, shape: Shape, why: str) -> InputError:
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


def _run_bytes(network: Network, shape: Shape, batch: int) -> int:
    """What a run needs at least: the images, and of a batch the activations at their peak, where
    they can be counted. (Those of one image fit wherever it does; counting takes time.)"""
    images = batch * FLOAT_BYTES * math.prod(shape)
    if batch == 1 or isinstance(network, Path):
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
