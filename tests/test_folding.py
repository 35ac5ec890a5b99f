"""Fewer operations compute the same."""

import torch
from mobile_networks import SHAPE, images, parts
from torch import Tensor, nn

from onceforall.export.folding import folded, without_ceilings


def kinds(network: nn.Module) -> set[type[nn.Module]]:
    used = {node.target for node in network.graph.nodes if node.op == "call_module"}  # type: ignore[union-attr]
    return {type(network.get_submodule(name)) for name in used}  # type: ignore[arg-type]


def test_folded_networks_compute_the_same_and_leave_the_network_as_it_was() -> None:
    network = parts()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = images(4)
    with torch.no_grad():
        found = folded(network)
        wanted = network(x)
        assert (found(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert not kinds(found) & {nn.BatchNorm2d, nn.Hardsigmoid}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Shared(nn.Module):
    """A convolution that is called twice, one batch norm that reads what others read, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 3, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.conv(x)))
        z = self.last(y)
        return self.other(z) + z * self.gate(self.conv(y))


def test_what_is_read_more_than_once_is_not_folded() -> None:
    network = Shared().eval()
    for norm in (network.norm, network.other):
        norm.running_mean.fill_(0.5)  # type: ignore[union-attr]
        norm.running_var.fill_(2.0)  # type: ignore[union-attr]
    x = images(2)
    with torch.no_grad():
        assert torch.allclose(folded(network)(x), network(x), atol=1e-6)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_left_alone() -> None:
    network = Branching()
    assert folded(network) is network


def test_rounding_up_goes_where_it_changes_nothing() -> None:
    """By hand: 19 pixels halve to 10 rounded up and 9 rounded down, 20 to 10 either way."""
    pools = nn.ModuleList(nn.AvgPool2d(2, 2, ceil_mode=True) for _ in range(2))
    network = nn.Sequential(*pools)  # 19 -> 10 -> 5
    without_ceilings(network, SHAPE)
    assert [pool.ceil_mode for pool in pools] == [True, False]  # type: ignore[union-attr]
