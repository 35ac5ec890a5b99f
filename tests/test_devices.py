"""Devices: the timing loop, and that each device runs networks."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from onceforall import devices, families
from onceforall.cli import app
from onceforall.devices import Device, Latency, Target, measuring
from onceforall.devices import target as targets
from onceforall.devices.timing import over_visits, time_calls
from onceforall.errors import InputError
from onceforall.export import format_named, write_for_timing
from onceforall.testing import check_device


def test_devices_keep_the_contract() -> None:
    for target in (Target(), Target("torch-cpu"), Target("torch-cpu", precision="bf16")):
        check_device(target)


@pytest.mark.parametrize(("anchors", "counts"), [([3.0, 1.05, 9.0], 1), ([2.0, 3.0, 2.5], 0)])
def test_a_disturbed_machine_is_asked_again(
    anchors: list[float], counts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the anchor is as fast as it was, or attempts are used; the least disturbed counts."""
    monkeypatch.setattr(measuring, "ATTEMPTS", len(anchors))
    monkeypatch.setattr(measuring, "DISTURBED", 1.1)
    monkeypatch.setattr(Target, "prepare", lambda *_: print)
    anchor = measuring._Anchor(print, fastest_ms=1.0)
    monkeypatch.setattr(measuring, "_anchor", lambda target: anchor)
    left = list(enumerate(anchors))

    def timed(calls: list[Callable[[], object]], rounds: int) -> list[Latency]:
        attempt, ms = left.pop(0)
        return [Latency(ms, ms, ms, 1), Latency(10.0 + attempt, 0.0, 0.0, 1)]

    monkeypatch.setattr(measuring, "time_calls", timed)
    found = devices.measure(Target("torch-cpu"), torch.nn.Identity(), (3, 8, 8), visits=1)
    assert found.median_ms == 10.0 + counts
    is_quiet = anchors[counts] < 1.1
    assert len(left) == (1 if is_quiet else 0)
    assert devices.disturbed(Target("torch-cpu")) != is_quiet


def test_timing_knows_slow_from_fast_and_counts_turns() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    fast, slow = time_calls(
        [lambda: call("fast", 0.001), lambda: call("slow", 0.004)], rounds=3, stretch_seconds=0.001
    )
    assert 1 <= fast.median_ms < slow.median_ms
    assert slow.median_ms >= 4
    assert fast.p10_ms <= fast.median_ms <= fast.p90_ms
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["fast", "slow"] * 3


class Watching(torch.nn.Module):
    """Notes on how many threads it runs."""

    threads: list[int] = []  # noqa: RUF012  (of the class: a device copies the network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.threads.append(torch.get_num_threads())
        if x.isnan().any():
            raise ArithmeticError
        return x


@pytest.mark.parametrize("timed", [False, True])
def test_threads_of_the_process_are_as_they_were(
    timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    before = torch.get_num_threads()
    for x in (torch.zeros((1, 1, 4, 4)), torch.full((1, 1, 4, 4), torch.nan)):
        Watching.threads.clear()
        target = Target("torch-cpu", before + 1)
        call = target.known.open(Watching(), x, target)
        try:
            time_calls([call], 2, 0.0) if timed else call()
        except ArithmeticError:
            assert x.isnan().any()
        assert set(Watching.threads) == {before + 1}
        assert torch.get_num_threads() == before


def test_what_a_call_needs_lasts_for_its_stretches() -> None:
    """By hand: two calls, two rounds, each with one run that is not counted and three that are."""
    seen: list[str] = []

    class Call:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self) -> None:
            seen.append(self.name)

        @contextmanager
        def stretch(self) -> Iterator[None]:
            seen.append("enter")
            yield
            seen.append("leave")

    found = time_calls([Call("a"), lambda: seen.append("b")], 2, 0.0)
    assert seen == ["enter", *"aaaa", "leave", *"bbbb"] * 2
    assert [latency.runs for latency in found] == [6, 6]


def test_measuring_leaves_the_network_alone_and_sees_resolution() -> None:
    family = families.get("mbv3_mini", resolutions=[16, 64])
    space = family.space
    pairs = []
    for arch in (
        space.restrict(resolution=(16,)).smallest(),
        space.restrict(resolution=(64,)).largest(),
    ):
        pairs.append((family.build(arch), (3, arch.resolution, arch.resolution)))
    small, large = devices.measure_many(Target(), pairs, rounds=3)
    assert small.median_ms < large.median_ms
    assert pairs[0][0].training


