"""Training: learns, is the same when resumed, stops cleanly, and refuses what does not fit."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupting import ctrl_c_at
from PIL import Image
from processes import FORKS, grouped
from torch import nn

from onceforall import data, families, training
from onceforall.data import Data, FileImages, Request, Source
from onceforall.errors import InputError, Stopped
from onceforall.families.layers import Layer, layer
from onceforall.families.mobilenetv3 import MobileNetV3
from onceforall.pipeline import open_run
from onceforall.space import Arch
from onceforall.supernet import calibrated, checkpoint, load_network, load_supernet, score
from onceforall.training import Settings, load_settings, loop
from onceforall.training import folder as run_folder
from onceforall.training.feed import Batch
from onceforall.training.job import Job
from onceforall.training.ranks import GradientMeans

RECIPE = """
family: mbv3_mini
resolutions: [8, 12]
data: {name: digits}
batch_size: 32
log_steps: 2
checkpoint_seconds: 1000
phases:
  - {name: largest, steps: 6, lr: 0.1, warmup: 0.3}
  - {name: kernel, steps: 3, lr: 0.1, kernel: 2, distil: 1.0}
  - {name: expand-1, steps: 3, lr: 0.1, archs: 2, kernel: 2, depth: 2, expand: 2, distil: 1.0}
  - {name: sandwich, steps: 3, lr: 0.1, archs: 3, kernel: 2, depth: 3, expand: 3, rule: sandwich,
     distil: 1.0}
  - {name: own, steps: 3, lr: 0.1, archs: 3, kernel: 2, depth: 3, expand: 3, rule: sandwich,
     distil: 0.5, own_images: true}
"""


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load(Source("digits"))


def recipe(tmp_path: Path, *changes: str) -> Settings:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return load_settings(str(path), changes)


def begun(run: Path, settings: Settings, images: Data, group: training.Group | None = None) -> Job:
    """A run's parts, before its first step."""
    job = Job(run, settings, images, group or training.Group())
    job.load()
    return job


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_supernet(run / "supernet.safetensors")[0].state_dict()


def test_a_run_leaves_a_supernet_metrics_and_a_teacher(tmp_path: Path, digits: Data) -> None:
    done = training.train(tmp_path / "run", recipe(tmp_path), digits)
    assert done.steps == 18
    lines = [json.loads(t) for t in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [x["phase"] for x in lines if x.get("ended")] == [
        "largest",
        "kernel",
        "expand-1",
        "sandwich",
        "own",
    ]
    assert all({"top1_largest", "top1_smallest"} <= set(x) for x in lines if x.get("ended"))
    assert (tmp_path / "run/teacher.safetensors").exists()
    run = open_run(tmp_path / "run")
    assert run.supernet.space.resolution == (8, 12)
    assert run.facts["data"]["classes"] == list("0123456789")
    before = torch.eye(9)
    assert not torch.equal(run.supernet.transforms["stage1_block1_5to3"], before)


def test_training_learns(tmp_path: Path, digits: Data) -> None:
    settings = recipe(tmp_path, "phases.0.steps=60", "phases.3.steps=60", "resolutions=[12]")
    training.train(tmp_path / "run", settings, digits)
    supernet = open_run(tmp_path / "run").supernet
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        network = calibrated(supernet, arch, digits)
        assert score(network, 12, digits.test).value > 60  # chance is 10


def test_resumed_equals_never_stopped(tmp_path: Path, digits: Data) -> None:
    settings = recipe(tmp_path, "dropout=0.2")
    training.train(tmp_path / "whole", settings, digits)
    for stop in (3, 7, 11, 16):
        run = tmp_path / f"stopped-{stop}"
        with pytest.raises(Stopped):
            _train_and_stop(run, settings, digits, stop)
        training.train(run, settings, digits, resume=True)
        ours, theirs = weights_of(run), weights_of(tmp_path / "whole")
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), (stop, name)
        steps = [json.loads(t)["step"] for t in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)


