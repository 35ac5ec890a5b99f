"""Checkpoints: one safetensors file that holds weights and what they are.

The description is JSON in the file's header: kind, format version, and the facts
that its reader needs. A digest over tensors and description is checked on load, so a
truncated or altered file is refused. Written atomically. Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.errors import InputError
from onceforall.files import write_atomically

VERSION = 1
_KEY = "onceforall"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the facts written with them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save(
    path: Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint of a `kind` ("supernet", "network", "training")."""
    from safetensors.torch import save_file

    own: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        if found.data_ptr() in places:  # tied; safetensors wants each by itself
            found = found.clone()
        places.add(found.data_ptr())
        own[name] = found
    described = {**facts, "kind": kind, "version": VERSION}
    text = json.dumps(described, sort_keys=True)
    header = {_KEY: text, "sha256": digest(own, text)}
    write_atomically(path, lambda p: save_file(own, p, metadata=header), overwrite=overwrite)


def load(path: Path, kind: str) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Raises:
        InputError: no such file, damaged, of another kind, or of a later version.
    """
    facts = describe(path)
    found = facts["kind"]
    if found != kind:
        raise InputError(f"{path}: holds a {found}, a {kind} was expected")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    if digest(tensors, header[_KEY]) != header["sha256"]:
        raise InputError(f"{path}: damaged: its contents do not match their digest")
    return Checkpoint(tensors, facts)


def describe(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, without its tensors.

    Raises:
        InputError: no such file, not a checkpoint of ours, truncated, or of a later version.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise InputError(f"{path}: is a folder, a checkpoint was expected")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or not a checkpoint: {error}") from None
    if _KEY not in header or "sha256" not in header:
        raise InputError(f"{path}: a safetensors file, but not a checkpoint of onceforall")
    try:
        facts = json.loads(header[_KEY])
        version = facts["version"]
        facts["kind"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise InputError(f"{path}: damaged: its description cannot be read") from None
    if version != VERSION:
        raise InputError(f"{path}: format version {version}, this release reads {VERSION}")
    return facts


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text and of tensors with their names, types and shapes, wherever they live."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
