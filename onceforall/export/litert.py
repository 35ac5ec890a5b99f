"""LiteRT's `.tflite` files: images (1, H, W, C) -> outputs as PyTorch has them.

Converted by `litert-torch`, in an environment of its own (`litert_environment`), which is fed an
exported program. int8 is its quantiser's: weights with a scale a channel, activations with a range
found on calibration images, inputs and outputs int8 too, as microcontrollers need them. Facts are
in a zip archive behind the graph, where LiteRT's tools keep labels; any unzip shows them. Files are
run by `ai_edge_litert`. Knows an `nn.Module` and a path, never an arch or a device.
"""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onceforall.errors import InputError, MissingExtraError
from onceforall.export import litert_environment
from onceforall.export.refusing import refusing

FACTS = "onceforall.json"  # in the archive
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal networks make equal files


def write(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, str],
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> None:
    """Of a network in evaluation mode on the CPU, for images of `shape` (C, H, W), one at a time.

    Raises:
        InputError: it cannot be written, or the converter's environment cannot be had.
    """
    channels, height, width = shape
    with TemporaryDirectory() as name, litert_environment.worker() as worker:
        folder = Path(name)
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            tensor.data = tensor.data.contiguous()  # of others, the converter mixes up the values
        with refusing(network, "litert"):
            program = torch.export.export(network, (torch.zeros((1, *shape)),))
            torch.export.save(program, folder / "network.pt2")
        images = None
        if precision == "int8" and calibration is not None:
            images = folder / "images.npy"
            np.save(images, calibration.permute(0, 2, 3, 1).contiguous().cpu().float().numpy())
        request = {
            "program": str(folder / "network.pt2"),
            "shape": [1, height, width, channels],
            "calibration": None if images is None else str(images),
            "threads": torch.get_num_threads(),
            "out": str(path),
        }
        answer = worker.ask(request)
    if "error" in answer:
        raise InputError(
            f"{type(network).__name__}: cannot be written as litert: {answer['error']}"
        )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(FACTS, ZIP_EPOCH), json.dumps(dict(facts), indent=1))


def load(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """What the file computes, image by image: (N, C, H, W) float32 -> outputs (N, classes, ...)."""
    runner = interpreter(path, threads)

    def run(x: Tensor) -> Tensor:
        outputs = []
        for image in x:
            feed(runner, image[None])
            runner.invoke()
            outputs.append(result(runner))
        return torch.cat(outputs)

    return run


def read_facts(path: Path) -> dict[str, str]:
    """Nothing where others wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(FACTS))
    except (zipfile.BadZipFile, KeyError):
        return {}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def interpreter(path: Path, threads: int, batch: int = 1) -> Any:
    """LiteRT's interpreter of the file, with its XNNPACK kernels, for `batch` images a run.

    Raises:
        MissingExtraError: no ai-edge-litert.
        InputError: it cannot read or run the file, or not so many images a run.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert", "LiteRT") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with _unheard():
        try:
            made = Interpreter(str(path), num_threads=threads)
            (given,) = made.get_input_details()
            if batch != given["shape"][0]:
                made.resize_tensor_input(given["index"], [batch, *given["shape"][1:]])
            made.allocate_tensors()
            made.invoke()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            many = "" if batch == 1 else f" with {batch} images a run"
            raise InputError(f"{path}: LiteRT cannot run it{many}: {reason[:200]}") from None
    if made.get_output_details()[0]["shape"][0] != batch:
        raise InputError(f"{path}: takes one image a run, not {batch}")
    return made


def feed(runner: Any, x: Tensor) -> None:
    """Images (N, C, H, W), as the file wants them: NHWC, and where it is int8 in its steps."""
    (given,) = runner.get_input_details()
    image = x.permute(0, 2, 3, 1).contiguous().cpu().float().numpy()
    if image.shape != tuple(given["shape"]):
        n, h, w, c = given["shape"]
        sizes = "x".join(map(str, x.shape))
        raise InputError(f"images: the file takes {n}x{c}x{h}x{w}, not {sizes}")
    if given["dtype"] != np.float32:
        scale, zero = given["quantization"]
        limits = np.iinfo(given["dtype"])
        image = np.rint(image / scale + zero).clip(limits.min, limits.max).astype(given["dtype"])
    runner.set_tensor(given["index"], image)


def result(runner: Any) -> Tensor:
    """The outputs of the last run, float32."""
    told = runner.get_output_details()[0]
    found = torch.from_numpy(runner.get_tensor(told["index"]))
    if told["dtype"] == np.float32:
        return found
    scale, zero = told["quantization"]
    return (found.float() - zero) * scale


@contextmanager
def _unheard() -> Iterator[None]:
    """LiteRT's C++ says on stderr which kernels it takes."""
    kept = os.dup(2)
    with TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
