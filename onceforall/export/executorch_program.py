"""ExecuTorch's files, opened and run by its Python bindings. Knows a file, never a network."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from onceforall.errors import InputError, MissingExtraError
from onceforall.export.silence import silent

TOLD = "onceforall"  # the method that returns what the file says of itself, as JSON


class Program:
    """A file in memory, run on a number of threads: (1, C, H, W) float32 -> (1, classes, ...).

    The threads are the process's, and a loaded method goes on with those that it found, even when
    they are gone. So all methods of this process go before its threads are replaced, and each comes
    back at its next `load` or run.
    """

    _loaded: ClassVar[weakref.WeakSet[Program]] = weakref.WeakSet()

    def __init__(self, path: Path, threads: int) -> None:
        """Raises InputError where ExecuTorch cannot read the file or have so many threads."""
        self.path, self.threads = path, threads
        self._content = path.read_bytes()
        self._method: Any = None
        self.load()

    def __call__(self, image: Tensor) -> Tensor:
        if self._method is None:
            self.load()
        return self._method.execute((image,))[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the images: (1, C, H, W)."""
        self.load()
        return tuple(self._method.metadata.input_tensor_meta(0).sizes())

    def load(self) -> None:
        """Makes it ready to run; quick where it is."""
        if self._method is not None:
            return
        bindings = runtime()
        with silent():
            if bindings._threadpool_get_thread_count() != self.threads:
                for other in Program._loaded:
                    other._method = None
                bindings._unsafe_reset_threadpool(self.threads)
            found = bindings._threadpool_get_thread_count()
            self._method = _program(self.path, self._content).load_method("forward")
        if found != self.threads:
            raise InputError(f"threads: ExecuTorch gives {found} here, not {self.threads}")
        Program._loaded.add(self)


def told(path: Path) -> dict[str, Any]:
    """What `export` wrote about the file into it: facts, precision; else nothing."""
    with silent():
        program = _program(path, path.read_bytes())
        if TOLD not in program.method_names:
            return {}
        (text,) = program.load_method(TOLD).execute(())
    return json.loads(text)


def runtime() -> Any:
    """ExecuTorch's bindings.

    Raises:
        MissingExtraError: it is not installed.
        InputError: it was made for another PyTorch.
    """
    try:
        with silent():
            from executorch.extension.pybindings import portable_lib
    except ModuleNotFoundError:
        raise MissingExtraError("executorch", "executorch", "ExecuTorch") from None
    except ImportError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"ExecuTorch does not load with torch {torch.__version__}: pip install"
            f" 'onceforall[executorch]' finds one that does ({reason})"
        ) from None
    return portable_lib


def _program(path: Path, content: bytes) -> Any:
    runtime()
    from executorch.runtime import Runtime

    try:
        program = Runtime.get().load_program(content)
        if "forward" in program.method_names:
            return program
        reason = "it has no method forward"
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
    raise InputError(f"{path}: ExecuTorch cannot read it ({reason})")
