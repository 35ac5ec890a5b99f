"""Writes a network in a format, runs the file, and compares it with PyTorch."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.errors import InputError
from onceforall.export.facts import texts
from onceforall.export.formats import Format, format_named
from onceforall.files import refuse_existing, write_atomically

TOLERANCE = 1e-4  # largest difference to PyTorch, as a share of the largest output


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        bytes: of all files that belong to it.
        digest: of what is in them.
        max_abs_diff: largest difference of its outputs to PyTorch's, on the same images.
        scale: the largest of PyTorch's outputs on them.
        agreement: share of real images whose first class is PyTorch's; None: none were given.
    """

    path: Path
    format: str
    precision: str
    bytes: int
    digest: str
    max_abs_diff: float
    scale: float
    agreement: float | None = None


def export(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    format: str = "onnx",
    facts: Mapping[str, Any] | None = None,
    *,
    precision: str = "fp32",
    calibration: Tensor | None = None,
    images: Tensor | None = None,
    overwrite: bool = False,
) -> Exported:
    """Writes `network` for images of `shape` (C, H, W), any batch size, and runs the file.

    Args:
        facts: written into the file: what whoever runs it must know (classes, mean, std).
        precision: of the file. What int8 changes is said, and refused nowhere: it is for accuracy
            on labelled images to judge.
        calibration: (N, C, H, W) training images, for int8.
        images: (N, C, H, W) real images to compare on, beside random numbers.

    Raises:
        InputError: unknown format or precision, the path exists, or no way is known to write the
            network.
        RuntimeError: the file does not compute what the network does; it is not kept.
    """
    form = format_named(format)
    form.check_precision(precision)
    if not path.name.endswith(form.suffix):
        raise InputError(f"{path}: the name of an {form.name} file ends with {form.suffix}")
    for file in form.files(path):
        refuse_existing(file, overwrite)
    network = copy.deepcopy(network).cpu().eval()
    said = texts({"channels": shape[0], **(facts or {})})
    found: list[Exported] = []

    def write_and_check(temporary: Path) -> None:
        form.write(copy.deepcopy(network), shape, temporary, said, precision, calibration)
        found.append(_checked(form, network, shape, temporary, precision, images))
        for made, wanted in zip(form.files(temporary)[1:], form.files(path)[1:], strict=True):
            made.replace(wanted)  # the file that is named comes last: with it they are whole

    write_atomically(path, write_and_check, overwrite=overwrite)
    (done,) = found
    return replace(done, path=path)


def copied(done: Exported, to: Path) -> Exported:
    """The file under another name, on any disk; whole or not at all, and never over another."""
    form = format_named(done.format)
    for file in form.files(to):
        refuse_existing(file)
    for source, wanted in reversed(list(zip(form.files(done.path), form.files(to), strict=True))):
        write_atomically(wanted, partial(_copy, source))
    return replace(done, path=to)


def _copy(source: Path, to: Path) -> None:
    shutil.copyfile(source, to)


def write_for_timing(
    network: nn.Module,
    shape: tuple[int, ...],
    folder: Path,
    form: Format,
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> Path:
    """A file of a network for a device to open, unchecked: what is delivered is checked. In int8
    it is calibrated on random numbers where no images are given, which changes no time."""
    path = folder / f"network{form.suffix}"
    if precision == "int8" and calibration is None:
        calibration = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    form.write(copy.deepcopy(network).cpu().eval(), shape, path, {}, precision, calibration)
    return path


def _checked(
    form: Format,
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    precision: str,
    images: Tensor | None,
) -> Exported:
    """The file, run on batches of 1 and 3 random images, and on the real ones.

    Raises:
        RuntimeError: in fp32 it differs by more than TOLERANCE of the largest output.
    """
    run = form.load(path)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn((n, *shape), generator=generator) for n in (1, 3)]
    batches += [] if images is None else list(images.split(64))
    worst, scale, same = 0.0, 0.0, 0
    for i, x in enumerate(batches):
        with torch.inference_mode():
            expected = network(x)
        given = run(x)
        worst = max(worst, _largest(given - expected))
        scale = max(scale, _largest(expected))
        if i > 1:
            same += _alike(given, expected)
    if precision == "fp32" and not worst <= TOLERANCE * max(1.0, scale):
        raise RuntimeError(
            f"the exported file differs from the network by {worst:.3g} at logits up to {scale:.3g}"
        )
    agreement = same / len(images) if images is not None and len(images) else None
    return Exported(
        path,
        form.name,
        precision,
        form.bytes(path),
        form.digest(path),
        worst,
        scale,
        agreement,
    )


def _alike(given: Tensor, expected: Tensor) -> int:
    """Of how many images (all pixels of) the first class is the same; (N, classes, ...)."""
    same = given.argmax(1) == expected.argmax(1)
    return int(same.reshape(len(same), -1).all(1).sum())


def _largest(x: Tensor) -> float:
    return float(x.abs().max())
