"""Objects in a person's own file: `my_net.py:family` is the object `family` of `my_net.py`.

Looking one up runs the file, once until it changes. Where the folder is not named, the file is
looked for in the working directory, and then where one of its name was read before. Knows nothing
of what the objects are for.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from onceforall.errors import InputError, choices

ENDING = ".py"


class Plugin(NamedTuple):
    """An object of a file."""

    value: Any
    file: Path
    short: str  # its name without the file's folder


def is_file(name: str) -> bool:
    """Whether a name has the form FILE.py:NAME."""
    return _parts(name)[0].endswith(ENDING)


def find(kind: str, plural: str, name: str, wanted: type, *, path: str | None = None) -> Plugin:
    """The object that `FILE.py:NAME` names.

    Args:
        kind, plural: what it should be, for messages: "family", "families".
        wanted: the type of which the file's other objects are offered where there is none of that
            name. What is found is not checked: it may be a function that makes one.
        path: the file, where the name has only its last part, as checkpoints do; where it is no
            more, one of its name in the working directory is taken.

    Raises:
        InputError: no such file, one that does not run, or without an object of that name.
    """
    given, inside = _parts(name)
    file = Path(path or given)
    short = f"{file.name}:{inside}"
    if not file.is_file() and path is not None:
        file = Path(file.name) if Path(file.name).is_file() else file
    elif not file.is_file() and given == file.name:
        file = _READ.get(given, file)
    if not inside:
        raise InputError(f"{kind}: {name}: name the {kind} in the file, as in {given}:{kind}")
    if not file.is_file():
        raise InputError(
            f"{kind}: {short}: no file {file}"
            + (f", and no {file.name} here" if path else " here")
            + f", in {Path.cwd()}"
        )
    module = _module(kind, file.resolve())
    _READ[file.name] = file
    if not hasattr(module, inside):
        there = [n for n, v in vars(module).items() if isinstance(v, wanted)]
        raise InputError(
            f"{kind}: {file} has no {inside!r}; {plural} in it: {choices(there) or 'none'}"
        )
    return Plugin(getattr(module, inside), file, short)


def _parts(name: str) -> tuple[str, str]:
    file, _, inside = name.rpartition(":")
    return (file, inside) if file else (name, "")


_READ: dict[str, Path] = {}  # where files lay that were read, by their names
_LOADED: dict[tuple[Path, int], ModuleType] = {}  # a file is run once, until it changes


def _module(kind: str, file: Path) -> ModuleType:
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
        raise InputError(f"{kind}: {file}: {error}") from None
    except Exception as error:  # whatever the file does
        raise InputError(f"{kind}: {file}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    _LOADED[key] = module
    return module
