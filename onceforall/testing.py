"""Contract checks for plug-ins: what a family or a device must keep, as functions that their
authors call in their own tests. Each raises AssertionError with what is broken."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from onceforall.devices import Target, time_calls
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.space import Arch
from onceforall.supernet import SuperNet


def check_family(
    family: Family, archs: int = 20, resolution: int | None = None, seed: int = 0
) -> None:
    """Archs survive their written forms; the supernet computes what the extracted network does;
    gradients reach exactly what was lent; foreign archs are refused.

    Args:
        resolution: to run the networks at, instead of their own: for speed.
    """
    space = family.space
    rng = np.random.default_rng(seed)
    population = space.sample(rng, archs)
    drawn = space.decode(population)
    assert (space.encode(drawn) == population).all(), "encode and decode disagree"
    supernet = SuperNet(family, torch.Generator().manual_seed(seed))
    for arch in [space.smallest(), space.largest(), *drawn]:
        assert Arch.parse(str(arch)) == arch, f"{arch}: its text does not read back"
        assert Arch.from_json(arch.to_json()) == arch, f"{arch}: its JSON does not read back"
        size = resolution or arch.resolution
        x = torch.randn((2, family.in_channels, size, size))
        check_lending(supernet, arch, x)
    _check_refusals(family)


def check_lending(supernet: SuperNet, arch: Arch, x: torch.Tensor) -> None:
    """In training mode the supernet's output for `arch` is that of the extracted network, bit for
    bit on the CPU; and gradients reach the lent slices and nothing else.

    `x` is (N, C, R, R).
    """
    supernet.train()
    supernet.zero_grad(set_to_none=True)
    extracted = supernet.extract(arch).train()
    ours = supernet(x, arch)
    theirs = extracted(x)
    assert torch.equal(ours, theirs), f"{arch}: supernet and extracted network differ"
    assert ours.shape[:2] == (len(x), supernet.family.classes), (
        f"{arch}: output {tuple(ours.shape)}"
    )
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    own = dict(extracted.named_parameters())
    lent = supernet.lend(supernet.skeleton(arch))
    for name, parameter in supernet.network.named_parameters():
        gradient = parameter.grad
        if name not in own:
            assert gradient is None, f"{arch}: {name} has a gradient and was not lent"
            continue
        assert gradient is not None, f"{arch}: {name} was lent and has no gradient"
        theirs_of = own[name].grad
        assert theirs_of is not None, f"{arch}: {name} is lent and has no part in the output"
        # what was lent says where its gradient belongs: to these entries, and 0 to all others
        (wanted,) = torch.autograd.grad(lent[name], parameter, theirs_of, retain_graph=True)
        assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6 * _size(wanted)), (
            f"{arch}: the gradient of {name} is not that of the extracted network"
        )


def _size(tensor: torch.Tensor) -> float:
    return max(1.0, float(tensor.abs().max()))


def _check_refusals(family: Family) -> None:
    smallest = family.space.smallest()
    strangers = [
        dataclasses.replace(smallest, family="another"),
        dataclasses.replace(smallest, values=smallest.values[:-1]),
        dataclasses.replace(smallest, values=(*smallest.values, ("stranger", 1))),
    ]
    for arch in strangers:
        assert arch not in family.space, f"{arch} is not refused"
        try:
            family.build(arch)
        except InputError:
            continue
        raise AssertionError(f"{arch}: a network was built of a foreign arch")


def check_device(target: Target) -> None:
    """What a device opens runs, leaves the network and PyTorch's threads as they were, and can be
    timed."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    threads = torch.get_num_threads()
    call = target.prepare(network, (3, 8, 8))
    call()
    found = time_calls([call], rounds=2, stretch_seconds=0.001)[0]
    assert found.runs > 0, "nothing was timed"
    assert 0 < found.p10_ms <= found.p90_ms, f"impossible latencies: {found}"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"opening it changed {name}"
    assert torch.get_num_threads() == threads, "PyTorch's number of threads was changed"
