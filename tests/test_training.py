"""Training: learns, is the same when resumed, stops cleanly, and refuses what does not fit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from onceforall import config, data, training
from onceforall.accuracy import accuracy, calibrated
from onceforall.config import Settings
from onceforall.data import Data, Source
from onceforall.errors import InputError, Stopped
from onceforall.runs import open_run
from onceforall.weights import load_supernet

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
    return config.load(str(path), changes)


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
        assert accuracy(network, 12, digits.test).top1 > 60  # chance is 10


def test_resumed_equals_never_stopped(tmp_path: Path, digits: Data) -> None:
    settings = recipe(tmp_path)
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


def test_every_image_is_seen_once_an_epoch(tmp_path: Path, digits: Data) -> None:
    """Where each arch of a step has images of its own, too, and from wherever a run is resumed."""
    settings = recipe(tmp_path, "batch_size=256", "phases.4.steps=9")
    run = training._Run(tmp_path / "run", settings, digits, training.Group())
    requests = list(run._requests())
    assert [len(r.indices) for r in requests] == 15 * [256] + 9 * [3 * 256]
    seen = [i for r in requests for i in r.indices]
    epoch = len(digits.train) // 256 * 256
    for start in range(0, len(seen) - epoch + 1, epoch):
        assert len(set(seen[start : start + epoch])) == epoch
    run.step = 17
    assert list(run._requests()) == requests[17:]


def test_archs_with_images_of_their_own_learn_from_those(tmp_path: Path, digits: Data) -> None:
    """The gradient of a step is the sum of each arch's on its own batch."""
    phase = "{name: a, steps: 1, lr: 0.1, archs: 3, kernel: 2, rule: sandwich, own_images: true}"
    settings = recipe(tmp_path, f"phases=[{phase}]", "resolutions=[12]", "momentum=0")
    run = training._Run(tmp_path / "run", settings, digits, training.Group())
    images, labels = next(digits.train.stream(run._requests()))
    plan = run.curriculum.phases[0]
    run._train_step(plan, 0, images, labels)
    found = {n: p.grad.clone() for n, p in run.supernet.named_parameters() if p.grad is not None}
    again = training._Run(tmp_path / "run", settings, digits, training.Group()).supernet.train()
    for i, arch in enumerate(plan.sample(settings.seed, 0)):
        part = slice(32 * i, 32 * (i + 1))
        torch.nn.functional.cross_entropy(
            again(images[part], arch), labels[part], label_smoothing=settings.label_smoothing
        ).backward()
    expected = {n: p.grad for n, p in again.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def _train_and_stop(run: Path, settings: Settings, digits: Data, step: int) -> None:
    """Sends Ctrl-C to this process once a step has been taken."""
    original = training._Run._train_step

    def stepping(self: training._Run, *args: object) -> tuple[float, float]:
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)  # type: ignore[arg-type]

    training._Run._train_step = stepping  # type: ignore[method-assign, assignment]
    try:
        training.train(run, settings, digits)
    finally:
        training._Run._train_step = original  # type: ignore[method-assign]


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
    path = tmp_path / "run" / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"training\.safetensors"):
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
