"""Writing files so that nothing is lost: whole or not at all, and never over another.

Knows paths and bytes only.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from onceforall.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = ".written-by-onceforall"  # in the folder of a file that is being written


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Raises InputError where something is at `path` already, or its folder cannot be made."""
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; name another path or remove it first")
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: cannot be written: the folder {parent} does not allow it")


def exists(path: Path) -> bool:
    """Whether something is there; a name that no file can have is not."""
    try:
        return path.exists()
    except OSError:
        return False


def write_atomically(path: Path, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Calls `write` with a temporary path near `path` and moves the result into place.

    A reader sees the old file or the new one, whole; on an error nothing is left behind. What a
    writer of this path left that was killed meanwhile is removed first.
    """
    refuse_existing(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        folder, handle = _working_folder(path)
    except OSError as error:  # names the file that was asked for, not what was to be beside it
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        temporary = folder / path.name
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # some writers make files for their owner alone
        temporary.replace(path)
        _keep_names(path.parent)
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def _keep_names(folder: Path) -> None:
    """The names in a folder outlast a power cut from now on, where the platform knows how to."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Removes from a folder what `write_atomically` had begun when its process was killed: of the
    file `name`, or of all files. A writer that lives holds a lock, so its work is left alone; so
    is all where the file system or the platform has no locks. `alone`: nobody else writes there, so
    that what has no lock was left by one that was killed before it had it, or while it cleared up.
    """
    if fcntl is None:
        return
    for lock in folder.glob(f".{'*' if name is None else glob.escape(name)}.*/{_LOCK}"):
        with suppress(OSError):  # locked by a living writer, just removed by another, or no locks
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
            finally:
                os.close(handle)
    for left in folder.glob(".*.????????") if alone else ():
        if left.is_dir() and not (left / _LOCK).exists():
            shutil.rmtree(left, ignore_errors=True)


def _working_folder(path: Path) -> tuple[Path, int]:
    """A fresh folder beside `path`, and the open file in it whose lock says that we live. A writer
    may put files of its own beside the one it was asked for: they lie in there, too."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        lock = folder / _LOCK
        handle = os.open(lock, os.O_RDWR | os.O_CREAT)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock.exists():
            return folder, handle
        os.close(handle)  # somebody took it for a leftover before it was locked: once more


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    write_atomically(path, lambda p: _write(p, text), overwrite=overwrite)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any, *, overwrite: bool = False) -> None:
    write_text(path, json.dumps(data, indent=1) + "\n", overwrite=overwrite)


def read_json(path: Path) -> Any:
    """Raises InputError where the file is missing or not JSON."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number can be too long, too
        raise InputError(f"{path}: not JSON: {error}") from None


def read_text(path: Path) -> str:
    """Raises InputError where the file is missing, a folder, or not text."""
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, a file was expected") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def cache_folder() -> Path:
    """Where downloads are kept: `ONCEFORALL_CACHE`, or the platform's folder for caches."""
    given = os.environ.get("ONCEFORALL_CACHE")
    if given:
        return Path(given)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "onceforall"
