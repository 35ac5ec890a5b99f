"""Devices: the timing loop, and that each device runs networks."""

import time

import numpy as np
import pytest
import torch

from onceforall import devices, families
from onceforall.devices import Target, onnxruntime_cpu, pytorch
from onceforall.devices.timing import time_calls
from onceforall.errors import InputError
from onceforall.testing import check_device


def test_devices_keep_the_contract() -> None:
    check_device(onnxruntime_cpu.prepare)
    check_device(pytorch.prepare_cpu)
    check_device(pytorch.prepare_cpu, "bf16")


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


def test_a_prepared_call_computes_the_network() -> None:
    family = families.get("mbv3_mini", resolutions=[16])
    network = family.build(family.space.smallest()).eval()
    x = torch.randn((2, 3, 16, 16))
    (found,) = onnxruntime_cpu.prepare(network, x, 1, "fp32")()  # type: ignore[misc]
    assert np.allclose(found, network(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device: 'tpu' is not known; there are onnxruntime-cpu"),
        ({"threads": 0}, "threads: 0 is below 1"),
        ({"precision": "int4"}, "precision: onnxruntime-cpu has fp32, not 'int4'"),
    ],
)
def test_bad_targets(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target(**settings)  # type: ignore[arg-type]


def test_names_of_targets() -> None:
    assert str(Target()) == "onnxruntime-cpu"
    assert str(Target("torch-cpu", 2, 8, "bf16")) == "torch-cpu-threads2-batch8-bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said() -> None:
    with pytest.raises(InputError, match="PyTorch sees no CUDA GPU"):
        pytorch.prepare_cuda(torch.nn.Identity(), torch.zeros(1), 1, "fp32")
