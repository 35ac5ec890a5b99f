"""The folder of a run: what is in it, whether a run may begin or go on there, and its lock.

settings.json             the settings it was started with
data.json                 what its images were: by part and class their number and a digest
metrics.jsonl             a line every few steps, and one for each look at validation images
checkpoints/              step-N.safetensors, the latest few, to resume from, and
                          phase-NAME.safetensors, the weights at the end of each phase
teacher.safetensors       the trained largest network, which teaches the others
best.safetensors          the best network so far, where it is asked for
supernet.safetensors      the result; of fine-tuning network.safetensors
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onceforall.data import CONTENTS, Data, changes_since
from onceforall.errors import InputError, choices
from onceforall.files import read_json, remove_leftovers, write_atomically, write_json
from onceforall.supernet import checkpoint
from onceforall.training import checkpoints, guards
from onceforall.training.config import settings_from_dict
from onceforall.training.ranks import Group, restarted
from onceforall.training.settings import Settings

SETTINGS = "settings.json"  # names in a run's folder
TEACHER = "teacher.safetensors"
BEST = "best.safetensors"
SUPERNET = "supernet.safetensors"
NETWORK = "network.safetensors"
_LOCK = ".lock"

# What may change when a run is resumed: the result does not depend on it.
FREE = (
    "threads",
    "checkpoint_seconds",
    "checkpoints",
    "log_steps",
    "tensorboard",
    "recompute",
    "data.root",
    "data.workers",
    "data.unreadable",
)
LOOKS = ("validate_steps", "validate_archs")  # likewise, where the last weights are the result


@contextmanager
def locked(run: Path, group: Group) -> Iterator[None]:
    """No other process trains in that folder while the block runs. The lock goes with the process,
    however it ends.

    Raises:
        InputError: one does.
    """
    lock = FileLock(run / _LOCK)

    def take() -> None:
        if group.first and run.is_dir():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{run}: another process is training in it; wait for it, or name another folder"
                ) from None
            except OSError as error:
                raise InputError(f"{run}: cannot be written: {error.strerror}") from None

    group.together(take)
    try:
        yield
    finally:
        if lock.is_locked:
            (run / _LOCK).unlink(missing_ok=True)
            lock.release()


def check(run: Path, settings: Settings, data: Data, resume: bool) -> None:
    """Refuses a folder that holds a run already, or to resume another run than is there."""
    path = run / SETTINGS
    if path.exists() and not resume:
        raise InputError(f"{run}: holds a run already; resume it, or name another folder")
    if path.exists():
        changes = changes_since(run / CONTENTS, data, ("train",))
        moved = (run / CONTENTS).exists() and not changes  # the same images under another name
        before = settings_from_dict(read_json(path), str(path))
        free = [*FREE, *(["data.name"] if moved else [])]
        free += LOOKS if before.keep == settings.keep == "last" else ()
        _refuse_changes(before, settings, path, free)
        if changes:
            raise InputError(
                f"{run}: its training images have changed ({changes}); put them back as they were,"
                " or start a new run"
            )
    elif resume:
        raise InputError(f"{run}: no run to resume there")
    elif run.exists() and not (run.is_dir() and all(map(_of_a_start, run.iterdir()))):
        raise InputError(f"{run}: exists and is not a run; name another folder")


def goes_on(run: Path, settings: Settings, data: Data, resume: bool, group: Group) -> bool:
    """Whether a run goes on with what is in the folder: where it is asked to, or where torchrun has
    started its processes again.

    Raises:
        InputError: as `check`, in all processes.
    """
    resume = resume or (group.any(restarted()) and (run / SETTINGS).exists())
    group.together(lambda: check(run, settings, data, resume))
    return resume


def _of_a_start(path: Path) -> bool:
    """Whether a run that was killed while it began can have left it."""
    if path.name == checkpoints.FOLDER:
        return not any(path.iterdir())
    return path.name == CONTENTS or path.name.startswith(".")


def prepare(run: Path, settings: Settings, data: Data, group: Group) -> None:
    """Makes the folder of a run that begins, and clears up after one that was killed."""
    group.wait()  # all have looked at it
    if not group.first:
        return
    for inside in (run, run / checkpoints.FOLDER):
        remove_leftovers(inside, alone=True)
    path = run / SETTINGS
    if path.exists():
        return
    with guards.written(path):
        write_json(run / CONTENTS, data.contents, overwrite=True)
        write_json(path, settings.to_dict())


def _refuse_changes(before: Settings, now: Settings, path: Path, free: Sequence[str]) -> None:
    """Compares settings as they are understood: where a file written by an earlier version lacks
    one, it had the default."""
    was, wanted = _flat(before.to_dict()), _flat(now.to_dict())
    for key in sorted({*was, *wanted} - {*free}):
        if was.get(key) != wanted.get(key):
            raise InputError(
                f"{path}: {key} was {was.get(key)!r}, now {wanted.get(key)!r};"
                f" a run is resumed with its own settings, but for {choices(FREE)}"
            )


def alike(settings: Settings, data: Data) -> dict[str, Any]:
    """What must be the same in all processes of a run, by name: its settings and its images."""
    found = {k: v for k, v in _flat(settings.to_dict()).items() if k not in (*FREE, "data.name")}
    for part in ("train", "validation"):
        found |= {f"{part} images of class {k}": v for k, v in data.contents[part].items()}
    return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Plain data by the names that the command line has for it, such as `phases.0.lr`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, part in inside:
        nested = isinstance(part, dict) or key == "phases"
        flat |= _flat(part, f"{name}{key}.") if nested else {f"{name}{key}": part}
    return flat


def copy(source: Path, target: Path) -> None:
    """Whole or not at all.

    Raises:
        InputError: it is damaged, or there is no room.
    """
    checkpoint.load(source, checkpoint.describe(source)["kind"])
    with guards.written(target):
        write_atomically(target, lambda p: _copy(source, p), overwrite=True)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def make(run: Path, group: Group) -> None:
    """The folder itself.

    Raises:
        InputError: it cannot be made.
    """
    if group.first:
        try:
            (run / checkpoints.FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{run}: cannot be made: {error.strerror}") from None
