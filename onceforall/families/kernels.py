"""`kernels.cpp`, compiled once on each machine and called on tensors.

A C++ compiler (`CXX`, else `c++`, `g++`, `clang++`) builds it for this processor, in some ten
seconds, into the user's cache folder; the file's name is a digest of the source, the command and
the processor. Without a compiler, or with `ONCEFORALL_KERNELS=0`, there are none and PyTorch's own
operations are used. It runs on PyTorch's own threads (the OpenMP library that PyTorch brings). This
file knows no networks and no gradients.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.files import cache_folder
from onceforall.progress import say

SOURCE = Path(__file__).with_name("kernels.cpp")
SWITCH = "ONCEFORALL_KERNELS"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 300  # a compiler that takes longer is given up
SUFFIX = {torch.float32: "float", torch.float64: "double"}


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Calls a function of `kernels.cpp` on PyTorch's threads. A tensor is given as its address: it
    must be as dense as the function reads it. None is a null pointer."""
    library = _library()
    assert library is not None, "asked for without `available`"
    passed = [_passed(a) for a in arguments]
    library[f"{name}_{SUFFIX[dtype]}"](*passed, ctypes.c_longlong(torch.get_num_threads()))


def _passed(value: Any) -> Any:
    if value is None:
        return ctypes.c_void_p()
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, int):
        return ctypes.c_longlong(value)
    if isinstance(value[0], Tensor):  # an array of tensors
        return (ctypes.c_void_p * len(value))(*(t.data_ptr() for t in value))
    return (ctypes.c_longlong * len(value))(*value)


def available() -> bool:
    """Whether there are kernels here; the first call may compile them."""
    return os.environ.get(SWITCH, "1") != "0" and _library() is not None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        say(f"training runs without compiled kernels, slower: {_reason(error)}")
        return None


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    return said.strip().splitlines()[0] if said else str(error)


def _compiled() -> Path:
    """The library's file, compiled unless it is there.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled; say why.
    """
    if platform.system() != "Linux":
        raise OSError(f"they are for Linux, not {platform.system()}")
    wanted = os.environ.get("CXX")
    compiler = wanted or next((c for c in COMPILERS if shutil.which(c)), None)
    if compiler is None:
        raise OSError(f"no C++ compiler ({', '.join(COMPILERS)}); install one, such as g++")
    runtime = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.so*"))
    openmp = ("-fopenmp", *map(str, runtime[:1]))
    command = [compiler, *FLAGS, "-fPIC", "-shared", str(SOURCE), *openmp]
    parts = [SOURCE.read_text(), *command, _processor(), torch.__version__]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder()
    path = folder / f"kernels-{digest}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as beside:  # others may compile it, too
        made = Path(beside) / path.name
        subprocess.run(
            [*command, "-o", str(made)], check=True, capture_output=True, text=True, timeout=SECONDS
        )
        made.replace(path)
    return path


def _processor() -> str:
    """What `-march=native` depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
