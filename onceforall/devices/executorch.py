"""ExecuTorch with XNNPACK on this machine's CPU. Knows a file, never a network or an arch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from onceforall.errors import InputError
from onceforall.export.executorch_program import Program, told

if TYPE_CHECKING:
    from onceforall.devices import Target


def open(file: Path, example: Tensor, target: Target) -> Run:
    """A call that runs the file once on `example`, (1, C, H, W).

    Raises:
        InputError: the file is of another precision than the target's, or for other images.
    """
    precision = told(file).get("precision", target.precision)  # others' files do not tell
    if precision != target.precision:
        raise InputError(f"{file}: its precision is {precision}, not {target.precision}")
    program = Program(file, target.threads)
    if program.shape != tuple(example.shape):
        wanted, given = ("x".join(map(str, s)) for s in (program.shape, example.shape))
        raise InputError(f"{file}: images are {wanted}, not {given}")
    return Run(program, example.contiguous())


@dataclass(frozen=True)
class Run:
    """One run a call."""

    program: Program
    image: Tensor  # (1, C, H, W)

    def __call__(self) -> None:
        self.program(self.image)

    @contextmanager
    def stretch(self) -> Iterator[None]:
        """Has the threads that it was opened for, whatever ran before."""
        self.program.load()
        yield
