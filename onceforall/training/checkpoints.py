"""The latest checkpoints of a run: written whole or not at all, the newest good one read.

Knows a folder and a `State`, no networks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from onceforall.errors import InputError
from onceforall.progress import say
from onceforall.supernet import checkpoint
from onceforall.training.state import State

FOLDER = "checkpoints"
EARLIER = "training.safetensors"  # the one checkpoint of versions up to 0.1, in the run's folder
KIND = "training"


def path_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}.safetensors"


def found(run: Path) -> list[Path]:
    """Those that are there, the newest first."""
    steps = [p for p in (run / FOLDER).glob("step-*.safetensors") if re.search(r"-\d+\.", p.name)]
    newest = sorted(steps, key=lambda p: int(p.stem.partition("-")[2]), reverse=True)
    return newest + [p for p in [run / EARLIER] if p.exists()]


def save(run: Path, state: State, facts: dict[str, Any], keep: int) -> None:
    """Writes one, then removes all but the newest `keep`.

    Raises:
        InputError: it cannot be written; the earlier ones are left as they were.
    """
    tensors, own = state.flatten()
    path = path_of(run, state.step)
    try:
        checkpoint.save(path, KIND, tensors, {**facts, **own}, overwrite=True)
    except OSError as error:
        before = next((p for p in found(run) if p != path), None)
        kept = f"{before.relative_to(run)} is kept" if before else "there is none before it"
        reason = error.strerror or str(error)
        raise InputError(
            f"{path}: the checkpoint cannot be written: {reason}; {kept}. Make room, then --resume"
        ) from None
    for old in found(run)[max(1, keep) :]:
        old.unlink(missing_ok=True)


def newest(run: Path) -> tuple[Path, checkpoint.Checkpoint] | None:
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
            say(f"{text}; {path.relative_to(run)} is used in its place")
        return path, read
    if errors:
        raise InputError(errors[0])
    return None
