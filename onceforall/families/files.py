"""Families in a person's own file: `my_net.py:family`, the file's path and a name in it.

What has that name is a family made by `elastic`, or a function that returns a family and takes
`classes`, `in_channels` and `resolutions` by keyword. Reading such a family runs the file.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from onceforall.errors import InputError, choices
from onceforall.families.base import Family
from onceforall.families.elastic import Elastic

ENDING = ".py"


def is_file(name: str) -> bool:
    """Whether a family's name is of that form."""
    return _parts(name)[0].endswith(ENDING)


def family_in(name: str, *, path: str | None = None, **settings: Any) -> Family:
    """The family `FILE.py:NAME`.

    Args:
        path: the file, where the name has only its last part, as checkpoints do.

    Raises:
        InputError: no such file, one that does not run, or without an object of that name.
    """
    given, wanted = _parts(name)
    file = Path(path or given)
    short = f"{file.name}:{wanted}"
    if not wanted:
        raise InputError(f"family: {name}: name the family in the file, as in {given}:family")
    if not file.is_file():
        raise InputError(f"family: {short}: no file {file} here, in {Path.cwd()}")
    module = _module(file.resolve())
    if not hasattr(module, wanted):
        there = [n for n, v in vars(module).items() if isinstance(v, Family)]
        raise InputError(
            f"family: {file} has no {wanted!r}; families in it: {choices(there) or 'none'}"
        )
    found = getattr(module, wanted)
    origin = {"path": str(file)}
    if isinstance(found, Elastic):
        return found.again(**settings, origin=origin, name=short)
    if not callable(found) or isinstance(found, Family):
        raise InputError(
            f"family: {short}: is {type(found).__name__}; it must be a family made by elastic(),"
            " or a function that returns a family"
        )
    try:
        inspect.signature(found).bind(**settings)
    except TypeError as error:
        raise InputError(f"family: {short}: {error}") from None
    made = found(**settings)
    if isinstance(made, Elastic):
        return made.again(origin=origin, name=short)
    if not isinstance(made, Family):
        raise InputError(f"family: {short}: returned {type(made).__name__}, no family")
    return made


def _parts(name: str) -> tuple[str, str]:
    file, _, wanted = name.rpartition(":")
    return (file, wanted) if file else (name, "")


_LOADED: dict[tuple[Path, int], ModuleType] = {}  # a file is run once, until it changes


def _module(file: Path) -> ModuleType:
    key = (file, file.stat().st_mtime_ns)
    if key in _LOADED:
        return _LOADED[key]
    spec = importlib.util.spec_from_file_location(f"onceforall_file_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # what lies beside it can be imported
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise InputError(f"family: {file}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    _LOADED[key] = module
    return module