def test_dropout_is_of_seed_step_and_share(tmp_path: Path, digits: Data) -> None:
    """Masks of the same images at the same weights, of three steps, two shares of a batch and two
    seeds; and the same once more."""
    masks = []
    for seed, share, step in ((0, 0, 3), (0, 0, 4), (0, 1, 3), (1, 0, 3), (0, 0, 3)):
        settings = recipe(tmp_path, "dropout=0.5", f"seed={seed}", "resolutions=[12]")
        run = begun(tmp_path / "run", settings, digits)
        run.state.step = step
        images, labels = next(digits.train.stream([Request(range(32), 12)]))
        seen: list[torch.Tensor] = []
        arch = run.family.space.largest()
        (dropout,) = (m for m in run.student.skeleton(arch).modules() if "Dropout" in str(type(m)))
        hook = dropout.register_forward_hook(lambda m, x, y, seen=seen: seen.append(y != 0))
        loop.train_step(run, run.curriculum.phases[0], step, [Batch(images, labels, share)])
        hook.remove()
        masks.append(seen[0])
    assert all(0.2 < mask.float().mean() < 0.8 for mask in masks)
    assert torch.equal(masks[0], masks[4])
    for i in range(4):
        for j in range(i):
            assert (masks[i] != masks[j]).float().mean() > 0.1, (i, j)


def test_the_caller_keeps_random_state_and_threads(tmp_path: Path, digits: Data) -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    settings = recipe(tmp_path, "phases=[{name: a, steps: 2, lr: 0.1}]", "dropout=0.2", "threads=2")
    training.train(tmp_path / "run", settings, digits)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_archs_and_order_are_drawn_independently(tmp_path: Path, digits: Data) -> None:
    """NumPy's generators of (seed, 1) and (seed, 1, 0) are one: those of the archs of step 1 and
    of the order of epoch 0 were."""
    run = begun(tmp_path / "run", recipe(tmp_path), digits)
    order = [i for r in list(run.feed.requests(0))[:6] for i in r.indices]
    n = len(digits.train)
    assert order != np.random.default_rng((0, 1)).permutation(n).tolist()[: len(order)]


def test_every_image_is_seen_once_an_epoch(tmp_path: Path, digits: Data) -> None:
    """Where each arch of a step has images of its own, too, and from wherever a run is resumed."""
    settings = recipe(tmp_path, "batch_size=256", "phases.4.steps=9")
    run = begun(tmp_path / "run", settings, digits)
    requests = list(run.feed.requests(0))
    assert [len(r.indices) for r in requests] == 15 * [256] + 9 * [3 * 256]
    seen = [i for r in requests for i in r.indices]
    epoch = len(digits.train) // 256 * 256
    for start in range(0, len(seen) - epoch + 1, epoch):
        assert len(set(seen[start : start + epoch])) == epoch
    assert list(run.feed.requests(17)) == requests[17:]


def test_archs_with_images_of_their_own_learn_from_those(tmp_path: Path, digits: Data) -> None:
    """The gradient of a step is the sum of each arch's on its own batch."""
    phase = "{name: a, steps: 1, lr: 0.1, archs: 3, kernel: 2, rule: sandwich, own_images: true}"
    settings = recipe(tmp_path, f"phases=[{phase}]", "resolutions=[12]", "momentum=0")
    run = begun(tmp_path / "run", settings, digits)
    images, labels = next(digits.train.stream(run.feed.requests(0)))
    plan = run.curriculum.phases[0]
    loop.train_step(run, plan, 0, [Batch(images, labels)])
    found = {n: p.grad.clone() for n, p in run.student.named_parameters() if p.grad is not None}
    again = begun(tmp_path / "run", settings, digits).student.train()
    for i, (arch,) in enumerate(plan.draw(settings.seed, 0)):
        part = slice(32 * i, 32 * (i + 1))
        torch.nn.functional.cross_entropy(
            again(images[part], arch), labels[part], label_smoothing=settings.label_smoothing
        ).backward()
    expected = {n: p.grad for n, p in again.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_the_mean_of_the_weights_teaches(tmp_path: Path, digits: Data) -> None:
    """As it is validated and kept at the end of the phase before."""
    phases = "{name: a, steps: 4, lr: 0.1}, {name: b, steps: 2, lr: 0.1, kernel: 2, distil: 1.0}"
    training.train(tmp_path / "run", recipe(tmp_path, f"phases=[{phases}]", "ema=0.9"), digits)
    kept = load_supernet(tmp_path / "run" / "checkpoints" / "phase-0-a.safetensors")[0]
    teacher = load_network(tmp_path / "run" / "teacher.safetensors")[0]
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, kept.network.get_parameter(name)), name


