"""Families in a person's own file: `my_net.py:family`, the file's path and a name in it.

What has that name is a family made by `elastic`, or a function that returns a family and takes
`classes`, `in_channels` and `resolutions` by keyword. Reading such a family runs the file.

Archs, checkpoints and predictors name the family without the file's folder. Of such a name the
file is looked for in the working directory, and then where one of that name was read before.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
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
        path: the file, where the name has only its last part, as checkpoints do; where it is no
            more, one of its name in the working directory is taken.

    Raises:
        InputError: no such file, one that does not run, or without an object of that name.
    """
    given, wanted = _parts(name)
    file = Path(path or given)
    short = f"{file.name}:{wanted}"
    if not file.is_file() and path is not None:
        file = Path(file.name) if Path(file.name).is_file() else file
    elif not file.is_file() and given == file.name:
        file = _READ.get(given, file)
    if not wanted:
        raise InputError(f"family: {name}: name the family in the file, as in {given}:family")
    if not file.is_file():
        raise InputError(
            f"family: {short}: no file {file}"
            + (f", and no {file.name} here" if path else " here")
            + f", in {Path.cwd()}"
        )
    module = _module(file.resolve())
    _READ[file.name] = file
    if not hasattr(module, wanted):
        there = [n for n, v in vars(module).items() if isinstance(v, Family)]
        raise InputError(
            f"family: {file} has no {wanted!r}; families in it: {choices(there) or 'none'}"
        )
    found = getattr(module, wanted)
    origin = {"path": str(file.resolve())}
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


def without_folder(arch: str) -> tuple[str, str | None]:
    """An arch as text, `FOLDER/my_net.py:family@...`, without the folder; and the file, None where
    the family is in none."""
    found = re.fullmatch(r"(.*/)?([^/]+\.py)(:.+)", arch.strip(), re.DOTALL)
    if found is None:
        return arch, None
    folder, file, rest = found.groups()
    return file + rest, f"{folder or ''}{file}"


def _parts(name: str) -> tuple[str, str]:
    file, _, wanted = name.rpartition(":")
    return (file, wanted) if file else (name, "")


_READ: dict[str, Path] = {}  # where files lay that were read, by their names
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
    except InputError as error:
        raise InputError(f"family: {file}: {error}") from None
    except Exception as error:  # whatever the file does
        raise InputError(f"family: {file}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    _LOADED[key] = module
    return module
