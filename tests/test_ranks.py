"""Several processes on one run: they end alike, fail with one line, and none waits for ever."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from interrupting import ctrl_c_at
from killing import dying
from processes import FORKS, LONGEST, forked, grouped
from torch import nn

from onceforall import cli, data, families, training
from onceforall.data import Data, Source
from onceforall.errors import InputError
from onceforall.supernet import SuperNet, checkpoint, load_supernet, save_network, tasks
from onceforall.training import Group, checkpoints, loop, settings_from_dict, validation
from onceforall.training.job import Job
from onceforall.training.ranks import GradientMeans

pytestmark = FORKS

RECIPE = """
family: mbv3_mini
resolutions: [8]
data: {name: digits}
batch_size: 16
log_steps: 2
threads: 1
dropout: 0.2
checkpoint_seconds: 1e-9
phases:
  - {name: a, steps: 4, lr: 0.1}
  - {name: b, steps: 4, lr: 0.1, archs: 2, kernel: 2, depth: 2, distil: 1.0}
"""


def few(found: Data) -> Data:
    fewer = {"train": found.train.subset(range(96))}
    return replace(found, **fewer, validation=found.validation.subset(range(51)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    found = few(data.load(Source("digits")))
    config = tmp_path_factory.mktemp("alone") / "recipe.yaml"
    config.write_text(RECIPE)  # what a run imports and compiles, processes forked from here have
    training.train(config.parent / "run", training.load_settings(str(config)), found)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def commanded(
    config: Path,
    images: Data,
    *words: str,
    each: Callable[[int], Sequence[str] | None] = lambda rank: None,
    out: Path | None = None,
    processes: int = 2,
    command: Sequence[object] | None = None,
) -> list[tuple[int, str]]:
    """`onceforall train`, or another command, in processes as `torchrun` would start them; `each`
    is called in each process first, and may give it more words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def work(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        load = data.load
        data.load = lambda source: images if source.name == "digits" else load(source)
        more = each(rank) or ()
        run = out or config.parent / "run"
        sys.argv = ["onceforall", "train", str(config), "--out", str(run), *words, *more]
        if command is not None:
            sys.argv = ["onceforall", *map(str, command)]
        cli.main()

    return forked(work, processes, config.parent / "said")


def lines(said: str) -> list[str]:
    """Without what PyTorch says by itself, and what is said of a run that goes well."""
    return [t for t in said.splitlines() if t.startswith("onceforall: ") or "Error" in t]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    """A run of two processes that was never stopped."""
    config = tmp_path_factory.mktemp("whole") / "recipe.yaml"
    config.write_text(RECIPE)
    assert [status for status, _ in commanded(config, digits)] == [0, 0]
    return config.parent / "run"


def assert_equal(ours: Path, theirs: Path) -> None:
    """To the bit."""
    first, second = (
        load_supernet(run / "supernet.safetensors")[0].state_dict() for run in (ours, theirs)
    )
    for name, tensor in second.items():
        assert torch.equal(first[name], tensor), name


# --- alike


def test_processes_end_with_equal_weights_and_share_the_work(
    tmp_path: Path, config: Path, digits: Data
) -> None:
    settings = settings_from_dict({**_plain(config), "ema": 0.9}, "the test's")

    def work(group: Group) -> None:
        poison(1 if group.rank == 1 else None)
        folder = tmp_path / "run"
        kept: list[Job] = []
        steps = loop.steps
        loop.steps = lambda job: (kept.append(job), steps(job))[1]
        training.train(folder, settings, digits, group=group)
        (job,) = kept
        tensors, facts = job.state.flatten()
        facts.pop("seconds")
        assert all(t.isfinite().all() for t in tensors.values())
        digests = group.gather(checkpoint.digest(tensors))
        assert digests[0] == digests[1]
        assert group.gather(job.state.skipped) == [1, 1]

    grouped(work, tmp_path)


@pytest.mark.parametrize("fewer", [1, 2])
def test_fewer_processes_go_on_with_the_shares_of_a_batch(
    tmp_path: Path, config: Path, digits: Data, fewer: int
) -> None:
    """The images, augmentation, mixing, dropout and norms are those of four processes; only sums
    are rounded in another order (which norms over a few images would make much of)."""
    words = ["mixup=0.2", "stochastic_depth=0.1", "accumulate=2", "clip=5", "batch_size=96"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert [s for s, _ in commanded(config, digits, *words, out=whole, processes=4)] == [0] * 4

    def ctrl_c(rank: int) -> None:
        interrupted.append(ctrl_c_at(6))
        interrupted[-1].__enter__()

    interrupted: list[Any] = []
    ended = commanded(config, digits, *words, out=stopped, processes=4, each=ctrl_c)
    assert [status for status, _ in ended] == [130] * 4
    words.append("--resume")
    ended = commanded(config, digits, *words, out=stopped, processes=fewer)
    assert [status for status, _ in ended] == [0] * fewer
    each = f"each runs {4 // fewer} shares of a batch, one after the other"
    assert f"begun with 4 processes: {each}" in ended[0][1]
    first, second = (
        load_supernet(run / "supernet.safetensors")[0].state_dict() for run in (whole, stopped)
    )
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-6)


def _plain(config: Path) -> dict[str, Any]:
    return training.load_settings(str(config)).to_dict()


def poison(at: int | None) -> None:
    """Makes the images of this process infinite at a step."""
    take = loop.train_step

    def poisoned(job: Job, phase: Any, k: int, batches: Any) -> Any:
        if job.state.step == at:
            batches = [batch._replace(images=batch.images * float("inf")) for batch in batches]
        return take(job, phase, k, batches)

    loop.train_step = poisoned


def test_validation_is_shared_and_equals_that_of_one_process(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the images cannot be divided, and where there are fewer than processes."""
    family = families.get("mbv3_mini", in_channels=1, classes=10, resolutions=(8,))
    torch.manual_seed(0)
    network = SuperNet(family).extract(family.space.smallest())
    one = replace(digits, validation=digits.validation.subset([7]))
    metric = tasks.CLASSIFICATION.metric
    alone = [validation.score(network, 8, images, metric, Group()) for images in (digits, one)]

    def work(group: Group) -> None:
        counted: list[int] = []
        found = [validation.score(network, 8, images, metric, group) for images in (digits, one)]
        assert found == alone
        network.register_forward_hook(lambda m, x, y: counted.append(len(x[0])))
        validation.score(network, 8, digits, metric, group)
        assert counted[-1] == len(range(group.rank, 51, 2))

    grouped(work, tmp_path)


class Branches(nn.Module):
    """Convolutions of which some are used at a time, and a layer that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.left, self.right = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.unused = nn.Linear(7, 7)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor, left: bool) -> torch.Tensor:
        return self.last((self.left if left else self.right)(self.first(x))).square().mean()


def test_means_in_buckets_equal_one_flat_mean(tmp_path: Path) -> None:
    """To the bit, for buckets of every parameter by itself, of some, and of all; with parameters
    that none uses, and with channels last. The first bucket is sent while the last backward pass
    goes on, where there is more than one."""

    def work(group: Group) -> None:
        for most in (1, 1500, 2**25):
            torch.manual_seed(0)
            network = Branches().to(memory_format=torch.channels_last)
            torch.manual_seed(1 + group.rank)
            x = torch.randn(4, 3, 9, 9).contiguous(memory_format=torch.channels_last)
            network(x, True).backward()
            network(x, False).backward()
            named = {n: p for n, p in network.named_parameters() if p.grad is not None}
            flat = torch.cat([p.grad.flatten() for p in named.values()])
            parts = (group.sum(flat) / 2).split([p.numel() for p in named.values()])
            wanted = dict(zip(named, parts, strict=True))
            network.zero_grad(set_to_none=True)
            means = GradientMeans(network.parameters(), group, most=most)
            sent: list[int] = []
            network(x, True).backward()
            used = [p for n, p in network.named_parameters() if n[0] in "frl" and "left" not in n]
            means.last(used)
            network.first.weight.register_hook(lambda g, m=means, s=sent: s.append(len(m._sent)))
            network(x, False).backward()
            means.finish()
            means.close()
            assert (sent[0] > 0) == (len(means.buckets) > 1), (most, sent)
            assert network.unused.weight.grad is None
            for name, parameter in named.items():
                assert torch.equal(parameter.grad.flatten(), wanted[name]), (most, name)
                assert parameter.grad.stride() == parameter.stride()

    grouped(work, tmp_path)


# --- one line


def _other_version(rank: int) -> None:
    if rank:
        loop.__version__ = "0.0.1"


def _wrong_labels(images: Data) -> Data:
    labels = images.train.labels.clone()
    labels[3] = 10
    return replace(images, train=replace(images.train, labels=labels))  # type: ignore[type-var]


REFUSED: dict[str, tuple[Sequence[str], Callable[[int], Any], str]] = {
    "divided": (["batch_size=15"], str, "batch_size: 15 cannot be divided among 2 processes"),
    "other settings": (
        [],
        lambda rank: [f"phases.0.lr=0.{rank + 1}"],
        "phases.0.lr: 0.1 in process 0, 0.2 in process 1; all processes of a run are started alike",
    ),
    "other version": ([], _other_version, "onceforall: '0.1.0' in process 0, '0.0.1' in process 1"),
    "no folder in one": (
        [],
        lambda rank: ["data.name=/nowhere"] if rank else None,
        "'/nowhere' is neither a folder nor one of",
    ),
    "--from": (["--from", "{tmp}/other.safetensors"], str, "other.safetensors"),
    "no option": (["--sneed"], str, "No such option"),
    "diverges": (["phases.0.lr=1e9"], str, "the loss is not finite since step"),
    "labels": (["data.channels=1"], str, "training image 3: class 10; there are 0 to 9"),
    "folder": (["--out", "{tmp}/recipe.yaml/run"], str, "recipe.yaml/run: cannot be made"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line_of_the_first_process(
    case: str, config: Path, digits: Data, tmp_path: Path
) -> None:
    words, each, message = REFUSED[case]
    if case == "--from":
        family = families.get("mbv3_mini", in_channels=3, classes=7)
        arch = family.space.smallest()
        save_network(tmp_path / "other.safetensors", family.build(arch), family, arch, {})
    given = [word.replace("{tmp}", str(tmp_path)) for word in words]
    images = _wrong_labels(digits) if case == "labels" else digits
    more = (lambda rank: None) if each is str else each
    (first, said), (second, quiet) = commanded(config, images, *given, each=more)
    assert (first, second) == (2, 2), (said, quiet)
    assert lines(quiet) == []
    (line,) = lines(said)
    assert message in line
    if case == "no folder in one":
        assert line.endswith("(in process 1)")


def test_another_process_in_the_folder_is_one_line(config: Path, digits: Data) -> None:
    run = config.parent / "run"
    run.mkdir()
    with FileLock(run / ".lock"):
        (first, said), (second, quiet) = commanded(config, digits)
    assert (first, second) == (2, 2)
    assert "run: another process is training in it" in said
    assert (len(lines(said)), lines(quiet)) == (1, [])


def at_step(step: int, rank: int, do: Callable[[], None]) -> Callable[[int], None]:
    """Does something in one process before it takes a step."""

    def each(mine: int) -> None:
        take = loop.train_step

        def stepping(job: Job, *args: Any) -> Any:
            if mine == rank and job.state.step == step:
                do()
            return take(job, *args)

        loop.train_step = stepping

    return each


def _unreadable() -> None:
    raise InputError("cat.png: cannot be read")


def _no_room() -> None:
    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoint.save = full


def _out_of_memory() -> None:
    raise MemoryError("no memory")


@pytest.mark.parametrize(
    ("rank", "do", "status", "message"),
    [
        (1, _unreadable, 2, "cat.png: cannot be read"),
        (0, _no_room, 2, "step-00000003.safetensors: cannot be written: No space left on device"),
        (0, _out_of_memory, 1, "MemoryError: no memory"),
    ],
)
def test_what_one_process_knows_it_says_and_the_others_end(
    rank: int, do: Callable[[], None], status: int, message: str, config: Path, digits: Data
) -> None:
    """The last checkpoint is kept."""
    found = commanded(config, digits, each=at_step(2, rank, do))
    assert found[rank][0] == status, found
    (line,) = lines(found[rank][1])
    assert message in line
    assert found[1 - rank][0] == 1
    assert lines(found[1 - rank][1]) == []
    run = config.parent / "run"
    newest = checkpoints.newest(run, note=pytest.fail)
    assert newest is not None
    assert newest[1].facts["step"] == 2


def test_with_norms_of_all_processes_one_that_is_killed_is_missed_quietly(
    config: Path, digits: Data
) -> None:
    killed = at_step(2, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    (status, said), _ = commanded(config, digits, "sync_batch_norm=true", each=killed)
    assert (status, lines(said)) == (1, [])


def test_a_checkpoint_that_one_cannot_read_is_said_where_others_would_go_on(
    config: Path, digits: Data
) -> None:
    """The processes choose the precision together right after that."""

    def each(rank: int) -> None:
        if rank == 1:
            checkpoints.newest = _damaged

    found = commanded(config, digits, "precision=auto", each=each)
    assert [status for status, _ in found] == [2, 2]
    (line,) = [line for _, said in found for line in lines(said)]
    assert "step-3.safetensors: is damaged (in process 1)" in line


def _damaged(*_: Any) -> None:
    raise InputError("step-3.safetensors: is damaged")


@pytest.mark.slow
def test_processes_killed_at_random_end_as_if_they_had_not_been(
    config: Path, digits: Data, whole: Path
) -> None:
    """SIGKILL of either, three times, then resumed: the other ends by itself, without a word."""
    run = config.parent / "run"
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    for step, rank in ((2, 1), (4, 0), (7, 1)):
        resume = ["--resume"] if (run / "settings.json").exists() else []
        found = commanded(config, digits, *resume, each=at_step(step, rank, kill))
        assert found[rank][0] == -signal.SIGKILL, found
        assert found[1 - rank][0] == 1, found
        assert lines(found[1 - rank][1]) == []
    assert [s for s, _ in commanded(config, digits, "--resume")] == [0, 0]
    assert_equal(run, whole)
    left = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
    assert left == sorted(str(p.relative_to(whole)) for p in whole.rglob("*"))


@pytest.mark.slow
def test_one_of_two_processes_killed_at_any_moment(
    config: Path, digits: Data, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL of one of them, drawn at random, at random moments: before and after gradients are
    used, and of the first, which writes, in the middle of writing. 3 times, or as often as
    ONCEFORALL_TEST_KILLS says."""
    run, kills = config.parent / "run", 0
    most = int(os.environ.get("ONCEFORALL_TEST_KILLS", "3"))
    rng = random.Random(1)

    def trained(rank: int, at: int) -> list[tuple[int, str]]:
        resume = ["--resume"] if (run / "settings.json").exists() else []
        counted = lambda r: tmp_path / f"moments-{r}"  # noqa: E731
        each = lambda r: dying(run, at if r == rank else 0, counted(r))  # noqa: E731
        return commanded(config, digits, *resume, each=each)

    assert [status for status, _ in trained(0, 0)] == [0, 0]
    moments = [int((tmp_path / f"moments-{rank}").read_text()) for rank in (0, 1)]
    assert moments[0] > moments[1] >= 16  # of eight steps
    while kills < most:
        shutil.rmtree(run)
        ended = False
        while not ended:
            rank = rng.randrange(2)
            at = rng.randint(1, moments[rank] // 2) if kills < most else 0
            found = trained(rank, at)
            ended = [status for status, _ in found] == [0, 0]
            if not ended:
                kills += 1
                assert found[rank][0] == -signal.SIGKILL, found
                assert found[1 - rank][0] in (0, 1), found
                assert lines(found[1 - rank][1]) == []
        assert_equal(run, whole)
        left = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
        assert left == sorted(str(p.relative_to(whole)) for p in whole.rglob("*"))


# --- torchrun

LAUNCHED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from onceforall import cli, data
from onceforall.training import loop

at, how = sys.argv.pop(1).split(":")
load, take = data.load, loop.train_step

def few(source):
    found = load(source)
    train, validation = found.train.subset(range(96)), found.validation.subset(range(51))
    return replace(found, train=train, validation=validation)

def stepping(job, *args):
    if job.state.step == int(at) and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if how == "kill" and job.group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "wait":
            Path(sys.argv[-1]).with_name(f"at-{job.group.rank}").touch()
            while not Path(sys.argv[-1]).with_name("go").exists():
                signal.sigtimedwait([], 0.05)
    return take(job, *args)

data.load, loop.train_step = few, stepping
cli.main()
"""


@pytest.fixture
def launched(config: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `torchrun`, and ends what is left of it."""
    script = config.parent / "launched.py"
    script.write_text(LAUNCHED)
    begun: list[subprocess.Popen[str]] = []

    def launch(*options: str, do: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", *options, str(script), do, "train", str(config)]
        begun.append(
            subprocess.Popen(
                [*command, "--out", str(config.parent / "run")],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        return begun[-1]

    yield launch
    for process in begun:
        with process:
            process.kill()


@pytest.mark.slow
def test_torchrun_goes_on_by_itself_after_one_process_was_killed(
    launched: Callable[..., subprocess.Popen[str]], config: Path, whole: Path
) -> None:
    process = launched("--max-restarts=1", do="5:kill")
    said, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, said[-3000:]
    assert lines(said) == []
    assert_equal(config.parent / "run", whole)


@pytest.mark.slow
def test_sigterm_to_torchrun_ends_in_a_checkpoint(
    launched: Callable[..., subprocess.Popen[str]], config: Path, digits: Data, whole: Path
) -> None:
    process = launched(do="5:wait")
    while not all((config.parent / f"at-{rank}").exists() for rank in (0, 1)):
        time.sleep(0.05)  # until the test's timeout
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    time.sleep(1)  # the signal is passed on before they go on
    (config.parent / "go").touch()
    said, _ = process.communicate(timeout=LONGEST)
    assert process.returncode != 0
    ours = [t for t in said.splitlines() if t.startswith("onceforall: ")]
    assert ours == ["onceforall: stopped after step 6 of 8; --resume goes on"]
    run = config.parent / "run"
    assert next(p.name for p in checkpoints.found(run)) == "step-00000006.safetensors"
    assert [s for s, _ in commanded(config, digits, "--resume")] == [0, 0]
    assert_equal(run, whole)


def test_archs_are_scored_by_all_processes_as_by_one(
    config: Path, digits: Data, whole: Path, tmp_path: Path
) -> None:
    """The same records in the same order, to the bit; an odd number of archs leaves one process
    without any in the last turn."""
    for processes, name in ((1, "one"), (2, "two")):
        asked = ("records", "accuracy", whole, "--all", "--samples", 5, "--images", 30)
        out = ("--out", tmp_path / f"{name}.jsonl")
        found = commanded(config, digits, processes=processes, command=(*asked, *out))
        assert [status for status, _ in found] == [0] * processes
    written = (tmp_path / "one.jsonl").read_text()
    assert written.count("\n") == 5
    assert (tmp_path / "two.jsonl").read_text() == written


def test_a_mistake_in_labelling_is_one_line_and_nobody_waits(
    config: Path, digits: Data, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.jsonl").write_text("no record\n")
    asked = ("records", "accuracy", whole, "--samples", 5, "--out", tmp_path / "old.jsonl")
    found = commanded(config, digits, command=asked)
    assert [status for status, _ in found] == [2, 2]
    (line,) = [line for _, said in found for line in lines(said)]
    assert "old.jsonl line 1: not JSON" in line


def test_images_are_shared_in_evaluation(
    config: Path, digits: Data, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    supernet, _ = load_supernet(whole / "supernet.safetensors")
    arch = supernet.space.smallest()
    network = validation.calibrated(supernet.extract(arch), arch.resolution, digits)
    path = config.parent / "network.safetensors"
    save_network(path, network, supernet.family, arch, {"data": digits.facts()})
    shown = []
    for processes in (1, 2):
        asked = ("evaluate", path, "--data", "digits", "--json", "--batch", 7)
        found = commanded(config, digits, processes=processes, command=asked)
        assert [status for status, _ in found] == [0] * processes
        shown.append(capfd.readouterr().out)
    assert shown[0].count("\n") == 1
    assert "top1" in shown[0]
    assert shown[0] == shown[1]