def test_what_no_arch_has_is_left_alone(tmp_path: Path, digits: Data) -> None:
    """Weight decay and momentum pass over blocks that no arch of a step has; in a block that is
    used, the channels that none has do decay and move on, by hand: velocity 0.9 v + 0.5 w, and
    Nesterov's step of 0.1 (0.5 w + 0.9 velocity)."""
    changes = ("weight_decay=0.5", "momentum=0.9", "resolutions=[12]")
    phases = "phases=[{name: a, steps: 2, lr: 0.1, kernel: 2, depth: 3, expand: 3}]"
    settings = recipe(tmp_path, phases, *changes)
    run = begun(tmp_path / "run", settings, digits)
    space = run.curriculum.phases[0].space
    images, labels = next(digits.train.stream([Request(range(32), 12)]))

    def step(arch: Arch) -> None:
        plan = dataclasses.replace(run.curriculum.phases[0])
        object.__setattr__(plan, "draw", lambda seed, number: [[arch]])
        loop.train_step(run, plan, 0, [Batch(images, labels)])

    step(space.largest())  # every weight has a momentum now
    before = {n: p.detach().clone() for n, p in run.student.named_parameters()}
    velocity = {
        n: run.state.optimizer.state[p]["momentum_buffer"].clone()
        for n, p in run.student.named_parameters()
        if p in run.state.optimizer.state
    }
    step(space.smallest())
    after = dict(run.student.named_parameters())
    absent = "network.stage1_block2."  # the smallest has one block a stage
    names = [n for n in after if n.startswith(absent)]
    assert len(names) > 5
    for name in names:
        assert velocity[name].abs().sum() > 0, name
        assert torch.equal(after[name], before[name]), name
        assert torch.equal(
            run.state.optimizer.state[after[name]]["momentum_buffer"], velocity[name]
        ), name
    name = "network.stage1_block1.project.conv.weight"
    used = run.student.extract(space.smallest()).get_parameter(name.removeprefix("network."))
    w, v = before[name][:, used.shape[1] :], velocity[name][:, used.shape[1] :]
    assert w.numel() > 0
    rate = run.state.optimizer.param_groups[0]["lr"]
    moved = w - rate * (0.5 * w + 0.9 * (0.9 * v + 0.5 * w))
    torch.testing.assert_close(after[name][:, used.shape[1] :], moved)


def _train_and_stop(run: Path, settings: Settings, digits: Data, step: int) -> None:
    with ctrl_c_at(step):
        training.train(run, settings, digits)


def test_folders_are_not_overwritten(tmp_path: Path, digits: Data) -> None:
    settings = recipe(tmp_path, "phases=[{name: a, steps: 1, lr: 0.1}]")
    training.train(tmp_path / "run", settings, digits)
    with pytest.raises(InputError, match="holds a run already"):
        training.train(tmp_path / "run", settings, digits)
    other = recipe(tmp_path, "seed=1", "phases=[{name: a, steps: 1, lr: 0.1}]")
    with pytest.raises(InputError, match="seed was 0, now 1"):
        training.train(tmp_path / "run", other, digits, resume=True)
    with pytest.raises(InputError, match="no run to resume"):
        training.train(tmp_path / "none", settings, digits, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="exists and is not a run"):
        training.train(tmp_path / "mine", settings, digits)


