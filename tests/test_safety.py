"""A run cannot be lost: not by kills at any moment, damaged files, full disks or bad numbers."""

import io
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import dying

from onceforall import cli, data, training
from onceforall.data import Data, Source
from onceforall.errors import InputError, Stopped
from onceforall.supernet import checkpoint, load_supernet
from onceforall.training import Settings, checkpoints, guards, loop, settings_from_dict
from onceforall.training.job import Job
from onceforall.training.logs import Log

TWO_PHASES: list[dict[str, Any]] = [
    {"name": "a", "steps": 3, "lr": 0.1},
    {"name": "b", "steps": 3, "lr": 0.1, "archs": 2, "kernel": 2, "depth": 2, "distil": 1.0},
]
EVERY_STEP = 1e-9  # seconds between checkpoints
FORKS = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(),
    reason="forks, which autograd's threads of a GPU do not outlive",
)


@pytest.fixture(scope="module")
def digits() -> Data:
    found = data.load(Source("digits"))
    few = {"train": found.train.subset(range(96)), "validation": found.validation.subset(range(48))}
    return replace(found, **few)


def settings_of(**changes: Any) -> Settings:
    plain: dict[str, Any] = {
        "family": "mbv3_mini",
        "resolutions": [8],
        "data": {"name": "digits"},
        "batch_size": 16,
        "log_steps": 2,
        "threads": 1,
        "phases": TWO_PHASES,
    }
    return settings_from_dict({**plain, **changes}, "the test's")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_supernet(run / "supernet.safetensors")[0].state_dict()


def assert_equal(ours: Path, theirs: Path) -> None:
    """To the bit."""
    found = weights_of(ours)
    for name, tensor in weights_of(theirs).items():
        assert torch.equal(found[name], tensor), name


def before_step(monkeypatch: pytest.MonkeyPatch, do: Callable[[Job], None]) -> None:
    """Does something before each step is taken."""
    take = loop.train_step

    def stepping(job: Job, *args: Any) -> Any:
        do(job)
        return take(job, *args)

    monkeypatch.setattr(loop, "train_step", stepping)


def interrupted(run: Path, settings: Settings, images: Data, at: int) -> None:
    """A run that Ctrl-C stops after a step."""
    with pytest.MonkeyPatch.context() as patch:
        ask = lambda job: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        before_step(patch, lambda job: ask(job) if job.state.step + 1 == at else None)
        with pytest.raises(Stopped):
            training.train(run, settings, images)


def test_a_second_ctrl_c_counts_once_it_is_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sends it to all processes, and `torchrun` passes it on to them a moment later."""
    before = signal.getsignal(signal.SIGINT)
    with guards.interrupts() as found:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert found == [signal.SIGINT, signal.SIGINT, signal.SIGTERM]
        monkeypatch.setattr(guards, "AGAIN", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


# --- kills


def forked(work: Callable[[], Any]) -> int:
    """The status of another process that does it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@FORKS
