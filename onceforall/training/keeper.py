"""The weights that a run keeps in its folder: checkpoints to go on from, those at the end of each
phase, the best on validation, and the result.

Knows a state and what it is of, not what a step is. What else is in the folder, and whether a run
may begin there, `folder` knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onceforall.data import Data
from onceforall.errors import InputError, choices
from onceforall.progress import say
from onceforall.supernet import (
    SuperNet,
    checkpoint,
    load_exactly,
    save_network,
    save_supernet,
    tasks,
)
from onceforall.training import checkpoints, folder, guards, validation
from onceforall.training.alone import Alone
from onceforall.training.curricula import Phase
from onceforall.training.optimizers import optimizer_of
from onceforall.training.ranks import Group
from onceforall.training.settings import Settings
from onceforall.training.state import MODEL, State

# Of the state's own: what was chosen when the run began, the best score so far, whether there is a
# teacher.
FACTS = ("accumulate", "best", "held", "precision", "processes", "taught")


class Keeper:
    """Writes and reads a run's weights; of several processes the first alone writes."""

    def __init__(
        self,
        run: Path,
        settings: Settings,
        data: Data,
        group: Group,
        student: SuperNet | Alone,
        state: State,
    ) -> None:
        self.folder, self.settings, self.data, self.group = run, settings, data, group
        self.student, self.state = student, state
        alone = isinstance(student, Alone)
        self.result = run / (folder.NETWORK if alone else folder.SUPERNET)
        self.best = run / folder.BEST

    @property
    def arch(self) -> str | None:
        """Of the network, where there is one alone."""
        return str(self.student.arch) if isinstance(self.student, Alone) else None

    # --- checkpoints

    def save(self) -> None:
        """A checkpoint to resume from, unless there are weights beyond all numbers by now."""
        if self.group.first and _finite(self.student.parameters()):
            facts = {"family": self.student.family.name}
            if self.arch is not None:
                facts["arch"] = self.arch
            checkpoints.save(self.folder, self.state, facts, self.settings.checkpoints)

    def newest(self, steps: int) -> tuple[Path, checkpoint.Checkpoint] | None:
        """The newest checkpoint that is whole, of a run of so many steps; None: there are none.

        Raises:
            InputError: it is of another network, so many processes cannot go on with it, or none
                is whole.
        """
        note = say if self.group.first else lambda text: None
        found = checkpoints.newest(self.folder, note)
        if found is not None:
            self._check(found[0], found[1].facts, steps)
        return found

    def restore(self, path: Path, read: checkpoint.Checkpoint) -> None:
        """The state as it was written in a checkpoint.

        Raises:
            InputError: it does not fit.
        """
        self.state.optimizer = optimizer_of(self.student, self.settings)
        n = len(MODEL)
        model = {k[n:]: t for k, t in read.tensors.items() if k.startswith(MODEL)}
        load_exactly(self.student, model, path)
        try:
            self.state.restore(read.tensors, read.facts)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        self.state.facts |= {k: read.facts[k] for k in FACTS if k in read.facts}

    def _check(self, path: Path, facts: dict[str, Any], steps: int) -> None:
        if facts.get("family") != self.student.family.name:
            raise InputError(f"{path}: of family {facts.get('family')}")
        if facts.get("arch") != self.arch:
            raise InputError(f"{path}: of {facts.get('arch') or 'a supernet'}, not of {self.arch}")
        size = self.group.size
        processes = facts.get("processes", size)  # the first version did not say
        others = [n for n in range(1, processes) if processes % n == 0]
        if any(phase.candidates > 1 for phase in self.settings.phases):
            others = []  # are chosen by the losses of all shares together
        ended = facts["step"] >= steps
        if size not in (processes, *others) and not ended and not self.settings.sync_batch_norm:
            raise InputError(
                f"{path}: processes was {processes}, now {size}: each normalises by its own"
                " share of a batch, so the steps would be others; start"
                f" {choices([processes, *others])}, or begin with sync_batch_norm"
            )

    # --- weights that others use

    def end(self, number: int, phase: Phase) -> None:
        """The weights of a phase that has come to its end."""
        if self.group.first:
            name = "".join(c if c.isalnum() or c in "-_" else "-" for c in phase.name)
            self._write(self.folder / checkpoints.FOLDER / f"phase-{number}-{name}.safetensors")

    def compare(self, score: float) -> None:
        """Keeps the weights if they are the best so far."""
        best = self.state.facts.get("best")
        if best is None or score > best:
            self.state.facts["best"] = score
            if self.group.first:
                self._write(self.best)

    def check_best(self) -> None:
        """Raises InputError where the best weights, which the run ends with, are damaged."""
        if "best" in self.state.facts:
            try:
                checkpoint.load(self.best, checkpoint.describe(self.best)["kind"])
            except InputError as error:
                raise InputError(f"{error}; a new run needs another folder") from None

    def has_result(self) -> bool:
        """Whether the result is there, whole."""
        try:
            return bool(checkpoint.load(self.result, checkpoint.describe(self.result)["kind"]))
        except InputError:
            return False

    def finish(self) -> None:
        """Writes the result."""
        if not self.group.first:
            return
        checkpoints.prune(self.folder, self.state.step, self.settings.checkpoints)
        if self.settings.keep == "best" and self.best.exists():
            say(f"{self.result}: the weights of {self.best.name}, the best on validation")
            folder.copy(self.best, self.result)
        else:
            self._write(self.result)

    def _write(self, path: Path) -> None:
        facts: dict[str, Any] = {"data": self.data.facts(), "training": self.settings.to_dict()}
        student = self.student
        with guards.written(path, checkpoints.kept(self.folder)), self.state.averaged():
            if isinstance(student, Alone):
                network = student.extract(student.arch)
                validation.calibrated(network, student.arch.resolution, self.data)
                facts["task"] = tasks.get(self.settings.task).name
                save_network(path, network, student.family, student.arch, facts, overwrite=True)
            else:
                save_supernet(path, student, facts, overwrite=True)


def _finite(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether all numbers are; a GPU is waited for once."""
    return bool(torch.stack([p.isfinite().all() for p in parameters]).all())