def stopped(tmp_path: Path, digits: Data) -> Path:
    with pytest.raises(Stopped):
        _train_and_stop(tmp_path / "run", recipe(tmp_path), digits, 3)
    return tmp_path / "run"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def test_settings_of_another_version(tmp_path: Path, digits: Data) -> None:
    """What an earlier one did not know yet had its default; what this one does not know is refused
    in one line."""
    run = stopped(tmp_path, digits)
    path = run / "settings.json"

    def drop(found: dict[str, Any]) -> None:
        del found["precision"], found["data"]["std"], found["phases"][0]["warmup_epochs"]

    rewrite(path, lambda found: found.update(shape="round"))
    with pytest.raises(InputError, match=r"settings.json: unknown key 'shape'; there are phases"):
        training.train(run, recipe(tmp_path), digits, resume=True)
    rewrite(path, lambda found: found.pop("shape"))
    rewrite(path, drop)
    with pytest.raises(InputError, match="precision was 'fp32', now 'bf16'"):
        training.train(run, recipe(tmp_path, "precision=bf16"), digits, resume=True)
    assert training.train(run, recipe(tmp_path), digits, resume=True).steps == 18


def test_what_may_change_when_a_run_is_resumed(tmp_path: Path, digits: Data) -> None:
    """Where the files are and how many read them; nothing else of the data."""
    run = stopped(tmp_path, digits)
    for change, message in (
        ("data.validation=99", "data.validation was None, now 99"),
        ("data.augmentation=none", "data.augmentation was None, now 'none'"),
        ("phases.0.lr=0.2", "phases.0.lr was 0.1, now 0.2"),
        ("resolutions=[12]", r"resolutions was \[8, 12\], now \[12\]"),
        ("validate_steps=5 keep=best", "keep was 'last', now 'best'"),
    ):
        with pytest.raises(InputError, match=f"settings.json: {message}"):
            training.train(run, recipe(tmp_path, *change.split()), digits, resume=True)
    free = ["data.root=/elsewhere", "data.workers=0", "threads=1", "log_steps=1"]
    moved = recipe(tmp_path, *free, "validate_steps=5", "validate_archs=0")
    assert training.train(run, moved, digits, resume=True).steps == 18


def test_processes_that_cannot_share_a_batch_as_it_was_are_refused(
    tmp_path: Path, digits: Data
) -> None:
    run = stopped(tmp_path, digits)
    group = training.Group(rank=0, size=2)
    job = Job(run, recipe(tmp_path), digits, group)
    with pytest.raises(InputError, match=r"processes was 1, now 2: .* start 1, or begin with"):
        job.keeper.newest(job.curriculum.steps)
    facts = {"family": "mbv3_mini", "arch": None, "step": 3, "processes": 12}
    path = run / "step"
    for size in (12, 6, 4, 3, 2, 1):
        job.keeper.group = training.Group(size=size)
        job.keeper._check(path, facts, 18)
    for size in (5, 24):
        job.keeper.group = training.Group(size=size)
        with pytest.raises(InputError, match=rf"was 12, now {size}: .* start 12, 1, 2, 3, 4, 6,"):
            job.keeper._check(path, facts, 18)
    attentive = replace(job.settings.phases[0], candidates=3)
    job.keeper.settings = replace(job.settings, phases=(attentive,))
    job.keeper.group = training.Group(size=6)
    with pytest.raises(InputError, match=r"was 12, now 6: .* start 12, or begin with"):
        job.keeper._check(path, facts, 18)
    for batch, message in ((3, "3 cannot be divided among 2 processes"), (2, "2 is not enough")):
        with pytest.raises(InputError, match=f"batch_size: {message}"):
            Job(run, recipe(tmp_path, f"batch_size={batch}"), digits, group)


