"""The training loop of a supernet: steps, precision, checkpoints, progress.

Everything a run needs and makes is in its folder:

    settings.json          the settings it was started with
    data.json              what its images were: by part and class their number and a digest
    metrics.jsonl          a line every few steps, and one at the end of each phase
    training.safetensors   the latest checkpoint, to resume from
    teacher.safetensors    the trained largest network, which teaches the others
    supernet.safetensors   the result

Batches, archs, augmentation and dropout are functions of the seed, the step's number and
the rank, so a run that was stopped and resumed takes the same steps as one that was not.
Knows a `SuperNet`, never a family's layers.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from onceforall.data import CONTENTS, Data, Request, changes_since
from onceforall.errors import InputError, Stopped, choices
from onceforall.families import Planned
from onceforall.files import read_json, remove_leftovers, write_json
from onceforall.interop import starting_weights
from onceforall.progress import Bar, bar, say
from onceforall.supernet import (
    SuperNet,
    calibrated,
    checkpoint,
    load_exactly,
    load_network,
    placing,
    save_network,
    save_supernet,
    score,
    start,
)
from onceforall.training.curricula import Curriculum, Phase, curriculum
from onceforall.training.objectives import distilled, supervised
from onceforall.training.ranks import Group
from onceforall.training.scale import family_of
from onceforall.training.seeds import seed_of
from onceforall.training.settings import Settings, settings_from_dict

CHECKPOINT = "training.safetensors"  # names in a run's folder
SUPERNET = "supernet.safetensors"  # the result
CHECKED_IMAGES = 2000  # of validation, at the end of each phase


@dataclass(frozen=True)
class Outcome:
    """What `train` leaves behind."""

    run: Path
    steps: int
    seconds: float  # of training, all sessions of this run together
    metrics: dict[str, Any]  # the last line of the metrics


def train(
    run: Path,
    settings: Settings,
    data: Data,
    *,
    resume: bool = False,
    group: Group | None = None,
    about: str = "",
) -> Outcome:
    """Trains a supernet in the folder `run`; with `resume`, goes on with the run that is there,
    which is nothing where it has been trained to its end.

    PyTorch's random state and its number of threads are as before when it returns. `about` is said
    before the first step, once nothing speaks against it.

    Raises:
        InputError: the folder holds a run already (without `resume`), or one with other settings.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    group = group or Group()
    _check_folder(run, settings, data, resume)
    cuda = [torch.cuda.current_device()] if group.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), _threads(settings.threads):
        work = _Run(run, settings, data, group)  # what cannot be trained leaves no folder
        _prepare_folder(run, settings, data, group)
        if about and group.first:
            say(about)
        return work.go()


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """PyTorch with that many threads (as it is where None) while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_resolution(images: Tensor, resolution: int) -> Tensor:
    """(N, C, R, R) images made smaller, where an arch of a step wants them so."""
    if images.shape[-1] == resolution:
        return images
    size = (resolution, resolution)
    return functional.interpolate(images, size, mode="bilinear", antialias=True)


def sgd(module: nn.Module, settings: Settings) -> torch.optim.SGD:
    """SGD with Nesterov momentum; no weight decay on batch norm and biases.

    What gets no gradient in a step is not touched by it, neither by weight decay nor by momentum:
    the blocks that none of the step's archs has, and the kernel transforms that none uses. The
    channels that none uses of a block that is used get a gradient of 0, so they do decay and
    move on with their momentum.

    The authors' code differs in the blocks: its `zero_grad()` filled gradients with 0 (PyTorch's
    own way before 2.0), so there unused blocks, too, decay and move on with their momentum. Here
    a block moves only by images that it has seen, however seldom its depth is drawn, and no
    zeros are summed over the processes.
    """
    decayed = [p for p in module.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    momentum = settings.momentum
    return torch.optim.SGD(groups, 0.0, momentum, nesterov=momentum > 0, foreach=True)


def _check_folder(run: Path, settings: Settings, data: Data, resume: bool) -> None:
    """Refuses a folder that holds a run already, or to resume another run than is there."""
    path = run / "settings.json"
    if path.exists() and not resume:
        raise InputError(f"{run}: holds a run already; resume it, or name another folder")
    if path.exists():
        changes = changes_since(run / CONTENTS, data, ("train",))
        moved = (run / CONTENTS).exists() and not changes  # the same images under another name
        before = settings_from_dict(read_json(path), str(path))
        _refuse_changes(before, settings, path, (*FREE, "data.name") if moved else FREE)
        if changes:
            raise InputError(
                f"{run}: its training images have changed ({changes}); put them back as they were,"
                " or start a new run"
            )
    elif resume:
        raise InputError(f"{run}: no run to resume there")
    elif run.exists() and not (run.is_dir() and all(_of_a_start(p.name) for p in run.iterdir())):
        raise InputError(f"{run}: exists and is not a run; name another folder")


def _of_a_start(name: str) -> bool:
    """Whether a run that was killed while it began can have left it."""
    return name == CONTENTS or name.startswith(".")


def _prepare_folder(run: Path, settings: Settings, data: Data, group: Group) -> None:
    group.wait()  # all have looked at it
    if not group.first:
        return
    remove_leftovers(run)
    path = run / "settings.json"
    if path.exists():
        return
    write_json(run / CONTENTS, data.contents, overwrite=True)
    write_json(path, settings.to_dict())


# What may change when a run is resumed: the result does not depend on it.
FREE = (
    "threads",
    "checkpoint_seconds",
    "log_steps",
    "data.root",
    "data.workers",
    "data.unreadable",
)


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


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Plain data by the names that the command line has for it, such as `phases.0.lr`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, part in inside:
        nested = isinstance(part, dict) or key == "phases"
        flat |= _flat(part, f"{name}{key}.") if nested else {f"{name}{key}": part}
    return flat


class _Run:
    """One run in progress."""

    def __init__(self, folder: Path, settings: Settings, data: Data, group: Group) -> None:
        self.folder, self.settings, self.data, self.group = folder, settings, data, group
        self.family = family_of(settings, data)
        self._seed("build")  # for layers that draw their weights themselves
        generator = torch.Generator().manual_seed(settings.seed)
        self.supernet = SuperNet(self.family, generator)
        self.teacher: nn.Module | None = None
        if settings.weights is not None and not (folder / CHECKPOINT).exists():
            self._start_from(Path(settings.weights))
        self.supernet.to(group.device)
        self._lay_out(self.supernet)
        shares = [phase.share(len(data.train), settings.batch_size) for phase in settings.phases]
        self.curriculum: Curriculum = curriculum(self.family.space, shares)
        if settings.batch_size > len(data.train):
            raise InputError(
                f"batch_size: {settings.batch_size} is more than the {len(data.train)} images"
            )
        if settings.batch_size < 2 * group.size:
            raise InputError(
                f"batch_size: {settings.batch_size} is not enough for {group.size} processes:"
                " batch norm needs 2 images or more in each"
            )
        self.step = 0
        self.seconds = 0.0
        self.metrics: dict[str, Any] = {}
        self.optimizer = self._new_optimizer()

    def _start_from(self, path: Path) -> None:
        """Puts a trained network's weights into the largest network, and makes that network the
        teacher, unless its classifier is of other classes."""
        weights = starting_weights(path, self.family)
        try:
            start.load(self.supernet.network, weights)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        first = self.settings.phases[0]
        if not start.replaced(self.supernet.network, weights):
            self.teacher = self._frozen(self.supernet.extract(self.family.space.largest()))
        elif first.distil and first.rule != "sandwich":
            raise InputError(
                f"phases: the first one has no teacher, as {path} is of other classes; its distil"
                " must be 0"
            )

    def go(self) -> Outcome:
        total = self.curriculum.steps
        self._load()
        if self.step == 0 and self.teacher is not None:
            self._save_teacher()
        if self.step == total and (self.folder / SUPERNET).exists():
            if self.group.first:
                say(f"{self.folder}: trained to its end already, {total} steps; nothing to do")
            return Outcome(self.folder, self.step, self.seconds, self.metrics)
        self.group.broadcast([*self.supernet.parameters(), *self.supernet.buffers()])
        start = time.monotonic()
        saved = start
        stream = self.data.train.stream(self._requests())
        with _interrupts() as interrupted, self._bar(total) as shown:
            meter = _Meter()
            while self.step < total:
                phase, k = self.curriculum.at(self.step)
                if k == 0:
                    self._begin(phase)
                images, labels = next(stream)
                loss, hits = self._train_step(phase, k, images, labels)
                meter.add(loss, hits, len(labels))
                self.step += 1
                now = time.monotonic()
                self.seconds += now - start
                start = now
                ended = k + 1 == phase.steps
                if ended or self.step % self.settings.log_steps == 0:
                    self._log(phase, meter)
                shown.advance(note=meter.note(phase.name))
                if ended:
                    self._end(phase)
                stop = self.group.any(bool(interrupted))
                if stop or ended or now - saved > self.settings.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                if stop:
                    raise Stopped(f"stopped after step {self.step} of {total}; --resume goes on")
        self._finish()
        return Outcome(self.folder, self.step, self.seconds, self.metrics)

    def _lay_out(self, module: nn.Module) -> None:
        """Weights as this device is fastest with: on the CPU with channels last, by half."""
        if self.group.device.type == "cpu":
            module.to(memory_format=torch.channels_last)

    def _seed(self, purpose: str, *numbers: int) -> None:
        """Seeds PyTorch's own generators, which dropout draws from."""
        seed = seed_of(purpose, self.settings.seed, *numbers)
        torch.default_generator.manual_seed(seed)
        if self.group.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    # --- one step

    def _train_step(
        self, phase: Phase, k: int, images: Tensor, labels: Tensor
    ) -> tuple[float, float]:
        """Loss and share of hits of the last arch of the step (in the sandwich: a sampled one)."""
        images, labels = placing(self.supernet)(images), labels.to(self.group.device)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = phase.learning_rate(k)
        self.supernet.train()
        self._seed("dropout", self.step, self.group.rank)
        archs = phase.sample(self.settings.seed, self.step)
        parts = len(archs) if phase.own_images else 1
        batches = list(zip(images.chunk(parts), labels.chunk(parts), strict=True))
        taught: Tensor | None = None
        self.optimizer.zero_grad(set_to_none=True)
        for i, arch in enumerate(archs):
            images, labels = batches[i % parts]
            with self._autocast():
                if phase.distil and (taught is None or phase.own_images):
                    taught = self._teach(phase, i, images)
                logits = self.supernet(at_resolution(images, arch.resolution), arch).float()
                loss = supervised(logits, labels, self.settings.label_smoothing)
                if taught is not None:
                    loss = loss + phase.distil * distilled(logits, taught.float())
                    loss = loss * (2 / (1 + phase.distil))  # as the authors scale it
            loss.backward()
            if phase.rule == "sandwich" and i == 0 and phase.distil:
                taught = logits.detach()
        self.group.average_gradients(self.supernet.parameters())
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"phases: {phase.name}: the loss is {value} at step {self.step}; a lower lr helps"
            )
        return value, float((logits.argmax(1) == labels).float().mean())

    @torch.no_grad()
    def _teach(self, phase: Phase, i: int, images: Tensor) -> Tensor | None:
        """What arch number `i` of a step is to learn of its images beside their labels: the
        teacher's logits; in the sandwich the largest network's, which itself learns of no one."""
        if phase.rule != "sandwich":
            if self.teacher is None:
                return None
            if not isinstance(self.family, Planned):  # such networks may run at their size alone
                images = at_resolution(images, self.family.space.largest().resolution)
            return self.teacher(images)
        return None if i == 0 else self.supernet(images, phase.space.largest())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.group.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        )

    def _requests(self) -> Iterator[Request]:
        """The batches from the current step on."""
        n, batch, seed = len(self.data.train), self.settings.batch_size, self.settings.seed
        per_epoch = n // batch
        order: list[int] = []
        shuffled = -1  # the epoch that `order` belongs to
        number = self.curriculum.batches_before(self.step)
        for step in range(self.step, self.curriculum.steps):
            phase, _ = self.curriculum.at(step)
            indices: list[int] = []
            for _ in range(phase.batches):
                epoch, i = divmod(number, per_epoch)
                number += 1
                if epoch != shuffled:
                    rng = np.random.default_rng(seed_of("order", seed, epoch))
                    order = rng.permutation(n).tolist()
                    shuffled = epoch
                indices += self.group.share(order[i * batch : (i + 1) * batch])
            resolution = max(arch.resolution for arch in phase.sample(seed, step))
            augmentation = seed_of("augmentation", seed, step, self.group.rank)
            yield Request(indices, resolution, augmentation)

    # --- phases

    def _begin(self, phase: Phase) -> None:
        needs_teacher = phase.distil and phase.rule != "sandwich"
        if needs_teacher and self.teacher is None:
            largest = self.family.space.largest()
            self.teacher = self._frozen(self.supernet.extract(largest))
            self._save_teacher()
        if phase.sort_channels is not None:
            self.supernet.sort_channels(**phase.sort_channels)
        self.optimizer = self._new_optimizer()  # momentum of unsorted channels means nothing

    def _save_teacher(self) -> None:
        if self.group.first and self.teacher is not None:
            path, largest = self.folder / "teacher.safetensors", self.family.space.largest()
            save_network(path, self.teacher, self.family, largest, {}, overwrite=True)

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

    def _new_optimizer(self) -> torch.optim.SGD:
        return sgd(self.supernet, self.settings)

    def _end(self, phase: Phase) -> None:
        """Checks the ends of the phase's space on validation images."""
        if not self.group.first:
            return
        line: dict[str, Any] = {"step": self.step, "phase": phase.name, "ended": True}
        for name, arch in (
            ("largest", phase.space.largest()),
            ("smallest", phase.space.smallest()),
        ):
            network = calibrated(self.supernet, arch, self.data)
            found = score(network, arch.resolution, self.data.validation, limit=CHECKED_IMAGES)
            line[f"top1_{name}"] = round(found.value, 3)
        self._write(line)
        say(
            f"{phase.name}: step {self.step} of {self.curriculum.steps}, validation top-1"
            f" {line['top1_largest']:.1f}% largest, {line['top1_smallest']:.1f}% smallest"
        )

    # --- files

    def _write(self, line: dict[str, Any]) -> None:
        self.metrics = {**self.metrics, **line}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _log(self, phase: Phase, meter: _Meter) -> None:
        line = {"step": self.step, "phase": phase.name, **meter.read(), "seconds": self.seconds}
        if self.group.first:
            self._write({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()})

    def _save(self) -> None:
        if not self.group.first:
            return
        tensors = {f"model.{n}": t for n, t in self.supernet.state_dict().items()}
        for name, parameter in self.supernet.named_parameters():
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "family": self.family.name,
            "processes": self.group.size,
        }
        path = self.folder / CHECKPOINT
        checkpoint.save(path, "training", tensors, facts, overwrite=True)

    def _load(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            self._cut_metrics()
            return
        found = checkpoint.load(path, "training")
        if found.facts.get("family") != self.family.name:
            raise InputError(f"{path}: of family {found.facts.get('family')}")
        model = {n[6:]: t for n, t in found.tensors.items() if n.startswith("model.")}
        load_exactly(self.supernet, model, path)
        for name, parameter in self.supernet.named_parameters():
            momentum = found.tensors.get(f"momentum.{name}")
            if momentum is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
        self.step, self.seconds = found.facts["step"], found.facts["seconds"]
        processes = found.facts.get("processes", self.group.size)  # the first version did not say
        if processes != self.group.size and self.step < self.curriculum.steps:
            raise InputError(
                f"{path}: processes was {processes}, now {self.group.size}: each normalises by its"
                " own part of a batch, so the steps would be others; start as many as before"
            )
        if (self.folder / "teacher.safetensors").exists():
            teacher, _, _ = load_network(self.folder / "teacher.safetensors")
            self.teacher = self._frozen(teacher)
        self._cut_metrics()

    def _cut_metrics(self) -> None:
        """Drops lines of steps that are taken again."""
        path = self.folder / "metrics.jsonl"
        if not path.exists() or not self.group.first:
            return
        kept = []
        for text in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):  # a line cut short by a crash
                line = json.loads(text)
                if line["step"] <= self.step:
                    kept.append(text + "\n")
                    self.metrics = {**self.metrics, **line}
        path.write_text("".join(kept), encoding="utf-8")

    def _finish(self) -> None:
        if self.group.first:
            facts = {"data": self.data.facts(), "training": self.settings.to_dict()}
            path = self.folder / SUPERNET
            save_supernet(path, self.supernet, facts, overwrite=True)
        self.group.wait()

    @contextmanager
    def _bar(self, total: int) -> Iterator[Bar]:
        if not self.group.first:
            yield Bar(None, None)
            return
        with bar("training", total, self.step) as shown:
            yield shown


class _Meter:
    """Running means of what the progress bar and the metrics show."""

    def __init__(self) -> None:
        self.loss = self.top1 = float("nan")
        self.images = 0
        self.since = time.monotonic()
        self.speed = 0.0

    def add(self, loss: float, hits: float, images: int) -> None:
        fresh = math.isnan(self.loss)
        self.loss = loss if fresh else 0.95 * self.loss + 0.05 * loss
        self.top1 = 100 * hits if fresh else 0.95 * self.top1 + 5 * hits
        self.images += images

    def read(self) -> dict[str, float]:
        now = time.monotonic()
        self.speed = self.images / max(1e-9, now - self.since)
        self.images, self.since = 0, now
        return {"loss": self.loss, "train_top1": self.top1, "images_per_second": self.speed}

    def note(self, phase: str) -> str:
        text = f"{phase}  loss {self.loss:.3f}  top-1 {self.top1:.1f}%"
        return f"{text}  {self.speed:.0f} images/s" if self.speed else text


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Signals to stop that have come while the block runs; a second Ctrl-C stops at once."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