@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(
    tmp_path: Path, digits: Data
) -> None:
    """SIGKILL 20 times, at moments drawn at random, each followed by a resume."""
    changes: dict[str, Any] = {"keep": "best", "validate_steps": 2, "validate_archs": 0, "ema": 0.9}
    settings = settings_of(checkpoint_seconds=EVERY_STEP, **changes)
    whole, run, counted = tmp_path / "whole", tmp_path / "run", tmp_path / "counted"

    def train(folder: Path, at: int) -> None:
        dying(folder, at, counted)
        resume = (folder / "settings.json").exists()
        training.train(folder, settings, digits, resume=resume)

    training.train(whole, settings, digits)  # what is imported by it, its children have
    assert forked(lambda: train(run, 0)) == 0
    moments = int(counted.read_text())
    assert moments > 80
    rng, kills = random.Random(0), 0
    while kills < 20:
        shutil.rmtree(run, ignore_errors=True)
        status = -signal.SIGKILL
        while status:
            assert status == -signal.SIGKILL
            at = rng.randint(1, moments // 2) if kills < 20 else 0
            status = forked(lambda at=at: train(run, at))
            kills += status != 0
        assert_equal(run, whole)
        assert names(run) == names(whole)
        steps = [json.loads(t)["step"] for t in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)


def names(run: Path) -> list[str]:
    return sorted(str(p.relative_to(run)) for p in run.rglob("*"))


@FORKS
@pytest.mark.slow
def test_each_moment_of_a_checkpoint(tmp_path: Path, digits: Data) -> None:
    """SIGKILL at every single one between two steps: nothing half-written is ever read, and what is
    left is cleared away."""
    settings = settings_of(phases=TWO_PHASES[:1], checkpoint_seconds=EVERY_STEP)
    start, run, counted = tmp_path / "start", tmp_path / "run", tmp_path / "counted"
    interrupted(start, settings, digits, 1)
    shutil.copytree(start, tmp_path / "whole")
    training.train(tmp_path / "whole", settings, digits, resume=True)
    left: set[str] = set()
    for at in range(1, 200):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start, run)

        def train(at: int = at) -> None:
            job = Job(run, settings, digits, training.Group())
            job.load()
            dying(run, at, counted)
            job.state.step += 1
            job.keeper.save()

        status = forked(train)
        left |= {name for name in names(run) if "/." in name}
        found = checkpoints.newest(run, note=pytest.fail)
        assert found is not None
        if status == 0:
            break
    assert at > 10
    assert left
    shutil.rmtree(run)
    shutil.copytree(start, run)
    (run / "checkpoints" / ".step-00000002.safetensors.abcd1234").mkdir()  # before it had a lock
    training.train(run, settings, digits, resume=True)
    assert names(run) == names(tmp_path / "whole")
    assert_equal(run, tmp_path / "whole")


# --- damage


@pytest.fixture
def stopped(tmp_path: Path, digits: Data) -> Path:
    """A run with checkpoints of steps 4 and 5, a teacher and the best weights so far."""
    changes = {"checkpoint_seconds": EVERY_STEP, "keep": "best", "validate_steps": 1}
    interrupted(tmp_path / "run", settings_of(**changes), digits, 5)
    return tmp_path / "run"


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Cut short anywhere, or with one bit turned."""
    at = rng.randrange(len(whole))
    if rng.random() < 0.3:
        at = rng.randrange(4000)  # in the header
    if rng.random() < 0.5:
        return whole[:at]
    return whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(stopped: Path) -> None:
    path, before = checkpoints.found(stopped)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(50):
        path.write_bytes(damaged(whole, rng))
        lines: list[str] = []
        found = checkpoints.newest(stopped, lines.append)
        assert found is not None
        assert found[0] == before
        assert len(lines) == 1
        assert lines[0].startswith(str(path))
        assert lines[0].endswith("; checkpoints/step-00000004.safetensors is used in its place")
        assert "\n" not in lines[0]
    before.write_bytes(damaged(whole, rng))
    with pytest.raises(InputError, match=r"step-00000005.*; nor is another of the 2 checkpoints"):
        checkpoints.newest(stopped)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    stopped: Path, digits: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And does not keep the damaged one in place of its own, also where it keeps only one."""
    settings = settings_of(
        checkpoint_seconds=EVERY_STEP, keep="best", validate_steps=1, checkpoints=1
    )
    path, _ = checkpoints.found(stopped)
    path.write_bytes(b"")
    late = checkpoints.path_of(stopped, 99)
    late.write_bytes(b"of a step that was never reached")
    capsys.readouterr()
    training.train(stopped, settings, digits, resume=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.endswith("00000004.safetensors is used in its place") for line in lines[:2]] == [
        True,
        True,
    ]
    assert [p.name for p in checkpoints.found(stopped)] == ["step-00000006.safetensors"]
    training.train(tmp_path / "whole", settings, digits)
    assert_equal(stopped, tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("teacher.safetensors", r"teacher\.safetensors: damaged"),
        ("best.safetensors", r"best\.safetensors: damaged"),
        ("settings.json", r"settings\.json: not JSON"),
        ("data.json", r"data\.json: not JSON"),
    ],
)
def test_other_damaged_files_are_named(
    stopped: Path, digits: Data, name: str, message: str
) -> None:
    settings = settings_of(checkpoint_seconds=EVERY_STEP, keep="best", validate_steps=1)
    path = stopped / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=message) as error:
        training.train(stopped, settings, digits, resume=True)
    assert "\n" not in str(error.value)
    path.unlink()
    if name.endswith("safetensors"):
        with pytest.raises(InputError, match=name):
            training.train(stopped, settings, digits, resume=True)
    path.write_bytes(whole)
    training.train(stopped, settings, digits, resume=True)


