"""A run in progress: its parts, made from settings and data, and what begins and ends a phase."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onceforall.costs import cost_table
from onceforall.data import Data
from onceforall.errors import InputError
from onceforall.families import Family, Planned
from onceforall.interop import starting_weights
from onceforall.progress import say
from onceforall.space import Arch
from onceforall.supernet import (
    SuperNet,
    checkpoint,
    load_exactly,
    load_network,
    save_network,
    save_supernet,
    start,
    tasks,
)
from onceforall.training import checkpoints, folder, guards, validation
from onceforall.training.alone import Alone
from onceforall.training.curricula import Curriculum, Phase, curriculum
from onceforall.training.dropping import dropping
from onceforall.training.feed import Feed, mixed
from onceforall.training.fitting import parts_that_fit
from onceforall.training.logs import Log, Reading, memory_bytes, need_board
from onceforall.training.objectives import Objective, at_resolution
from onceforall.training.optimizers import optimizer_of
from onceforall.training.ranks import GradientMeans, Group
from onceforall.training.recomputing import recomputed
from onceforall.training.scale import family_of
from onceforall.training.seeds import seed_of
from onceforall.training.settings import Settings
from onceforall.training.state import MODEL, State
from onceforall.training.synchronised import Synchronised

# Of the state's own: the best score so far, whether photos are held, whether there is a teacher.
FACTS = ("accumulate", "best", "held", "taught")
Teacher = Callable[[Tensor], Tensor]  # (N, C, R, R) images -> outputs


class Job:
    """All parts of a run; `loop.run` takes its steps."""

    def __init__(
        self, run: Path, settings: Settings, data: Data, group: Group, alone: Alone | None = None
    ) -> None:
        """With `alone`, one network is trained in place of a supernet.

        Raises:
            InputError: what cannot be trained so.
        """
        self.folder, self.settings, self.data, self.group = run, settings, data, group
        self.task = tasks.get(settings.task)
        if self.task is tasks.CLASSIFICATION:
            guards.refuse_labels(data)
        self.family: Family = alone.family if alone else family_of(settings, data)
        self.seed("build")  # for layers that draw their weights themselves
        generator = torch.Generator().manual_seed(settings.seed)
        self.student: SuperNet | Alone = alone or SuperNet(self.family, generator)
        self.result = run / (folder.SUPERNET if alone is None else folder.NETWORK)
        self.teacher: nn.Module | None = None
        if alone is not None:
            self._take_teacher(alone)
        if settings.tensorboard:
            need_board()
        if settings.weights is not None and alone is None and not checkpoints.found(run):
            self._start_from(Path(settings.weights))
        self.student.to(group.device)
        self._lay_out(self.student)
        self.curriculum = self._curriculum()
        self._check_sizes()
        mix = None
        if settings.mixup or settings.cutmix:
            mix = partial(mixed, len(data.classes), settings.mixup, settings.cutmix)
        self.mix = mix
        self.objective = Objective(self.task, settings.label_smoothing, self._autocast, group.mean)
        self.state = State(self.student, optimizer_of(self.student, settings), settings.ema)
        if settings.precision == "fp16":
            self.state.scaler = torch.amp.GradScaler(group.device.type)
        self.means = GradientMeans([], Group())
        self.latest: list[float] = []  # what the last look at validation images found
        self.log = Log(run)

    def _curriculum(self) -> Curriculum:
        settings, images = self.settings, len(self.data.train)
        plans = [p.plan(images, settings.batch_size, settings.lr_per) for p in settings.phases]
        macs = None
        if any(plan.candidates > 1 for plan in plans):
            table, space = cost_table(self.family, "macs"), self.family.space
            macs = lambda archs: table(space.encode(archs))  # noqa: E731
        return curriculum(self.student.space, plans, macs)

    def _check_sizes(self) -> None:
        batch, size = self.settings.batch_size, self.group.size
        parts = self.settings.accumulate or 1
        if batch > len(self.data.train):
            raise InputError(f"batch_size: {batch} is more than the {len(self.data.train)} images")
        if batch % (size * parts):
            by = f"{size} processes" + (f" of {parts} parts each" if parts > 1 else "")
            raise InputError(f"batch_size: {batch} cannot be divided among {by}")
        if batch < 2 * size * parts:
            raise InputError(
                f"batch_size: {batch} is not enough for {size * parts} parts:"
                " batch norm needs 2 images or more in each"
            )

    @property
    def accumulate(self) -> int:
        """Parts that this process's share of a batch is run in."""
        found: int = self.settings.accumulate or self.state.facts.get("accumulate", 1)
        return found

    def _fit(self) -> None:
        """Finds how many parts a GPU's memory asks for, once for a run: with the largest network
        at the largest resolution, the most that a step keeps at a time."""
        facts, cuda = self.state.facts, self.group.device.type == "cuda"
        if self.settings.accumulate is not None or not cuda or "accumulate" in facts:
            return
        share = self.settings.batch_size // self.group.size
        facts["accumulate"] = max(self.group.gather(parts_that_fit(self._attempt, share)))
        if facts["accumulate"] > 1 and self.group.first:
            say(f"each batch is run in {facts['accumulate']} parts, as many as the memory asks for")

    def _attempt(self, images: int) -> None:
        """A backward pass of the largest network on so many images; nothing is left of it."""
        largest = self.student.space.largest()
        size = (images, self.family.in_channels, largest.resolution, largest.resolution)
        self.student.train()
        with self.objective.autocast():
            found = self.forward(torch.zeros(size, device=self.group.device), largest)
        found.float().square().mean().backward()
        self.student.zero_grad(set_to_none=True)

    def _start_from(self, path: Path) -> None:
        """Puts a trained network's weights into the largest network, and makes that network the
        teacher, unless its classifier is of other classes."""
        weights = starting_weights(path, self.family)
        try:
            start.load(self.student.network, weights)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        first = self.settings.phases[0]
        if not start.replaced(self.student.network, weights):
            self.teacher = self._frozen(self.student.extract(self.family.space.largest()))
        elif first.distil and first.rule != "sandwich":
            raise InputError(
                f"phases: the first one has no teacher, as {path} is of other classes; its distil"
                " must be 0"
            )

    def _take_teacher(self, alone: Alone) -> None:
        """Raises InputError where a network is to match a teacher and has none."""
        if alone.taught_by is not None:
            self.teacher = self._frozen(alone.taught_by.network)
        elif taught := [p.name for p in self.settings.phases if p.distil]:
            raise InputError(f"phase {taught[0]}: distil: a network by itself has no teacher")

    @property
    def taught_by(self) -> tuple[Family, Arch]:
        """What the teacher is."""
        if isinstance(self.student, Alone) and self.student.taught_by is not None:
            return self.student.taught_by.family, self.student.taught_by.arch
        return self.family, self.family.space.largest()

    # --- what a step asks for

    def seed(self, purpose: str, *numbers: int) -> None:
        """Seeds PyTorch's own generators, which dropout draws from."""
        seed = seed_of(purpose, self.settings.seed, *numbers)
        torch.default_generator.manual_seed(seed)
        if self.group.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """The student's outputs; where the largest network learns, some of its blocks left out."""
        with ExitStack() as stack:
            share = self.settings.stochastic_depth
            if share and torch.is_grad_enabled() and arch == self.student.space.largest():
                stack.enter_context(dropping(self.student.skeleton(arch), share))
            stack.enter_context(self._norms())
            if self.settings.recompute and torch.is_grad_enabled():
                return recomputed(self.student, images, arch)
            return self.student(images, arch)

    def teach(self) -> Teacher | None:
        """The teacher's outputs as a function of images, if there is one."""
        network, (family, arch) = self.teacher, self.taught_by
        if network is None:
            return None

        def teach(images: Tensor) -> Tensor:
            if not isinstance(family, Planned):  # such networks may run at their size alone
                images = at_resolution(images, arch)
            with self._norms():
                found: Tensor = network(images)
            return found

        return teach

    def _norms(self) -> AbstractContextManager[Any]:
        """How batch norms find their statistics."""
        apart = self.group.size == 1 or not self.settings.sync_batch_norm
        return nullcontext() if apart else Synchronised()

    def _autocast(self) -> AbstractContextManager[Any]:
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        wanted = types.get(self.settings.precision)
        return torch.autocast(
            self.group.device.type, wanted or torch.bfloat16, enabled=wanted is not None
        )

    def _lay_out(self, module: nn.Module) -> None:
        """Weights with channels last, which is faster on a CPU, by half, and on a GPU in half
        precision."""
        half = self.settings.precision in ("bf16", "fp16")
        if self.group.device.type == "cpu" or half:
            module.to(memory_format=torch.channels_last)

    # --- phases

    def begin(self, phase: Phase) -> None:
        """A phase's first step is next."""
        if phase.taught_by_teacher and self.teacher is None:
            self.make_teacher()
            self.save_teacher()
        if phase.sort_channels is not None:
            self.student.sort_channels(**phase.sort_channels)
        self.enter(phase)
        self.state.begin(optimizer_of(self.student, self.settings))

    def make_teacher(self) -> None:
        """The largest network, as it is now, teaches from now on."""
        self.teacher = self._frozen(self.student.extract(self.family.space.largest()))

    def enter(self, phase: Phase) -> None:
        """A phase begins, or goes on after a stop: only what it trains gets gradients."""
        head = [p for _, p in _last_layer(self.student).named_parameters()]
        for parameter in self.student.parameters():
            parameter.requires_grad_(phase.part == "all" or any(parameter is p for p in head))
        self.means.close()
        self.means = GradientMeans(self.student.parameters(), self.group)

    def end(self, phase: Phase) -> None:
        """Looks at validation images, and keeps the weights of a phase that has come to its end."""
        self.look(phase, ended=True)
        if self.group.first:
            number = self.curriculum.phases.index(phase)
            name = "".join(c if c.isalnum() or c in "-_" else "-" for c in phase.name)
            path = self.folder / checkpoints.FOLDER / f"phase-{number}-{name}.safetensors"
            self._save_result(path)

    def look(self, phase: Phase, ended: bool = False) -> None:
        """Validation, in all processes; the best weights of the last phase are kept."""
        settings, metric = self.settings, self.task.metric
        n = settings.validate_archs if settings.validate_steps else 0
        with self.state.averaged():
            found = validation.validate(
                self.student, phase.space, n, settings.seed, self.data, metric, self.group
            )
        if isinstance(self.student, Alone):
            found = {f"{metric.name}_validation": value for value in found.values()}
        self.latest = list(found.values())
        mean = sum(found.values()) / len(found)
        best = self.state.facts.get("best")
        last = phase is self.curriculum.phases[-1]
        if settings.keep == "best" and last and (best is None or mean > best):
            self.state.facts["best"] = mean
            if self.group.first:
                self._save_result(self.folder / folder.BEST)
        if not self.group.first:
            return
        step = self.state.step
        line: dict[str, Any] = {"step": step, "phase": phase.name}
        line |= {"ended": True} if ended else {}
        self.log.write({**line, **{name: round(value, 3) for name, value in found.items()}})
        names = (name.removeprefix(f"{metric.name}_").replace("_", " ") for name in found)
        alone = isinstance(self.student, Alone)
        shown = ", ".join(
            f"{value:.1f}{metric.unit}" + ("" if alone else f" {name}")
            for name, value in zip(names, found.values(), strict=True)
        )
        at = f"{phase.name}: step {step} of {self.curriculum.steps}"
        say(f"{at}, validation {metric.label} {shown}")

    def report(self, phase: Phase, reading: Reading) -> None:
        """A line of metrics."""
        self.state.skipped += reading.skipped
        if not self.group.first:
            return
        line = {
            "step": self.state.step,
            "phase": phase.name,
            "loss": reading.loss,
            f"train_{self.task.metric.name}": reading.metric,
            "images_per_second": reading.speed * self.group.size,
            "memory_mb": memory_bytes(self.group.device) / 2**20,
            "seconds": self.state.seconds,
        }
        if self.state.skipped:
            line["skipped"] = self.state.skipped
        self.log.write({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()})

    # --- files

    def load(self) -> None:
        """The newest checkpoint that is whole, if there is one.

        Raises:
            InputError: it is of another family or another number of processes, or none is whole.
        """
        note = say if self.group.first else lambda text: None
        found = checkpoints.newest(self.folder, note)
        if found is not None:
            path, read = found
            self._check_checkpoint(path, read.facts)
            step = read.facts["step"]
            if step < self.curriculum.steps:
                self.enter(self.curriculum.at(step)[0])
            self.state.optimizer = optimizer_of(self.student, self.settings)
            n = len(MODEL)
            model = {k[n:]: t for k, t in read.tensors.items() if k.startswith(MODEL)}
            load_exactly(self.student, model, path)
            try:
                self.state.restore(read.tensors, read.facts)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            self.state.facts |= {k: read.facts[k] for k in FACTS if k in read.facts}
        path = self.folder / folder.TEACHER
        if path.exists():
            self.teacher = self._frozen(load_network(path)[0])
        elif self.state.facts.get("taught"):
            raise InputError(f"{path}: is missing, and the run's other networks learn from it")
        self._check_best()
        self._fit()
        self.feed = self._feed()
        self.log = Log(self.folder)
        if self.group.first:
            self.log.cut(self.state.step)
            if self.settings.tensorboard:
                self.log.show_on_board(self.state.step)

    def _check_best(self) -> None:
        """The best weights are what the run ends with."""
        path = self.folder / folder.BEST
        if "best" in self.state.facts:
            try:
                checkpoint.load(path, checkpoint.describe(path)["kind"])
            except InputError as error:
                raise InputError(f"{error}; a new run needs another folder") from None

    def _feed(self) -> Feed:
        """The batches of this run. Photos are held in memory as it was decided when it began, as a
        crop of a held photo is not quite that of a file."""
        settings, facts = self.settings, self.state.facts
        held = facts.get("held")
        if held is None and self.group.size > 1 and settings.data.hold == "auto":
            held = False  # each process would hold all
        largest = max(self.student.space.resolution)
        images = self.data.train.prepared(largest, self.group.device, held)
        facts["held"] = images.is_held
        return Feed(
            images,
            self.curriculum,
            settings.batch_size,
            settings.seed,
            self.group,
            settings.data.balance,
            self.mix,
        )

    def _check_checkpoint(self, path: Path, facts: dict[str, Any]) -> None:
        if facts.get("family") != self.family.name:
            raise InputError(f"{path}: of family {facts.get('family')}")
        own = str(self.student.arch) if isinstance(self.student, Alone) else None
        if facts.get("arch") != own:
            raise InputError(f"{path}: of {facts.get('arch') or 'a supernet'}, not of {own}")
        size = self.group.size
        processes = facts.get("processes", size)  # the first version did not say
        ended = facts["step"] >= self.curriculum.steps
        if processes != size and not ended and not self.settings.sync_batch_norm:
            raise InputError(
                f"{path}: processes was {processes}, now {size}: each normalises by its own"
                " part of a batch, so the steps would be others; start as many as before, or with"
                " sync_batch_norm from the beginning"
            )

    def save(self) -> None:
        """A checkpoint to resume from, unless there are weights beyond all numbers by now."""
        if self.group.first and all(p.isfinite().all() for p in self.student.parameters()):
            facts = {"family": self.family.name, "processes": self.group.size}
            if isinstance(self.student, Alone):
                facts["arch"] = str(self.student.arch)
            checkpoints.save(self.folder, self.state, facts, self.settings.checkpoints)

    def has_result(self) -> bool:
        """Whether the result is there, whole."""
        path = self.result
        try:
            return bool(checkpoint.load(path, checkpoint.describe(path)["kind"]))
        except InputError:
            return False

    def finish(self) -> None:
        """Writes the result."""
        path, best = self.result, self.folder / folder.BEST
        if self.group.first:
            checkpoints.prune(self.folder, self.state.step, self.settings.checkpoints)
            if self.settings.keep == "best" and best.exists():
                say(f"{path}: the weights of {best.name}, the best on validation")
                folder.copy(best, path)
            else:
                self._save_result(path)
        self.log.close()
        self.group.wait()

    def _save_result(self, path: Path) -> None:
        facts: dict[str, Any] = {"data": self.data.facts(), "training": self.settings.to_dict()}
        student = self.student
        with guards.written(path, checkpoints.kept(self.folder)), self.state.averaged():
            if isinstance(student, Alone):
                network = student.extract(student.arch)
                validation.calibrated(network, student.arch.resolution, self.data)
                facts["task"] = self.task.name
                save_network(path, network, self.family, student.arch, facts, overwrite=True)
            else:
                save_supernet(path, student, facts, overwrite=True)

    def save_teacher(self) -> None:
        self.state.facts["taught"] = True
        if self.group.first and self.teacher is not None:
            path, (family, arch) = self.folder / folder.TEACHER, self.taught_by
            with guards.written(path, checkpoints.kept(self.folder)):
                save_network(path, self.teacher, family, arch, {}, overwrite=True)

    def _frozen(self, network: nn.Module) -> nn.Module:
        """A teacher: it normalises by the batch, as the networks it teaches do, and drops nothing
        out."""
        network.requires_grad_(False).train().to(self.group.device)
        self._lay_out(network)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = False
            elif isinstance(module, nn.Dropout):
                module.eval()
        return network


def _last_layer(module: nn.Module) -> nn.Module:
    return [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