def test_resuming_what_has_ended_changes_nothing(
    tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(tmp_path, "phases=[{name: a, steps: 2, lr: 0.1}]")
    done = training.train(tmp_path / "run", settings, digits)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir() if p.suffix != ".jsonl"}
    capsys.readouterr()
    again = training.train(tmp_path / "run", settings, digits, resume=True)
    assert "trained to its end already, 2 steps; nothing to do" in capsys.readouterr().err
    assert again == done
    assert all(p.stat().st_mtime_ns == was for p, was in before.items())


def test_a_resumed_run_clears_up_after_a_killed_one(tmp_path: Path, digits: Data) -> None:
    """SIGKILL while a checkpoint is being written: the one before it counts, and nothing is left
    of the new one."""
    settings = recipe(tmp_path, "phases=[{name: a, steps: 2, lr: 0.1}]", "threads=1")
    script = """
import os, signal, sys
from pathlib import Path
from onceforall import data, training
import safetensors.torch

save = safetensors.torch.save_file
def dying(tensors, path, **more):
    save(tensors, path, **more)
    if "step-" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = dying
settings = training.load_settings(sys.argv[1])
training.train(Path(sys.argv[2]), settings, data.load(data.Source("digits")))
"""
    (tmp_path / "short.yaml").write_text(json.dumps(settings.to_dict()))
    run = tmp_path / "run"
    command = [sys.executable, "-c", script, str(tmp_path / "short.yaml"), str(run)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any(p.name.startswith(".step-") for p in (run / "checkpoints").iterdir())
    training.train(run, settings, digits, resume=True)
    found = {p.name for p in run.iterdir()}
    assert found == {"settings.json", "data.json", "metrics.jsonl", "checkpoints"} | {
        "supernet.safetensors"
    }
    found = {p.name for p in (run / "checkpoints").iterdir()}
    assert found == {"step-00000002.safetensors", "phase-0-a.safetensors"}


PAUSING = """
import sys
from onceforall import cli
from onceforall.training import loop

take = loop.train_step

def pausing(job, *args):
    if job.state.step == 4:
        print("at step 4", flush=True)
        sys.stdin.readline()
    return take(job, *args)

loop.train_step = pausing
cli.main()
"""


def test_sigterm_to_all_processes_ends_in_a_checkpoint(tmp_path: Path, photos: Path) -> None:
    """While worker processes read images: as a batch system stops a job. Resumed, the run ends with
    the weights of one that was never stopped."""
    changes = [
        f"data={{name: {photos}, workers: 2, hold: never}}",
        "resolutions=[72]",
        "batch_size=8",
    ]
    changes += ["phases=[{name: a, steps: 10, lr: 0.1}]", "threads=1", "dropout=0.2"]
    settings = recipe(tmp_path, *changes)
    command = [sys.executable, "-c", PAUSING, "train", str(tmp_path / "recipe.yaml"), *changes]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at step 4\n"
        os.killpg(process.pid, signal.SIGTERM)
        _, told = process.communicate("go on\n", timeout=120)
    assert told.splitlines()[1:] == ["onceforall: stopped after step 5 of 10; --resume goes on"]
    assert process.returncode == 130
    path = tmp_path / "run" / "checkpoints" / "step-00000005.safetensors"
    assert checkpoint.load(path, "training").facts["step"] == 5
    photographs = data.load(settings.data)
    assert isinstance(photographs.train, FileImages)
    training.train(tmp_path / "run", settings, photographs, resume=True)
    training.train(tmp_path / "whole", settings, photographs)
    ours, theirs = weights_of(tmp_path / "run"), weights_of(tmp_path / "whole")
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


READING = """
import os, signal, sys
from pathlib import Path
from onceforall import data

images = data.load(data.Source(sys.argv[1], workers=2)).train
stream = images.stream(data.Request([i % 8], 72) for i in range(10**9))
next(stream)
workers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
print(*workers, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for child processes")
@pytest.mark.parametrize("end", ["at its end", "killed"])
def test_no_worker_outlives_its_parent(photos: Path, end: str) -> None:
    """Neither one that ends in the midst of a stream, which must not wait for its workers for ever
    either, nor one that is killed."""
    command = [sys.executable, "-c", READING, str(photos), end]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert found.returncode == (-signal.SIGKILL if end == "killed" else 0), found.stderr
    workers = found.stdout.split()
    assert len(workers) == 2
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)  # until the test's timeout


class Scale(nn.Module):
    """(N, features), each times a weight and plus a number that an unseeded generator drew."""

    def __init__(self, features: int) -> None:
        super().__init__()
        drawn = np.random.default_rng().normal(1, 0.5, 2).tolist()
        self.weight = nn.Parameter(torch.full((features,), drawn[0]))
        self.register_buffer("shift", torch.full((features,), drawn[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unseeded(MobileNetV3):
    """A plug-in family whose build is random in a way that no seed of ours reaches."""

    def tail(self, width_in: int) -> dict[str, Layer]:
        layers = super().tail(width_in)
        last = layers.popitem()
        return {**layers, "scale": layer(Scale, features=self.feature_mix), last[0]: last[1]}


def unseeded(**settings: Any) -> Unseeded:
    plain = families.get("mbv3_mini", **settings)
    return Unseeded(**{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)})


def _rank(group: training.Group, folder: Path) -> None:
    """One of two processes: trains, and writes its weights and some gradients it averaged."""
    families._FAMILIES["unseeded"] = unseeded
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    used.grad = torch.tensor([1.0, 5.0]) * (1 + 2 * group.rank)
    means = GradientMeans([used, unused], group)
    means.last([])
    means.finish()
    two = "phases=[{name: a, steps: 3, lr: 0.1}, {name: b, steps: 3, lr: 0.1, expand: 2, depth: 3}]"
    changes = ["family=unseeded", "dropout=0.2", two]
    # Both processes read the file, neither writes it.
    settings = load_settings(str(folder / "recipe.yaml"), changes)
    digits = data.load(settings.data)
    run_folder.prepare(folder / "run", settings, digits, group)
    run = begun(folder / "run", settings, digits, group)
    scale = dict(run.student.named_parameters())["network.scale.weight"]
    tensors = {"drawn": scale.detach().clone(), "averaged": used.grad}
    if unused.grad is not None:
        tensors["unused"] = unused.grad
    loop.steps(run)
    tensors |= {f"supernet.{n}": t.clone() for n, t in run.student.state_dict().items()}
    torch.save(tensors, folder / f"{group.rank}.pt")


@FORKS
@pytest.mark.slow
def test_processes_start_and_end_with_equal_weights(tmp_path: Path) -> None:
    """Also where a family's build draws from a generator that is not seeded. And gradients are
    averaged by hand, (1 + 3) / 2 and (5 + 15) / 2; where there is none, there is none after."""
    recipe(tmp_path)
    grouped(partial(_rank, folder=tmp_path), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(first["drawn"], second["drawn"])
    for found in (first, second):
        assert found["averaged"].tolist() == [2.0, 10.0]
        assert "unused" not in found
    for name, tensor in first.items():
        if name.startswith("supernet."):
            assert torch.equal(tensor, second[name]), name
    found = checkpoint.describe(tmp_path / "run" / "checkpoints" / "step-00000006.safetensors")
    assert found["processes"] == 2


def test_what_cannot_train_leaves_nothing(tmp_path: Path, digits: Data) -> None:
    """So that the same command, put right, is not refused for the folder it left."""
    with pytest.raises(InputError, match="batch_size: 5000 is more than the"):
        training.train(tmp_path / "run", recipe(tmp_path, "batch_size=5000"), digits)
    assert not (tmp_path / "run").exists()
    killed = tmp_path / "killed"  # before its settings were written
    (killed / ".settings.json.abc").mkdir(parents=True)
    (killed / "data.json").write_text("{}")
    settings = recipe(tmp_path, "phases=[{name: a, steps: 1, lr: 0.1}]")
    assert training.train(killed, settings, digits).steps == 1
    assert json.loads((killed / "data.json").read_text()) == digits.contents


def test_what_cannot_train_is_refused(tmp_path: Path, digits: Data) -> None:
    with pytest.raises(InputError, match="batch_size: 5000 is more than"):
        training.train(tmp_path / "a", recipe(tmp_path, "batch_size=5000"), digits)
    with pytest.raises(InputError, match=r"the loss is .* a lower lr helps"):
        training.train(tmp_path / "b", recipe(tmp_path, "phases.0.lr=1e9"), digits)
    with pytest.raises(InputError, match="not finished"):
        open_run(tmp_path / "b")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, digits: Data) -> None:
    settings = recipe(tmp_path)
    with pytest.raises(Stopped):
        _train_and_stop(tmp_path / "run", settings, digits, 3)
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"step-00000003\.safetensors"):
        training.train(tmp_path / "run", settings, digits, resume=True)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, digits: Data) -> None:
    """Under torchrun, with batch norm taken per process: all processes end with equal weights, and
    the run is complete."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["onceforall", "train", str(tmp_path / "recipe.yaml"), "threads=1"]
    command += ["--out", str(tmp_path / "run"), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "29531"}
    found = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=200
    )
    assert found.returncode == 0, found.stderr[-2000:]
    results = [json.loads(t) for t in found.stdout.splitlines() if t.startswith("{")]
    assert len(results) == 1
    assert results[0]["steps"] == 18
    assert open_run(tmp_path / "run").supernet.space.resolution == (8, 12)


