"""A run in progress: its parts, made from settings and data, and what begins and ends a phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.costs import cost_table
from onceforall.data import Data
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.interop import starting_weights
from onceforall.progress import say
from onceforall.space import Arch
from onceforall.supernet import SuperNet, load_network, start, tasks
from onceforall.supernet.checkpoint import Checkpoint
from onceforall.training import checkpoints, folder, guards, validation
from onceforall.training.alone import Alone
from onceforall.training.curricula import Curriculum, Phase, curriculum
from onceforall.training.dropping import branches, dropping
from onceforall.training.feed import Feed, mixed
from onceforall.training.fitting import LEAST, fits, parts_that_fit, seconds_of
from onceforall.training.keeper import Keeper
from onceforall.training.logs import Log, Reading, memory_bytes, need_board, scores_shown
from onceforall.training.modes import Modes
from onceforall.training.objectives import Objective
from onceforall.training.optimizers import optimizer_of
from onceforall.training.ranks import GradientMeans, Group
from onceforall.training.recomputing import recomputed
from onceforall.training.scale import family_of
from onceforall.training.seeds import seed_of
from onceforall.training.settings import AUTO, Settings
from onceforall.training.state import State
from onceforall.training.teacher import Teacher

PROBED = 16  # images at most, of a precision that is tried on a CPU
BATCHES = 3  # of images that are on their way at a time
CLEARLY = 0.95  # of fp32's time, at most: half of the numbers are worth it only then


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
        guards.refuse_precision(settings.precision, group.device)
        self.family: Family = alone.family if alone else family_of(settings, data)
        self.seed("build")  # for layers that draw their weights themselves
        generator = torch.Generator().manual_seed(settings.seed)
        self.student: SuperNet | Alone = alone or SuperNet(self.family, generator)
        self.modes = Modes(settings, group)
        self.teacher: Teacher | None = None
        if alone is not None:
            self._take_teacher(alone)
        if settings.tensorboard:
            need_board()
        if settings.weights is not None and alone is None and not checkpoints.found(run):
            self._start_from(Path(settings.weights))
        self.modes.place(self.student)
        self.curriculum = self._curriculum()
        guards.refuse_batch(settings.batch_size, settings.accumulate or 1, group.size, data)
        mix = None
        if settings.mixup or settings.cutmix:
            mix = partial(mixed, len(data.classes), settings.mixup, settings.cutmix)
        self.mix = mix
        if settings.stochastic_depth:
            branches(self.student.skeleton(self.student.space.largest()))
        self.objective = Objective(
            self.task, settings.label_smoothing, self.modes.autocast, group.mean
        )
        self.state = State(self.student, optimizer_of(self.student, settings), settings.ema)
        if settings.precision == "fp16":
            self.state.scaler = torch.amp.GradScaler(group.device.type)
        self.keeper = Keeper(run, settings, data, group, self.student, self.state)
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

    @property
    def accumulate(self) -> int:
        """Parts that this process's share of a batch is run in."""
        found: int = self.settings.accumulate or self.state.facts.get("accumulate", 1)
        return found

    @property
    def shares(self) -> int:
        """Shares of a batch: as many as the run had processes when it began, so that norms,
        augmentation and dropout are what they would have been. Norms of all processes see the
        whole batch, however many there are."""
        began: int = self.state.facts.get("processes", self.group.size)
        return self.group.size if self.settings.sync_batch_norm else began

    def _fit(self) -> None:
        """Finds how many parts a GPU's memory asks for, once for a run: with the largest network
        at the largest resolution, the most that a step keeps at a time."""
        facts, cuda = self.state.facts, self.group.device.type == "cuda"
        if self.settings.accumulate is not None or not cuda or "accumulate" in facts:
            return
        share = self.settings.batch_size // self.shares
        beside = self._beside(share)

        def attempt(images: int) -> None:
            kept = torch.empty(beside, dtype=torch.uint8, device=self.group.device)
            self._attempt(images)
            del kept

        facts["accumulate"] = max(self.group.gather(parts_that_fit(attempt, share)))
        if facts["accumulate"] > 1 and self.group.first:
            say(f"each batch is run in {facts['accumulate']} parts, as many as the memory asks for")

    def _beside(self, share: int) -> int:
        """Bytes of a GPU that one backward pass leaves out of account: the teacher, the optimiser's
        numbers that are not there yet, a few batches of images, and a tenth for the allocator."""
        weights = sum(p.numel() * p.element_size() for p in self.student.parameters())
        adaptive = self.settings.optimizer == "adamw"
        taught = any(phase.taught_by_teacher for phase in self.curriculum.phases)
        largest = self.student.space.largest().resolution
        images = BATCHES * share * self.family.in_channels * largest**2 * 4
        tenth = torch.cuda.get_device_properties(self.group.device).total_memory // 10
        return (2 * adaptive + taught) * weights + images + tenth

    def settle(self, known: str | None = None) -> None:
        """Chooses the precision where the settings leave it open, once for a run, and places the
        networks as it wants them, and the optimiser's numbers as the weights lie.

        Args:
            known: what was chosen when the run began.
        """
        if self.settings.precision != AUTO:
            return
        self._use(known or self._faster())
        self.state.facts["precision"] = self.modes.precision
        if self.teacher is not None:
            self.modes.place(self.teacher.network)
        self.state.optimizer = optimizer_of(self.student, self.settings)

    def _use(self, precision: str) -> None:
        self.modes.precision = precision
        self.modes.place(self.student)

    def _faster(self) -> str:
        """bf16 where the processes together find a backward pass clearly faster in it."""
        share = self.settings.batch_size // self.shares // self.accumulate
        most = share if self.group.device.type == "cuda" else min(share, PROBED)
        every = self.group.gather(self._probed(max(LEAST, most)))
        fp32, bf16 = (sum(found[name] for found in every) for name in ("fp32", "bf16"))
        found = "bf16" if bf16 < CLEARLY * fp32 else "fp32"
        if self.group.first:
            say(
                f"precision: {found}; a backward pass in bf16 takes {bf16 / fp32:.2f} times as"
                " long as in fp32"
            )
        return found

    def _probed(self, images: int) -> dict[str, float]:
        """Seconds of each precision, with as many of the images as fit."""
        while images // 2 >= LEAST and not fits(partial(self._probe, images)):
            images //= 2
        ways = dict.fromkeys(("fp32", "bf16"), partial(self._probe, images))
        return seconds_of(ways, self._use)

    def _probe(self, images: int) -> None:
        self._attempt(images)
        if self.group.device.type == "cuda":
            torch.cuda.synchronize()

    def _attempt(self, images: int) -> None:
        """A backward pass of the largest network on so many images; nothing is left of it. Other
        processes are not waited for, as each tries as often as it likes."""
        largest = self.student.space.largest()
        size = (images, self.family.in_channels, largest.resolution, largest.resolution)
        buffers = [(buffer, buffer.clone()) for buffer in self.student.buffers()]
        self.student.train()
        try:
            with self.objective.autocast():
                found = self._run(torch.zeros(size, device=self.group.device), largest)
            found.float().square().mean().backward()
        finally:
            self.student.zero_grad(set_to_none=True)
            for buffer, before in buffers:  # statistics of a network that is trained alone
                buffer.copy_(before)

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
            self.make_teacher()
        elif first.distil and first.rule != "sandwich":
            raise InputError(
                f"phases: the first one has no teacher, as {path} is of other classes; its distil"
                " must be 0"
            )

    def _take_teacher(self, alone: Alone) -> None:
        """Raises InputError where a network is to match a teacher and has none."""
        if alone.taught_by is not None:
            self.teacher = Teacher(*alone.taught_by, self.modes)
        elif taught := [p.name for p in self.settings.phases if p.distil]:
            raise InputError(f"phase {taught[0]}: distil: a network by itself has no teacher")

    # --- what a step asks for

    def seed(self, purpose: str, *numbers: int) -> None:
        """Seeds PyTorch's own generators, which dropout draws from."""
        seed = seed_of(purpose, self.settings.seed, *numbers)
        torch.default_generator.manual_seed(seed)
        if self.group.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """The student's outputs; where the largest network learns, at any resolution, some of its
        blocks left out."""
        largest = self.student.space.largest().at(arch.resolution)
        drops = torch.is_grad_enabled() and arch == largest
        around = partial(self._around, arch, self.settings.stochastic_depth if drops else 0.0)
        with around():
            return self._run(images, arch, around)

    @contextmanager
    def _around(self, arch: Arch, dropped: float) -> Iterator[None]:
        """What a network of a step is called in."""
        with ExitStack() as stack:
            if dropped:
                stack.enter_context(dropping(self.student.skeleton(arch), dropped))
            stack.enter_context(self.modes.norms())
            yield

    def _run(
        self,
        images: Tensor,
        arch: Arch,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        if self.settings.recompute and torch.is_grad_enabled():
            return recomputed(self.student, images, arch, around)
        return self.student(images, arch)

    # --- phases

    def begin(self, phase: Phase) -> None:
        """A phase's first step is next."""
        if phase.taught_by_teacher and self.teacher is None:
            with self.state.averaged():  # as it is validated
                self.make_teacher()
            self.save_teacher()
        if phase.sort_channels is not None:
            self.student.sort_channels(**phase.sort_channels)
        self.enter(phase)
        self.state.begin(optimizer_of(self.student, self.settings))

    def make_teacher(self) -> None:
        """The largest network, as it is now, teaches from now on."""
        largest = self.family.space.largest()
        self.teacher = Teacher(self.student.extract(largest), self.family, largest, self.modes)

    def save_teacher(self) -> None:
        """Writes it down, for when the run goes on after a stop."""
        self.state.facts["taught"] = True
        if self.group.first and self.teacher is not None:
            self.teacher.save(self.folder)

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
        self.keeper.end(self.curriculum.phases.index(phase), phase)

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
        if settings.keep == "best" and phase is self.curriculum.phases[-1]:
            self.keeper.compare(sum(found.values()) / len(found))
        if not self.group.first:
            return
        step = self.state.step
        line: dict[str, Any] = {"step": step, "phase": phase.name}
        line |= {"ended": True} if ended else {}
        self.log.write({**line, **{name: round(value, 3) for name, value in found.items()}})
        shown = scores_shown(found, metric, alone=isinstance(self.student, Alone))
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

    # --- the whole

    def load(self) -> None:
        """Goes on from the newest checkpoint that is whole, if there is one.

        Raises:
            InputError: it is of another family, so many processes cannot go on with it, or none is
                whole.
        """
        found = self.group.together(lambda: self.keeper.newest(self.curriculum.steps))
        self.settle(None if found is None else found[1].facts.get("precision"))
        self.group.together(lambda: self._restore(found))
        self.state.facts["processes"] = self.shares
        if self.shares > self.group.size and self.group.first:
            say(
                f"begun with {self.shares} processes: each runs {self.shares // self.group.size}"
                " shares of a batch, one after the other"
            )
        self.feed = self.group.together(self._feed)  # images that are held take memory first
        self._fit()
        self.log = Log(self.folder)
        if self.group.first:
            self.log.cut(self.state.step)
            if self.settings.tensorboard:
                self.log.show_on_board(self.state.step)

    def _restore(self, found: tuple[Path, Checkpoint] | None) -> None:
        if found is not None:
            step = found[1].facts["step"]
            if step < self.curriculum.steps:
                self.enter(self.curriculum.at(step)[0])
            self.keeper.restore(*found)
        self._load_teacher()
        self.keeper.check_best()

    def _load_teacher(self) -> None:
        path = self.folder / folder.TEACHER
        if path.exists():
            network, family, arch = load_network(path)[0], self.family, self.family.space.largest()
            if isinstance(self.student, Alone) and self.student.taught_by is not None:
                _, family, arch = self.student.taught_by
            self.teacher = Teacher(network, family, arch, self.modes)
        elif self.state.facts.get("taught"):
            raise InputError(f"{path}: is missing, and the run's other networks learn from it")

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
            self.shares,
            settings.data.balance,
            self.mix,
        )

    def finish(self) -> None:
        """Writes the result."""
        self.keeper.finish()
        self.log.close()
        self.group.wait()


def _last_layer(module: nn.Module) -> nn.Module:
    return [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