def test_metrics_of_any_content_do_not_stop_a_run(stopped: Path, digits: Data) -> None:
    settings = settings_of(checkpoint_seconds=EVERY_STEP, keep="best", validate_steps=1)
    path = stopped / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    junk = [b'{"step": 1, "phase": "a", "lo', b"\xff\xfe\n", b"[1]\n", b'{"step": "x"}\n', b"7\n"]
    path.write_bytes(b"".join(lines[:-1]) + junk[1] + b"".join(junk[2:]) + junk[0])
    training.train(stopped, settings, digits, resume=True)
    found = [json.loads(t) for t in path.read_text().splitlines()]
    assert [x["step"] for x in found] == sorted(x["step"] for x in found)
    assert found[-1]["step"] == 6


def test_a_damaged_result_is_written_anew(tmp_path: Path, digits: Data) -> None:
    settings = settings_of(phases=TWO_PHASES[:1])
    training.train(tmp_path / "run", settings, digits)
    path = tmp_path / "run" / "supernet.safetensors"
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    path.write_bytes(path.read_bytes()[:-100])
    training.train(tmp_path / "run", settings, digits, resume=True)
    assert_equal(tmp_path / "run", tmp_path / "whole")


# --- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(
    disk: Path, tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(checkpoint_seconds=EVERY_STEP, checkpoints=1)
    (disk / "other").write_bytes(bytes(2_000_000))
    with pytest.raises(
        InputError, match=r"cannot be written: .*No space left on device.*; "
    ) as error:
        training.train(disk / "run", settings, digits)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("is kept; make room, then --resume")
    found = checkpoints.newest(disk / "run", note=pytest.fail)
    assert found is not None
    assert found[0].name in str(error.value)
    assert not [name for name in names(disk / "run") if "/." in name]
    (disk / "other").unlink()
    training.train(disk / "run", settings, digits, resume=True)
    training.train(tmp_path / "whole", settings, digits)
    assert_equal(disk / "run", tmp_path / "whole")


