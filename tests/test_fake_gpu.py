"""Steps of training on a GPU that is not there: all tensors are where they belong, they lie as the
optimiser's kernels want them, and the host waits for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_gpu import GPU, fake_gpu

from onceforall.data import MemoryImages, Normalisation, Request
from onceforall.supernet import calibrate, unlabelled_batches
from onceforall.training import Group, load_settings
from onceforall.training.feed import Feed
from onceforall.training.job import Job
from onceforall.training.logs import Meter
from onceforall.training.loop import train_step
from onceforall.training.optimizers import optimizer_of
from onceforall.training.probing import imagined

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
BATCH = 8
RUNS = {
    "shrinking": ("small", ["precision=bf16", "ema=0.99", "clip=1.0", "dropout=0.1"]),
    "sandwich": ("sandwich", ["mixup=0.2", "cutmix=1.0", "stochastic_depth=0.2"]),
    "scaled": ("alphanet", ["precision=fp16", "accumulate=2", "optimizer=adamw"]),
    "chosen": ("delayed", ["precision=auto"]),
    "transformer": ("any", ["family=vit_mini", "optimizer=adamw", "precision=bf16"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, changes = RUNS[name]
    settings = load_settings(recipe, [f"batch_size={BATCH}", *changes])
    images = imagined(settings, 100)
    with fake_gpu(monkeypatch) as watch:
        job = Job(tmp_path, settings, images, Group(device=GPU))
        job.settle("bf16" if settings.precision == "auto" else None)
        meter = Meter(job.task.metric)
        for phase in job.curriculum.phases:
            if phase.taught_by_teacher and job.teacher is None:
                job.make_teacher()
            job.enter(phase)
            job.state.begin(optimizer_of(job.student, settings))
            images_of = Feed(images.train, job.curriculum, BATCH, 0, job.group, mix=job.mix)
            feed = images_of.batches(job.state.step)
            for k in range(2):
                batches = next(feed)
                watch.waits.clear()
                meter.add(*train_step(job, phase, k, batches), BATCH)
                assert not watch.waits or not job.state.step, watch.waits
                job.state.step += 1
            feed.close()
        assert {p.device for p in job.student.parameters()} == {GPU}
        assert {p.grad.device for p in job.student.parameters() if p.grad is not None} == {GPU}


def test_an_optimiser_that_is_there_before_the_precision_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an estimate: bf16 wants other strides of the weights, and so of its momentum."""
    settings = load_settings("small", [f"batch_size={BATCH}", "precision=auto"])
    images = imagined(settings, 100)
    with fake_gpu(monkeypatch):
        job = Job(tmp_path, settings, images, Group(device=GPU))
        job.settle("bf16")
        phase = job.curriculum.phases[0]
        job.enter(phase)
        feed = Feed(images.train, job.curriculum, BATCH, 0, job.group).batches(0)
        train_step(job, phase, 0, next(feed))
        feed.close()


def held(augmentation: str = "none") -> MemoryImages:
    pixels, labels = torch.zeros((40, 3, 28, 28), dtype=torch.uint8), torch.zeros(40).long()
    return MemoryImages(pixels, labels, Normalisation((0.5,) * 3, (0.5,) * 3), augmentation)


def test_networks_are_calibrated_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings("small", [f"batch_size={BATCH}"])
    with fake_gpu(monkeypatch) as watch:
        job = Job(tmp_path, settings, imagined(settings, 100), Group(device=GPU))
        network = job.student.extract(job.family.space.smallest())
        watch.waits.clear()
        calibrate(network, unlabelled_batches(held(), 28, 40, network))
        assert not watch.waits, watch.waits
        assert {b.device for b in network.buffers()} == {GPU}


@pytest.mark.parametrize("there", [True, False])
def test_images_are_augmented_where_they_are_wanted(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu(monkeypatch) as watch:
        images = held("shift+flip+color+randaugment:9+erase:0.25")
        images = images.prepared(28, GPU) if there else images.on(GPU)
        assert images.pixels.is_cuda == there
        watch.waits.clear()
        for x, y in images.stream(Request(range(8), 24, seed) for seed in range(3)):
            assert x.device == y.device == GPU
            assert x.shape == (8, 3, 24, 24)
        assert not watch.waits, watch.waits
