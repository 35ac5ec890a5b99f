"""Reading and writing files of named tensors: PyTorch's own and safetensors.

Nothing is unpickled but tensors and plain containers: a file that would run code is
refused, and does not run. Archives are checked against their checksums first. Knows
files and tensors only; what the names mean is for others.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.errors import InputError
from onceforall.files import write_atomically
from onceforall.interop.fields import shown

ORDINARY = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def is_torch_file(path: Path) -> bool:
    """Whether the file looks like one of `torch.save`: an archive, or an old plain pickle. One of
    safetensors may begin with the same byte, by the length of its header; the header follows."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return start.startswith(b"PK") or (start[:1] == b"\x80" and start[4:] != b"\0\0\0\0{")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file, by name; of its `state_dict` where it has one.

    Raises:
        InputError: no such file, damaged, would run code, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols; a refusal follows
            data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_refused(error)}") from None
    except Exception as error:  # a damaged pickle fails in any way
        raise InputError(f"{path}: damaged, or not a weights file: {_line(error)}") from None
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if data == {}:
        raise InputError(f"{path}: holds no tensors")
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds {shown(type(data).__name__)}, not named tensors")
    for name, tensor in data.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(f"{path}: key {shown(name)}: is not a tensor")
        if not _is_ordinary(tensor):
            raise InputError(f"{path}: key {name!r}: is not an ordinary tensor")
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise InputError(f"{path}: key {name!r}: has values that are not finite numbers")
    return dict(data)


def _is_ordinary(tensor: Tensor) -> bool:
    """Whether it is dense and of a common type, with memory of its own for each of its numbers: a
    few bytes can claim to be a tensor of any size."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in ORDINARY:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; their sum, which is quick, almost always says so already."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _check_archive(path: Path) -> None:
    """PyTorch does not check an archive's checksums; a flipped bit would pass as a weight."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise InputError(f"{path}: damaged: the archive is cut short")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: damaged: {_line(error)}") from None
    if broken is not None:
        raise InputError(f"{path}: damaged: {broken} does not match its checksum")


def _refused(error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return (
            f"refused: it holds {found[1].rstrip('.')}, which loading would run, not only tensors"
        )
    return "refused: damaged, or holds more than tensors and plain containers"


def _line(error: Exception) -> str:
    """The first sentence of somebody else's error."""
    text = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, overwrite: bool = False) -> None:
    """Writes `{"state_dict": tensors}` as the authors' files are. Atomic."""
    own = OrderedDict((n, t.detach().cpu().contiguous().clone()) for n, t in tensors.items())
    content: dict[str, Any] = {"state_dict": own}
    write_atomically(path, lambda p: torch.save(content, p), overwrite=overwrite)
