"""The training loop: batches, losses, gradients, a step; and what is written every so often.

Batches, archs, augmentation and dropout are functions of the seed, the step's number and
the share of the batch, so a run that was stopped and resumed takes the same steps as one that was
not.
The host waits for the device only where it logs, validates or saves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall import __version__
from onceforall.data import Data
from onceforall.errors import Stopped
from onceforall.precision import float32
from onceforall.progress import Bar, bar, say
from onceforall.training import checkpoints, folder
from onceforall.training.alone import Alone
from onceforall.training.curricula import Phase
from onceforall.training.feed import Batch
from onceforall.training.guards import (
    IN_A_ROW,
    IN_A_ROW_LAST,
    IN_A_ROW_SCALED,
    interrupts,
    refuse_divergence,
)
from onceforall.training.job import Job
from onceforall.training.logs import Meter, Reading, memory_bytes
from onceforall.training.optimizers import clipped, gradients_of, step_unless
from onceforall.training.ranks import Group
from onceforall.training.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """What `train` leaves behind."""

    run: Path
    steps: int
    seconds: float  # of training, all parts of this run together
    metrics: dict[str, Any]  # the last line of the metrics


def train(
    run: Path,
    settings: Settings,
    data: Data,
    *,
    resume: bool = False,
    group: Group | None = None,
    about: str = "",
    alone: Alone | None = None,
) -> Outcome:
    """Trains a supernet in the folder `run`, or the network `alone`; with `resume`, goes on with
    the run that is there, which is nothing where it has been trained to its end.

    PyTorch's random state and its number of threads are as before when it returns. `about` is said
    before the first step, once nothing speaks against it.

    Raises:
        InputError: the folder holds a run already (without `resume`), or one with other settings.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    group = group or Group()
    versions = {"torch": torch.__version__, "onceforall": __version__}
    group.agree({**folder.alike(settings, data), **versions})
    cuda = [torch.cuda.current_device()] if group.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), numbers(settings):
        resume = folder.goes_on(run, settings, data, resume, group)
        job = group.together(lambda: Job(run, settings, data, group, alone))
        group.together(lambda: folder.make(run, group))
        with folder.locked(run, group):
            group.together(lambda: folder.check(run, settings, data, resume))
            group.together(lambda: folder.prepare(run, settings, data, group))
            if about and group.first:
                say(about)
            job.load()
            group.agree({"the step to go on from": job.state.step})
            return steps(job)


def steps(job: Job) -> Outcome:
    """Takes all steps that are left."""
    state, settings, group, total = job.state, job.settings, job.group, job.curriculum.steps
    if state.step == 0 and job.teacher is not None:
        job.save_teacher()
    if state.step == total and group.any(group.first and job.keeper.has_result()):
        if group.first:
            say(f"{job.folder}: trained to its end already, {total} steps; nothing to do")
        return Outcome(job.folder, state.step, state.seconds, job.log.latest)
    group.broadcast([*job.student.parameters(), *job.student.buffers()])
    feed = job.feed.batches(state.step)
    meter = Meter(job.task.metric)
    saved = since = time.monotonic()
    with interrupts() as interrupted, _bar(job, total) as shown:
        while state.step < total:
            phase, k = job.curriculum.at(state.step)
            if k == 0:
                job.begin(phase)
            batches = next(feed)
            images = sum(len(batch.images) for batch in batches)
            meter.add(*train_step(job, phase, k, batches), images)
            state.step += 1
            ended = k + 1 == phase.steps
            if ended or state.step % settings.log_steps == 0:
                reading = meter.read()
                now = time.monotonic()
                state.seconds, since = state.seconds + now - since, now
                _refuse_divergence(job, phase, reading, ended)
                job.report(phase, reading)
                shown.note(note(job, phase, reading))
            shown.advance()
            with meter.paused():
                if ended:
                    job.end(phase)
                elif settings.validate_steps and state.step % settings.validate_steps == 0:
                    job.look(phase)
            stop = group.any(bool(interrupted))
            now = time.monotonic()
            if stop or ended or now - saved > settings.checkpoint_seconds:
                state.seconds, since = state.seconds + now - since, now
                if ended or not meter.in_a_row:  # else the weights may be past help
                    state.skipped += meter.skips()
                    with meter.paused():
                        job.keeper.save()
                saved = time.monotonic()
            if stop:
                group.wait()  # until the first has written it: one that ends may end the others
                raise Stopped(f"stopped after step {state.step} of {total}; --resume goes on")
    job.finish()
    return Outcome(job.folder, state.step, state.seconds, job.log.latest)


def train_step(
    job: Job, phase: Phase, k: int, batches: Sequence[Batch]
) -> tuple[Tensor, Tensor, Tensor]:
    """One step, on this process's shares of a batch. Loss and sums of the metric of its last
    network (in the sandwich, a sampled one), and whether the step was passed over, all on the
    device."""
    state, parts = job.state, job.accumulate * len(batches)
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = phase.learning_rate(k)
    job.student.train()
    slots = phase.draw(job.settings.seed, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    for part, piece in enumerate(p for batch in batches for p in batch.pieces(job.accumulate)):
        if part % job.accumulate == 0:
            job.seed("dropout", state.step, piece.share)
        given = piece.images, piece.targets
        losses = job.objective.losses(job.forward, job.teacher, phase, slots, *given)
        for i, found in enumerate(losses):
            if part + 1 == parts and i + 1 == len(slots):
                job.means.last(job.student.borrowed(found.arch))
            loss = found.value / parts if parts > 1 else found.value
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()
    job.means.finish()
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    norm = clipped(gradients_of(job.student.parameters()), job.settings.clip)
    bad = ~norm.isfinite()
    if state.scaler is not None:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    else:
        step_unless(bad, state.optimizer)
    if state.average is not None:
        state.average.update()
    sums = job.task.metric.sums(found.outputs, found.targets)
    return found.value.detach(), sums, bad


def _refuse_divergence(job: Job, phase: Phase, reading: Reading, ended: bool) -> None:
    most = IN_A_ROW if job.state.scaler is None else IN_A_ROW_SCALED
    if ended:
        most = min(most, IN_A_ROW_LAST)
    kept = checkpoints.kept(job.folder).rstrip("; ")
    refuse_divergence(phase.name, job.state.step, reading.in_a_row, most, kept)


def note(job: Job, phase: Phase, reading: Reading) -> str:
    """What is shown below the bar."""
    metric, device = job.task.metric, job.group.device
    parts = [
        phase.name[:12],
        f"loss {reading.loss:.3f}",
        f"{metric.label} {reading.metric:.1f}{metric.unit}",
        f"{reading.speed * job.group.size:,.0f} images/s",
        f"{memory_bytes(device) / 2**30:.1f} GiB",
    ]
    if job.latest:  # of the phase's ends alone, which come first
        ends = " to ".join(f"{value:.1f}" for value in sorted(job.latest[:2]))
        parts.insert(3, f"validation {ends}{metric.unit}")
    return "  ".join(parts)


@contextmanager
def numbers(settings: Settings) -> Iterator[None]:
    """PyTorch with the settings' number of threads, and matrices in TF32 where they say so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        with float32(tf32=settings.precision == "tf32"):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _bar(job: Job, total: int) -> Iterator[Bar]:
    if not job.group.first:
        yield Bar(None, None)
        return
    with bar("training", total, job.state.step) as shown:
        yield shown