def test_changed_images_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo more, between starting and resuming, and between training and opening."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    source = f"data.name={tmp_path / 'images'}"
    settings = recipe(tmp_path, source, "phases=[{name: a, steps: 4, lr: 0.1}]", "batch_size=8")
    with pytest.raises(Stopped):
        _train_and_stop(tmp_path / "run", settings, data.load(settings.data), 2)
    added = tmp_path / "images" / "cat" / "new-0.png"
    Image.new("RGB", (16, 16)).save(added)
    with pytest.raises(InputError, match=r"training images have changed \(train cat: "):
        training.train(tmp_path / "run", settings, data.load(settings.data), resume=True)
    added.unlink()
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    training.train(tmp_path / "run", settings, data.load(settings.data), resume=True)
    Image.new("RGB", (16, 16)).save(added)
    capsys.readouterr()
    open_run(tmp_path / "run").data()
    assert "images have changed since" in capsys.readouterr().err
    added.unlink()
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"run: was trained on the images in .*; --data names"):
        open_run(tmp_path / "run").data()
    capsys.readouterr()
    assert len(open_run(tmp_path / "run", str(tmp_path / "elsewhere")).data().classes) == 2
    assert capsys.readouterr().err == ""
    # moved, and the same images: the run goes on, and knows where they are now
    moved = replace(settings, data=replace(settings.data, name=str(tmp_path / "elsewhere")))
    training.train(tmp_path / "again", moved, data.load(moved.data), resume=True)
    assert len(open_run(tmp_path / "again").data().classes) == 2
    assert "changed" not in capsys.readouterr().err
    (tmp_path / "again" / "data.json").unlink()
    open_run(tmp_path / "again").data()
    assert "again: has no data.json, so images may be" in capsys.readouterr().err
    other = replace(settings, data=Source("digits"))
    with pytest.raises(InputError, match=r"data.name was '.*images', now 'digits'"):
        training.train(tmp_path / "run", other, data.load(other.data), resume=True)