@FORKS
@pytest.mark.parametrize("most", [0, 5000, 600_000])
def test_files_that_may_not_grow(tmp_path: Path, digits: Data, most: int) -> None:
    """A quota of so many bytes a file: one line, status 2, and the run goes on without it. Files
    of 0 bytes: settings cannot be written; of 5,000: no checkpoint; of 600,000: the teacher can."""
    settings = settings_of(checkpoint_seconds=EVERY_STEP)
    config, run = tmp_path / "settings.json", tmp_path / "run"
    config.write_text(json.dumps(settings.to_dict()))
    said = tmp_path / "said"

    def train() -> None:
        out = os.open(said, os.O_CREAT | os.O_WRONLY)
        read, write = os.pipe()
        os.dup2(write, 2)
        sys.stderr = os.fdopen(write, "w", buffering=1)
        sys.argv = ["onceforall", "train", str(config), "--out", str(run)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        try:
            cli.main()
        except SystemExit as end:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            os.write(out, os.read(read, 10_000))
            os._exit(int(str(end.code)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda source: digits)
        assert forked(train) == 2
    lines = [t for t in said.read_text().splitlines() if t.startswith("onceforall: ")]
    assert len(lines) == 1
    assert "cannot be written: " in lines[0]
    assert "File too large" in lines[0]
    resume = (run / "settings.json").exists()
    assert resume == (most > 0)
    assert training.train(run, settings, digits, resume=resume).steps == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_metrics_and_lines_that_find_no_room_cost_no_steps(
    tmp_path: Path,
    digits: Data,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"

    def fill(job: Job) -> None:
        if job.state.step == 1:
            (run / "metrics.jsonl").unlink(missing_ok=True)
            (run / "metrics.jsonl").symlink_to("/dev/full")

    before_step(monkeypatch, fill)
    done = training.train(run, settings_of(), digits)
    assert done.steps == 6
    assert "top1_largest" in done.metrics
    told = capsys.readouterr().err
    assert told.count("metrics.jsonl: cannot be written: No space left") == 1
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
        assert training.train(tmp_path / "quiet", settings_of(), digits).steps == 6
        with pytest.raises(OSError, match="No space"):
            full.write(b"x")
        monkeypatch.undo()


def test_a_line_after_one_that_found_no_room_is_whole(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write({"step": 1})
    log.path.write_text(log.path.read_text() + '{"step": 2, "lo')  # what fitted of the next one
    log.failed = True
    log.write({"step": 3})
    log.cut(3)
    assert log.path.read_text() == '{"step": 1}\n{"step": 3}\n'


# --- resumed to the bit

SETTINGS: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "ema": {"ema": 0.9},
    "mixed": {"mixup": 0.2, "cutmix": 1.0},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.05},
    "no momentum": {"momentum": 0},
    "clip": {"clip": 0.1},
    "accumulate": {"accumulate": 2, "dropout": 0.3},
    "stochastic depth": {"stochastic_depth": 0.3},
    "fp16": {"precision": "fp16", "ema": 0.9},
    "bf16": {"precision": "bf16"},
    "auto": {"precision": "auto"},
    "balanced": {"data": {"name": "digits", "balance": "sampling"}},
    "best": {"keep": "best", "validate_steps": 1, "ema": 0.9},
    "sizes": {"resolutions": [8, 12]},
    "recompute": {"recompute": True, "dropout": 0.3},
}
PHASES: dict[str, dict[str, Any]] = {
    "candidates": {"archs": 2, "candidates": 3, "attend": "worst", "open": {"all": 2}},
    "coupled": {"couple": ["expand", "kernel"], "open": {"all": 3}},
    "head": {"part": "head", "distil": 0},
    "sandwich": {"rule": "sandwich", "archs": 3, "own_images": True, "open": {"all": 3}},
    "alternate": {"rule": "alternate", "archs": 2, "divergence": "alpha", "open": {"all": 3}},
}
CASES = SETTINGS | {
    k: {"phases": [TWO_PHASES[0], {**TWO_PHASES[1], **v}]} for k, v in PHASES.items()
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_never_stopped(case: str, tmp_path: Path, digits: Data) -> None:
    """Stopped after a step drawn at random, on the CPU; all tensors of the last checkpoint are
    equal, the optimiser's and the averages, too, and all its numbers but the time."""
    settings = settings_of(**CASES[case])
    at = 1 + zlib.crc32(case.encode()) % 5
    training.train(tmp_path / "whole", settings, digits)
    interrupted(tmp_path / "run", settings, digits, at)
    training.train(tmp_path / "run", settings, digits, resume=True)
    assert_equal(tmp_path / "run", tmp_path / "whole")
    ours, theirs = (
        checkpoint.load(checkpoints.path_of(tmp_path / name, 6), "training")
        for name in ("run", "whole")
    )
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert torch.equal(ours.tensors[name], tensor), name
    for facts in (ours.facts, theirs.facts):
        facts.pop("seconds")
    assert ours.facts == theirs.facts


@pytest.mark.parametrize("hold", ["never", "always"])
def test_resumed_with_other_workers_equals_never_stopped(
    hold: str, tmp_path: Path, photos: Path
) -> None:
    changes: dict[str, Any] = {"resolutions": [48], "batch_size": 8, "phases": TWO_PHASES[:1]}
    source = {"name": str(photos), "hold": hold, "augmentation": "crop+flip+color+erase"}
    first, second = (
        settings_of(**changes, data={**source, "workers": workers}) for workers in (0, 2)
    )
    training.train(tmp_path / "whole", first, data.load(first.data))
    interrupted(tmp_path / "run", first, data.load(first.data), 2)
    training.train(tmp_path / "run", second, data.load(second.data), resume=True)
    assert_equal(tmp_path / "run", tmp_path / "whole")


# --- numbers


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the images of these steps infinite."""
    take = loop.train_step

    def poisoned(job: Job, phase: Any, k: int, batches: Any) -> Any:
        if job.state.step in steps:
            batches = [batch._replace(images=batch.images * math.inf) for batch in batches]
        return take(job, phase, k, batches)

    monkeypatch.setattr(loop, "train_step", poisoned)


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_step_without_finite_gradients_is_passed_over(
    step: int, tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, one in the midst, and the last of all; counted once, also by a run that is stopped
    and resumed."""
    settings = settings_of(ema=0.9)
    poison(monkeypatch, {step})
    training.train(tmp_path / "whole", settings, digits)
    assert all(t.isfinite().all() for t in weights_of(tmp_path / "whole").values())
    interrupted(tmp_path / "run", settings, digits, 3)
    training.train(tmp_path / "run", settings, digits, resume=True)
    assert_equal(tmp_path / "run", tmp_path / "whole")
    for name in ("whole", "run"):
        found = [
            json.loads(t) for t in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        assert [x for x in found if "loss" in x][-1]["skipped"] == 1
        assert math.isfinite([x for x in found if "loss" in x][-1]["loss"])


def test_many_such_steps_end_the_run_and_the_checkpoint_before_them_is_good(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(
        phases=[{"name": "a", "steps": 12, "lr": 0.1}], checkpoint_seconds=EVERY_STEP, log_steps=1
    )
    poison(monkeypatch, set(range(3, 12)))
    with pytest.raises(InputError, match=r"finite since step 4; 5 steps.*/step-00000003\.safete"):
        training.train(tmp_path / "run", settings, digits)
    monkeypatch.undo()
    assert training.train(tmp_path / "run", settings, digits, resume=True).steps == 12
    training.train(tmp_path / "whole", settings, digits)
    assert_equal(tmp_path / "run", tmp_path / "whole")


def test_weights_beyond_all_numbers_are_not_kept(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a step of a learning rate far too large may leave them, though its gradients were good."""

    def overflow(job: Job) -> None:
        if job.state.step == 3:
            monkeypatch.setattr(job.keeper, "save", counting(job))

    def counting(job: Job) -> Callable[[], None]:
        save = job.keeper.save

        def blown() -> None:
            with torch.no_grad():
                next(job.student.parameters()).fill_(math.inf)
            save()

        return blown

    before_step(monkeypatch, overflow)
    settings = settings_of(
        phases=[{"name": "a", "steps": 12, "lr": 0.1}], checkpoint_seconds=EVERY_STEP, log_steps=1
    )
    with pytest.raises(InputError, match=r"5 steps were passed over.*/step-00000003\.safetensors"):
        training.train(tmp_path / "run", settings, digits)


def test_labels_that_are_no_class_are_found_before_the_first_step(
    tmp_path: Path, digits: Data, photos: Path
) -> None:
    labels = digits.train.labels.clone()
    labels[[5, 9]] = 12
    wrong = replace(digits, train=replace(digits.train, labels=labels))  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"training image 5: class 12; there are 0 to 9, and 2 im"):
        training.train(tmp_path / "run", settings_of(), wrong)
    found = data.load(Source(str(photos)))
    labels = found.train.labels.clone()
    labels[0] = -1
    wrong = replace(found, train=replace(found.train, labels=labels))  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"training image .*\.png: class -1"):
        training.train(tmp_path / "run", settings_of(resolutions=[48], batch_size=8), wrong)
    assert not (tmp_path / "run").exists()
