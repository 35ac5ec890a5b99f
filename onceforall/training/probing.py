"""A few steps of every phase of a run, timed on this device: what `estimate` reckons with.

The steps are those that training takes (`loop.train_step` on a `Feed`'s batches), on a part of the
batch, for that many images as one device of many would have, and for more. No folder is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onceforall import families
from onceforall.data import Data, Images, Request, default_normalisation
from onceforall.progress import bar
from onceforall.space import Arch
from onceforall.training import estimate, guards
from onceforall.training.curricula import Phase
from onceforall.training.estimate import Point, Stretch
from onceforall.training.feed import Feed
from onceforall.training.job import Job
from onceforall.training.logs import memory_bytes
from onceforall.training.loop import numbers, train_step
from onceforall.training.ranks import GradientMeans, Group
from onceforall.training.settings import PhaseSettings, Settings

WARM = 2  # steps that are not timed
STEPS = 6  # that are, at least,
SECONDS = 2.0  # and for so long at least,
MOST = 40  # but no more steps than that
FURTHER = 4  # times as many images, until
LONG = 0.5  # seconds: a step that takes so long has images enough to time it by
FORWARD = 50  # images that validation is timed on
PEAK = Path("/proc/self/clear_refs")  # Linux: "5" here forgets the most memory that was in use


class Watch(GradientMeans):
    """Stands where gradients are averaged: says how long the last backward pass of a step took,
    and how many bytes would have been sent."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__([], Group())
        self.module, self.device = module, device  # whose gradients they are
        self.marks: list[Any] = []
        self.sizes: list[int] = []

    def last(self, used: Any) -> None:
        self.marks.append(_mark(self.device))

    def finish(self) -> None:
        self.marks.append(_mark(self.device))
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        self.sizes.append(sum(g.numel() * g.element_size() for g in gradients))

    def seconds(self) -> float:
        """The mean over the steps; waits for the device."""
        _wait(self.device)
        pairs = zip(self.marks[::2], self.marks[1::2], strict=True)
        return sum(_between(a, b) for a, b in pairs) / (len(self.marks) // 2)


class Timed(NamedTuple):
    point: Point
    gradients: float  # bytes a step


class Measured(NamedTuple):
    stretches: list[Stretch]  # one for each phase
    precision: str  # that they were measured in


def measure(settings: Settings, data: Data, group: Group, each: int | None) -> Measured:
    """Every phase of a run. `each`: images a device will have; None: as many as its share of the
    batch on the most devices, and more."""
    with (
        TemporaryDirectory() as nothing,
        torch.random.fork_rng([torch.cuda.current_device()] if _cuda(group.device) else []),
        numbers(settings),
    ):
        job = Job(Path(nothing), settings, data, group)
        job.settle()
        if each is not None:
            guards.refuse_batch(each, job.accumulate, 1, data, "--per-device")
        phases = job.curriculum.phases
        with bar("measuring", len(phases)) as shown:
            found = []
            for i, phase in enumerate(phases):
                shown.note(phase.name)
                found.append(_stretch(job, phase, settings.phases[i], each))
                shown.advance()
        return Measured(found, job.modes.precision)


def _stretch(job: Job, phase: Phase, asked: PhaseSettings, each: int | None) -> Stretch:
    least = estimate.LEAST * job.accumulate
    most = each or job.settings.batch_size
    few = each or max(least, -(-most // estimate.DEVICES[-1] // job.accumulate) * job.accumulate)
    first = _timed(job, phase, few)
    second, many = first, few
    while each is None and many < most and (many == few or second.point.seconds < LONG):
        many = min(FURTHER * many, most)
        try:
            second = _timed(job, phase, many)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    images = len(job.data.train)

    def steps(total: int) -> int:
        return asked.plan(images, total).steps

    def looks(total: int) -> int:
        every = job.settings.validate_steps
        return 1 + ((steps(total) - 1) // every if every else 0)

    at = first.point, second.point
    look = _look(job, phase)
    return Stretch(phase.name, steps, phase.batches, *at, second.gradients, looks, look)


def _timed(job: Job, phase: Phase, images: int) -> Timed:
    """The first steps of a phase, with so many images of each batch."""
    device = job.group.device
    job.enter(phase)
    if phase.taught_by_teacher and job.teacher is None:
        job.make_teacher()
    before = sum(p.steps for p in job.curriculum.phases[: job.curriculum.phases.index(phase)])
    feed = Feed(job.data.train, job.curriculum, images, job.settings.seed, job.group, mix=job.mix)
    _forget_peak(device)
    job.state.step = before
    watch, spent = Watch(job.student, device), 0.0
    with closing(feed.batches(before)) as batches:
        for taken in range(min(phase.steps, WARM + MOST)):
            batch = next(batches)
            if taken in (0, WARM):  # what was before is forgotten
                watch, spent = Watch(job.student, device), 0.0
                job.means = watch
            _wait(device)
            since = time.perf_counter()
            train_step(job, phase, taken, batch)
            _wait(device)
            spent += time.perf_counter() - since
            job.state.step += 1
            if len(watch.sizes) >= STEPS and spent >= SECONDS:
                break
    n = len(watch.sizes)
    return Timed(Point(images, spent / n, watch.seconds(), _peak(device)), sum(watch.sizes) / n)


def _look(job: Job, phase: Phase) -> float:
    """Seconds an image, of all networks that are looked at; those drawn at random take the mean of
    the ends."""
    settings = job.settings
    n = settings.validate_archs if settings.validate_steps else 0
    if phase.space.size == 1:
        return _forward(job, phase.space.largest())
    ends = [_forward(job, a) for a in (phase.space.largest(), phase.space.smallest())]
    return sum(ends) * (1 + n / 2)


@torch.inference_mode()
def _forward(job: Job, arch: Arch) -> float:
    network = job.student.extract(arch).eval()
    device, size = job.group.device, arch.resolution
    images = torch.zeros(FORWARD, job.family.in_channels, size, size, device=device)
    network(images[:2])
    _wait(device)
    since = time.perf_counter()
    network(images)
    _wait(device)
    return (time.perf_counter() - since) / FORWARD


@dataclass(frozen=True)
class Imagined:
    """So many images that are not here: noise, of classes at random."""

    n: int
    channels: int
    classes: int
    labels: Tensor = field(default_factory=lambda: torch.empty(0))
    unreadable: tuple[Path, ...] = ()
    is_held: bool = False

    def __len__(self) -> int:
        return self.n

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for asked in requests:
            n, size = len(asked.indices), asked.resolution
            labels = torch.randint(self.classes, (n,))
            yield torch.randn(n, self.channels, size, size), labels


def imagined(settings: Settings, images: int) -> Data:
    """A data set that is not here, of so many images to train on, as a family's own networks take
    them: channels, classes and size."""
    family = families.get(settings.family)
    every = Imagined(images, family.in_channels, family.classes)
    found: Images = every  # type: ignore[assignment]
    return Data(
        name=settings.data.name,
        train=found,
        validation=found,
        test=found,
        classes=tuple(str(i) for i in range(family.classes)),
        channels=family.in_channels,
        size=max(family.space.resolution),
        normalisation=default_normalisation(family.in_channels),
        contents={},
    )


def _cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def _wait(device: torch.device) -> None:
    if _cuda(device):
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    """Memory is measured from now on."""
    if _cuda(device):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            PEAK.write_text("5")


def _peak(device: torch.device) -> float:
    """Bytes: the most that was in use on a GPU, or by this process."""
    with suppress(OSError):
        if not _cuda(device):
            lines = PEAK.with_name("status").read_text().splitlines()
            found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
            return 1024.0 * float(found[0])
    return float(memory_bytes(device))


def _mark(device: torch.device) -> Any:
    """A point in the device's time."""
    if not _cuda(device):
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(a: Any, b: Any) -> float:
    """Seconds from one mark to another."""
    return float(b - a) if isinstance(a, float) else float(a.elapsed_time(b)) / 1000