def test_a_call_computes_the_network(tmp_path: Path) -> None:
    family = families.get("mbv3_mini", resolutions=[16])
    network = family.build(family.space.smallest()).eval()
    x = torch.randn((2, 3, 16, 16))
    form = format_named("onnx")
    file = write_for_timing(network, (3, 16, 16), tmp_path, form)
    (found,) = Target(batch=2).known.open(file, x, Target(batch=2))()  # type: ignore[misc]
    assert np.allclose(found, network(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device: 'tpu' is not known; there are onnxruntime-cpu"),
        ({"threads": 0}, "threads: 0 is below 1"),
        ({"threads": 10_000}, r"threads: 10000 is more than the \d+ logical cores of this machine"),
        ({"threads": 10_000, "device": "torch-cpu"}, "threads: 10000 is more than"),
        ({"precision": "int4"}, "precision: onnxruntime-cpu has fp32, int8, not 'int4'"),
    ],
)
def test_bad_targets(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target(**settings)  # type: ignore[arg-type]


def test_names_of_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert str(Target()) == "onnxruntime-cpu"
    assert str(Target("torch-cpu", 2, 8, "bf16")) == "torch-cpu-threads2-batch8-bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said() -> None:
    with pytest.raises(InputError, match="PyTorch sees no CUDA GPU"):
        Target("torch-cuda").prepare(torch.nn.Identity(), (3, 8, 8))


def test_a_batch_beyond_memory_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand: a convolution from 3 to 5 channels of 8x8 pixels holds 3 * 64 + 5 * 64 floats."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1)).eval()
    each = 4 * (3 * 64 + 5 * 64)
    monkeypatch.setattr(targets, "_memory_bytes", lambda: 10 * each)
    Target("torch-cpu", batch=10).prepare(network, (3, 8, 8))()
    monkeypatch.setattr(torch, "randn", None)
    for batch in (11, 100_000_000):
        with pytest.raises(InputError, match=f"batch: {batch} x 3x8x8 needs .* this machine has"):
            Target("torch-cpu", batch=batch).prepare(network, (3, 8, 8))


def failing(error: Exception, at: str) -> Callable[..., Callable[[], object]]:
    """The `open` of a device that fails in it, or in the first run."""

    def fail() -> object:
        raise error

    def opens(*_: object) -> Callable[[], object]:
        return fail() if at == "open" else fail  # type: ignore[return-value]

    return opens


class Runtimes(Exception):  # noqa: N818
    """As ONNX Runtime's: derived from no error in particular."""


@pytest.mark.parametrize("at", ["open", "run"])
def test_what_the_allocator_says_becomes_a_line_of_ours(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(batch=3)
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        Runtimes("bad allocation"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ):
        monkeypatch.setattr(Device, "open", failing(error, at))
        with pytest.raises(InputError, match=r"batch: 3 x 3x8x8 needs .*, which was not there"):
            target.prepare(torch.nn.Conv2d(3, 4, 3), (3, 8, 8))
    monkeypatch.setattr(Device, "open", failing(RuntimeError("a bug"), at))
    with pytest.raises(RuntimeError, match="a bug"):
        target.prepare(torch.nn.Conv2d(3, 4, 3), (3, 8, 8))


def test_runtimes_are_named_with_their_version() -> None:
    import onnxruntime

    found = devices.provenance(Target())
    assert found["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert found["processor"]
    assert devices.provenance(Target("torch-cpu"))["runtime"] == f"torch {torch.__version__}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_networks_on_a_gpu_are_timed_on_every_device() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval().cuda()
    for device in ("onnxruntime-cpu", "torch-cpu", "torch-cuda"):
        assert devices.measure(Target(device), network, (3, 8, 8), 2).median_ms > 0
    assert all(tensor.is_cuda for tensor in network.state_dict().values())
    assert devices.provenance(Target("torch-cuda"))["processor"] == torch.cuda.get_device_name()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--threads 10000", "threads: 10000 is more than the"),
        ("--batch 100000000", "batch: 100000000 x 3x20x20 needs"),
        ("--resolution 1000000", "resolution: 1000000 px is too large"),
    ],
)
def test_measure_refuses_what_cannot_be(option: str, message: str) -> None:
    done = CliRunner().invoke(app, f"measure mbv3_mini:smallest {option}".split())
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith(message)


def test_noise_is_half_an_interval_of_the_median() -> None:
    """By hand: rounds of medians 9, 10, 10, 12 and 14 ms, each by a clock of their own: their
    median is 10, the deviations 1, 0, 0, 2, 4, whose median is 1."""

    class Elsewhere:
        def __init__(self) -> None:
            self.left = iter([9.0, 10.0, 10.0, 12.0, 14.0])

        def __call__(self) -> None:
            raise AssertionError("is not timed by this process")

        def times(self, seconds: float) -> list[float]:
            return [next(self.left)] * 3

    (found,) = time_calls([Elsewhere()], rounds=5)
    assert (found.median_ms, found.runs) == (10, 15)
    assert found.noise == pytest.approx(1.96 * 1.2533 * 1.4826 / 5**0.5 / 10)
    assert found.noisy
    (once,) = time_calls([Elsewhere()], rounds=1)
    assert once.noise is None
    assert not once.noisy


def test_a_file_is_timed_and_another_is_refused(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    file = write_for_timing(network, (3, 8, 8), tmp_path, format_named("onnx"))
    assert devices.measure(Target(), file, (3, 8, 8), 2).median_ms > 0
    with pytest.raises(InputError, match=r"network.onnx: torch-cpu opens module, pt2"):
        devices.measure(Target("torch-cpu"), file, (3, 8, 8), 2)


def test_what_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    known = devices.device_named("openvino-cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert known.missing() == "pip install 'onceforall[openvino]'"


def test_noise_of_several_visits_is_at_least_what_lies_between_them() -> None:
    """By hand: Student's t for four degrees of freedom is 2.776; 1.2533 is a median's error."""
    quiet = [Latency(ms, ms - 1, ms + 1, 10, 0.02) for ms in (10.0, 10.0, 11.0, 12.0, 12.0)]
    found = over_visits(quiet)
    assert (found.median_ms, found.p10_ms, found.p90_ms, found.runs) == (11, 10, 12, 50)
    assert found.noise == pytest.approx(2.776 * 1.2533 * 1 / 5**0.5 / 11, rel=1e-3)
    alike = over_visits([Latency(10.0, 9, 11, 10, 0.05)] * 5)
    assert alike.noise == pytest.approx(0.05 / 5**0.5)
    assert over_visits(quiet[:1]) is quiet[0]


def test_runs_of_a_drifting_machine_agree_within_the_noise_of_visits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine whose speed wanders by some percent from one second to the next: of pairs of
    measurements 95% should agree; those in one go do not know of it."""
    rng = np.random.default_rng(3)
    state = {"speed": 1.0}

    def wander(seconds: float) -> None:
        state["speed"] = float(np.exp(0.05 * rng.standard_normal()))

    class Elsewhere:
        def times(self, seconds: float) -> list[float]:
            return list(10 * state["speed"] * np.exp(0.01 * rng.standard_normal(5)))

    target = Target("torch-cpu")
    monkeypatch.setattr(measuring.time, "sleep", wander)
    monkeypatch.setattr(Target, "prepare", lambda *_: Elsewhere())
    anchor = SimpleNamespace(call=Elsewhere(), fastest_ms=0.0, latest_ms=0.0, disturbed=False)
    monkeypatch.setattr(measuring, "_anchor", lambda target: anchor)
    share = {}
    for visits in (1, devices.VISITS):
        runs = []
        for _ in range(40):
            wander(0)
            runs.append(devices.measure(target, torch.nn.Identity(), (3, 8, 8), visits=visits))
        pairs = list(combinations(runs, 2))
        agree = [
            abs(a.median_ms - b.median_ms)
            <= math.hypot(a.noise * a.median_ms, b.noise * b.median_ms)
            for a, b in pairs
        ]
        share[visits] = float(np.mean(agree))
    assert share[devices.VISITS] >= 0.93
    assert share[1] < 0.5
