"""What keeps a run from being lost: signals that stop it in order, disks that are full, losses and
labels that are none, batches that cannot be divided."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from onceforall.data import Data, Images
from onceforall.errors import InputError, SharedError

IN_A_ROW = 5  # steps whose gradients are not finite, after which no better ones are to be hoped for
IN_A_ROW_SCALED = 25  # in fp16, where the first steps find the scale of the losses
IN_A_ROW_LAST = 2  # at the end of a phase: one such batch is no divergence
AGAIN = 2.0  # seconds: a second Ctrl-C sooner is the same one, which torchrun has passed on


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Signals to stop that have come while the block runs; a second Ctrl-C stops at once."""
    found: list[int] = []
    first = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(number: int, frame: Any) -> None:
        nonlocal first
        now = time.monotonic()
        first = first if found else now
        found.append(number)
        if number == signal.SIGINT and now - first > AGAIN:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_divergence(phase: str, step: int, in_a_row: int, most: int, kept: str) -> None:
    """Raises InputError where so many steps in a row had to be passed over."""
    if in_a_row < most:
        return
    raise SharedError(
        f"phases: {phase}: the loss is not finite since step {step - in_a_row + 1};"
        f" {in_a_row} steps were passed over; a lower lr helps, or clip. {kept}"
    )


@contextmanager
def written(path: Path, kept: str = "") -> Iterator[None]:
    """While the block writes that file of a run.

    Raises:
        InputError: the disk is full, say. What was there is there; `kept` says what that is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path}: cannot be written: {reason}; {kept}make room, then --resume"
        ) from None


def refuse_batch(
    batch: int, parts: int, processes: int, data: Data, name: str = "batch_size"
) -> None:
    """Raises InputError where a batch cannot be divided among processes that run their share in so
    many parts each; `name` is what it was given by."""
    if batch > len(data.train):
        raise InputError(f"{name}: {batch} is more than the {len(data.train)} images")
    if batch % (processes * parts):
        by = f"{processes} processes" + (f" of {parts} parts each" if parts > 1 else "")
        raise InputError(f"{name}: {batch} cannot be divided among {by}")
    if batch < 2 * processes * parts:
        raise InputError(
            f"{name}: {batch} is not enough for {processes * parts} parts:"
            " batch norm needs 2 images or more in each"
        )


def refuse_precision(precision: str, device: torch.device) -> None:
    """Raises InputError where the device does not compute so."""
    if precision == "tf32" and device.type != "cuda":
        raise InputError(
            "precision: tf32 is of NVIDIA GPUs, and PyTorch sees none here; fp32 is what a CPU has"
        )


def refuse_labels(data: Data) -> None:
    """Raises InputError where an image to be trained on or looked at is of a class that there is
    not."""
    for part, images in (("training", data.train), ("validation", data.validation)):
        labels, classes = images.labels, len(data.classes)
        if labels.dim() != 1 or labels.is_floating_point():
            continue
        wrong = torch.nonzero((labels < 0) | (labels >= classes)).flatten()
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"data: {data.name}: {part} image {_name(images, row)}: class {int(labels[row])};"
                f" there are 0 to {classes - 1}, and {len(wrong)} images of others"
            )


def _name(images: Images, row: int) -> str:
    paths = getattr(images, "paths", None)
    return str(row if paths is None else paths[row])
