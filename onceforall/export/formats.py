"""The formats that a network can be written in, as a table: `FORMATS`.

Each has a file of its own in this room, which is imported when it is used, with `write(network,
shape, path, facts, precision, calibration)`, `load(path, threads)` -> outputs of images, and
`read_facts(path)`. More are found by the entry point `onceforall.formats`. Knows names and paths.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from onceforall.errors import InputError, choices, suggestion

DIGEST = 16  # hexadecimal digits of the digest that names a file


@dataclass(frozen=True)
class Format:
    """A kind of file that holds a network.

    Attributes:
        suffix: of the file; that of its `parts`, files beside it, take its place.
        precisions: that a file can have; the way a runtime runs it may be another still.
        module: of its functions.
        package: what must be installed to write one, and `extra`, which brings it; "": nothing.
        slow: its converter takes seconds, and may have to be set up first.
    """

    name: str
    suffix: str
    module: str
    precisions: tuple[str, ...] = ("fp32",)
    parts: tuple[str, ...] = ()
    package: str = ""
    extra: str = ""
    slow: bool = False

    def check_precision(self, precision: str) -> None:
        """Raises InputError where no file of this format has the precision."""
        if precision not in self.precisions:
            raise InputError(
                f"precision: {self.name} has {choices(self.precisions)}, not {precision!r}"
            )

    def write(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        path: Path,
        facts: Mapping[str, str],
        precision: str = "fp32",
        calibration: Tensor | None = None,
    ) -> None:
        """Writes a network in evaluation mode on the CPU, which may be changed, for images of
        `shape` (C, H, W). `calibration` (N, C, H, W): training images, for int8."""
        if precision not in self.precisions:
            self.check_precision(precision)
        if precision == "int8" and (calibration is None or not len(calibration)):
            raise InputError("calibration: int8 needs training images to be calibrated on")
        self._functions.write(network, shape, path, facts, precision, calibration)

    def load(self, path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
        """What runs the file: (N, C, H, W) float32 -> outputs (N, classes, ...)."""
        self._refuse_missing(path)
        return self._functions.load(path, threads)

    def read_facts(self, path: Path) -> dict[str, str]:
        """What the file says of itself."""
        self._refuse_missing(path)
        return self._functions.read_facts(path)

    def files(self, path: Path) -> list[Path]:
        """All files that belong together, the one that is named first."""
        return [path, *(path.with_suffix(part) for part in self.parts)]

    def bytes(self, path: Path) -> int:
        return sum(file.stat().st_size for file in self.files(path))

    def digest(self, path: Path) -> str:
        """The name of what is in the files."""
        found = hashlib.sha256()
        for file in self.files(path):
            found.update(file.read_bytes())
        return found.hexdigest()[:DIGEST]

    def _refuse_missing(self, path: Path) -> None:
        for file in self.files(path):
            if not file.is_file():
                raise InputError(f"{file}: no such file")

    @property
    def _functions(self) -> ModuleType:
        return importlib.import_module(self.module)


_OURS = (
    Format("onnx", ".onnx", "onceforall.export.onnx", ("fp32", "int8")),
    Format("pt2", ".pt2", "onceforall.export.pt2"),
    Format(
        "openvino",
        ".xml",
        "onceforall.export.openvino",
        ("fp32", "int8"),
        parts=(".bin",),
        package="openvino",
        extra="openvino",
    ),
    Format(
        "executorch",
        ".pte",
        "onceforall.export.executorch",
        ("fp32", "int8"),
        package="executorch",
        extra="executorch",
    ),
    Format(
        "ncnn",
        ".ncnn.param",
        "onceforall.export.ncnn",
        ("fp32", "fp16"),
        parts=(".bin", ".json"),
        package="pnnx",
        extra="ncnn",
    ),
    Format(
        "litert",
        ".tflite",
        "onceforall.export.litert",
        ("fp32", "int8"),
        package="ai_edge_litert",
        extra="litert",
        slow=True,
    ),
)


@cache
def formats() -> dict[str, Format]:
    """All formats by name, those of plug-ins last."""
    plugins = [plugin.load() for plugin in entry_points(group="onceforall.formats")]
    return {known.name: known for known in (*_OURS, *plugins)}


def format_named(name: str) -> Format:
    """Raises InputError where there is none of that name."""
    if name not in formats():
        raise InputError(
            f"format: {name!r} is not known; there are {choices(formats())}"
            + suggestion(name, formats())
        )
    return formats()[name]


def format_of(path: Path) -> Format | None:
    """The format of an exported file, by its suffix."""
    return next((f for f in formats().values() if path.name.endswith(f.suffix)), None)
