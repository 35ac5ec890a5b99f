"""Runs inside LiteRT's own environment: makes `.tflite` files of exported programs.

Started by `litert_environment` with that environment's Python, by its path; nothing of this
package is imported here. Requests and answers are lines of JSON, the way in and the way out; what
the converter prints goes to the errors' way. One process converts many networks, since its imports
take seconds. Knows programs, arrays and paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# Nothing leaves this machine: what is imported below could look for models elsewhere.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", TF_CPP_MIN_LOG_LEVEL="3"
)
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # what libraries print is no answer

import litert_torch  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ai_edge_quantizer import quantizer, recipe  # noqa: E402
from torch import Tensor, nn  # noqa: E402


class Nhwc(nn.Module):
    """The program for images of (1, H, W, C), as LiteRT's kernels and its users have them."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False  # programs refuse `eval()`: they are what was exported

    def forward(self, image: Tensor) -> Tensor:  # (1, H, W, C)
        return self.program(image.permute(0, 3, 1, 2))


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Writes `out` of the program in `program`; of int8 weights and activations where
    `calibration` names an array of images, (N, H, W, C)."""
    program = torch.export.load(request["program"]).module()
    image = torch.zeros(request["shape"])  # (1, H, W, C)
    edge = litert_torch.convert(Nhwc(program), (image,))
    out = Path(request["out"])
    edge.export(str(out))
    if request["calibration"] is not None:
        images = np.load(request["calibration"], mmap_mode="r", allow_pickle=False)
        out.write_bytes(quantised(out, images, request["threads"]))
    return {"bytes": out.stat().st_size}


def quantised(path: Path, images: np.ndarray, threads: int) -> bytes:
    """The file with int8 weights, one scale a channel, and int8 activations, whose range is the
    widest on the images. (Left to itself the quantiser takes a moving average, which cuts off what
    some images need: docs/devices.md.)"""
    making = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    ((name, inputs),) = _signatures(path)
    ranges: dict[str, dict[str, np.ndarray]] = {}
    for image in images:
        sample = {name: [{inputs[0]: image[None]}]}
        for tensor, found in making.calibrate(sample, num_threads=threads).items():
            known = ranges.setdefault(tensor, found)
            if "min" in known:
                known["min"] = np.minimum(known["min"], found["min"])
                known["max"] = np.maximum(known["max"], found["max"])
    done = making.quantize(ranges, enable_progress_report=False).quantized_model
    if done is None:
        raise RuntimeError("the quantiser made no file")
    return bytes(done)


def _signatures(path: Path) -> list[tuple[str, list[str]]]:
    """Names of what the file computes, and of its inputs."""
    from ai_edge_litert.interpreter import Interpreter

    listed = Interpreter(str(path)).get_signature_list()
    return [(name, signature["inputs"]) for name, signature in listed.items()]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return convert(request)
    except Exception as error:  # of many kinds
        while isinstance(error.__cause__, Exception):
            error = error.__cause__
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": f"{lines[0] if lines else ''} ({type(error).__name__})"}


def main() -> None:
    say({"ready": f"litert-torch {litert_torch.__version__}"})
    for line in sys.stdin:
        say(answer(json.loads(line)))


def say(what: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        _answers.write(json.dumps(what) + "\n")
        _answers.flush()


if __name__ == "__main__":
    main()
