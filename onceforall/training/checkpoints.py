"""The latest checkpoints of a run: written whole or not at all, the newest good one read.

Knows a folder and a `State`, no networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onceforall.errors import InputError
from onceforall.progress import say
from onceforall.supernet import checkpoint
from onceforall.training import guards
from onceforall.training.state import State

FOLDER = "checkpoints"
EARLIER = "training.safetensors"  # the one checkpoint of versions up to 0.1, in the run's folder
KIND = "training"


def path_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}.safetensors"


def found(run: Path) -> list[Path]:
    """Those that are there, the newest first."""
    steps = [p for p in (run / FOLDER).glob("step-*.safetensors") if re.search(r"-\d+\.", p.name)]
    return sorted(steps, key=_step, reverse=True) + [p for p in [run / EARLIER] if p.exists()]


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def save(run: Path, state: State, facts: dict[str, Any], keep: int) -> None:
    """Writes one, then removes those that are not kept.

    Raises:
        InputError: it cannot be written; the earlier ones are left as they were.
    """
    tensors, own = state.flatten()
    path = path_of(run, state.step)
    with guards.written(path, kept(run)):
        checkpoint.save(path, KIND, tensors, {**facts, **own}, overwrite=True)
    prune(run, state.step, keep)


def prune(run: Path, step: int, keep: int) -> None:
    """Leaves that of a step and those before it, `keep` in all; later ones are what the run did not
    go on from: they are damaged."""
    every, own = found(run), path_of(run, step)
    if own in every:
        at = every.index(own)
        for old in every[:at] + every[at + max(1, keep) :]:
            old.unlink(missing_ok=True)


def kept(run: Path) -> str:
    """What there is to go on from, as a part of a sentence."""
    last = next(iter(found(run)), None)
    return f"{last.relative_to(run)} is kept; " if last else ""


def newest(
    run: Path, note: Callable[[str], None] = say
) -> tuple[Path, checkpoint.Checkpoint] | None:
    """The newest one that is whole; damaged ones are named. None: there are none.

    Raises:
        InputError: there are some, and none is whole.
    """
    errors: list[str] = []
    for path in found(run):
        try:
            read = checkpoint.load(path, KIND)
        except InputError as error:
            errors.append(str(error))
            continue
        for text in errors:
            note(f"{text}; {path.relative_to(run)} is used in its place")
        return path, read
    if errors:
        others = f"; nor is another of the {len(errors)} checkpoints whole" if errors[1:] else ""
        raise InputError(f"{errors[0]}{others}; a new run needs another folder")
    return None
