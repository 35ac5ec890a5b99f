"""Costs of families that are given by `build` alone: tables against networks counted one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from onceforall.costs import (
    Counted,
    arch_cost,
    check_resolution,
    cost,
    cost_table,
    cost_tables,
    discovery,
    layer_table,
)
from onceforall.errors import InputError
from onceforall.search import Limit, search
from onceforall.space import Gene, Presence, Space, Table

COSTS = ("macs", "params", "peak_activation_bytes")


class Given:
    """A family that is a space and a function."""

    in_channels = 3
    classes = 5

    def __init__(self, name, genes, make):
        self.space = Space(name, tuple(genes))
        self.make = make
        self.builds = 0

    @property
    def name(self):
        return self.space.family

    def build(self, arch):
        self.builds += 1
        return self.make(arch.genes)


def blocks(kind, values, n, least=1):
    """A gene for each of n blocks, there while the depth reaches it."""
    return [
        Gene(f"block{i + 1}.{kind}", values, Presence("depth", i + 1) if i >= least else ())
        for i in range(n)
    ]


class Block(nn.Module):
    def __init__(self, width, heads, ratio):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, width * ratio), nn.GELU(), nn.Linear(width * ratio, width)
        )

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm(x))


class Transformer(nn.Module):
    def __init__(self, genes):
        super().__init__()
        width, size = 8 * genes["heads"], genes["resolution"] // 8
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, size**2 + 1, width))
        self.blocks = nn.Sequential(
            *(
                Block(width, genes["heads"], genes[f"block{i + 1}.mlp"])
                for i in range(genes["depth"])
            )
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.blocks(x)[:, 0])


def transformer(make=Transformer):
    genes = [Gene("resolution", (16, 24, 32)), Gene("depth", (1, 2, 4)), Gene("heads", (1, 2, 3))]
    return Given("transformer", [*genes, *blocks("mlp", (1, 2, 3), 4)], make)


def chained(genes):
    """Each block enters the next; the last that is there enters the head, whose place in the
    sequence changes with the depth."""
    layers, width = [], 3
    for i in range(genes["depth"]):
        wide = genes[f"block{i + 1}.width"]
        kernel = genes[f"block{i + 1}.kernel"]
        layers += [nn.Conv2d(width, wide, kernel, padding=kernel // 2), nn.BatchNorm2d(wide)]
        width = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def chain():
    genes = [Gene("resolution", (8, 12)), Gene("depth", (1, 2, 3))]
    genes += blocks("width", (4, 6, 8), 3) + blocks("kernel", (1, 3), 3)
    return Given("chain", genes, chained)


class Joined(nn.Module):
    """All branches are joined, so that the last layer depends on every choice."""

    def __init__(self, genes):
        super().__init__()
        widths = [genes[f"branch{i}.width"] for i in range(6)]
        self.branches = nn.ModuleList(nn.Conv2d(3, w, 1) for w in widths)
        self.head = nn.Conv2d(sum(widths), 5, 1)

    def forward(self, x):
        return self.head(torch.cat([branch(x) for branch in self.branches], 1)).mean((2, 3))


def joined():
    widths = [Gene(f"branch{i}.width", (2, 3, 4)) for i in range(6)]
    return Given("joined", [Gene("resolution", (4, 6)), *widths], Joined)


@pytest.mark.parametrize("make", [transformer, chain])
def test_tables_are_the_costs_of_the_networks(make):
    family = make()
    tables = cost_tables(family)
    counted = family.builds
    space = family.space
    assert counted < 250
    population = np.concatenate(
        [space.sample(np.random.default_rng(7), 25), space.encode([space.smallest()])]
    )
    for name in COSTS:
        assert isinstance(tables[name], Table)
        values = tables[name](population)
        for arch, value in zip(space.decode(population), values, strict=True):
            shape = (3, arch.resolution, arch.resolution)
            assert value == getattr(cost(family.build(arch), shape), name), (name, str(arch))


def test_tables_of_the_whole_space():
    """Every arch of a small one, at other resolutions than its own."""
    family = chain()
    table = cost_table(family, "macs", (10, 14))
    assert table.space.resolution == (10, 14)
    everything = table.space.encode(list(table.space))
    assert len(everything) == table.space.size == 2 * (6 + 36 + 216)
    for arch, value in zip(table.space, table(everything), strict=True):
        genes, size = arch.genes, arch.resolution**2
        width = macs = 0
        for i in range(genes["depth"]):
            entering, width = width or 3, genes[f"block{i + 1}.width"]
            macs += size * entering * width * genes[f"block{i + 1}.kernel"] ** 2
        assert value == macs + width * 5


def test_searching_within_a_found_table_is_exact():
    family = transformer()
    macs = cost_table(family, "macs")
    space = family.space
    bound = float(np.median(macs(space.sample(np.random.default_rng(0), 500))))
    found = search(space, macs, [Limit("macs", macs, at_most=bound)])
    assert found.method == "exact"
    assert found.certificate is not None
    assert found.certificate.gap <= 1e-6 * bound
    arch = found.arch
    assert arch_cost(family, arch).macs == found.value <= bound


def test_what_is_no_sum_over_few_choices_is_counted_arch_by_arch(capsys, monkeypatch):
    family = joined()
    macs = cost_table(family, "macs")
    assert isinstance(macs, Counted)
    assert "joined: what its networks cost is no sum" in capsys.readouterr().err
    space = family.space
    population = space.sample(np.random.default_rng(0), 40)
    values = macs(population)
    for arch, value in zip(space.decode(population), values, strict=True):
        widths = [arch[f"branch{i}.width"] for i in range(6)]
        assert value == arch.resolution**2 * (3 + 5) * sum(widths)
    before = family.builds
    assert np.array_equal(macs(population[::-1]), values[::-1])
    assert family.builds == before  # what was counted is not counted again
    part = space.restrict(resolution=(6,))
    rows = part.sample(np.random.default_rng(1), 3)
    assert np.array_equal(macs.restrict(part)(rows), [macs.of(a) for a in part.decode(rows)])
    limit = Limit("macs", macs.restrict(part), at_most=36 * 8 * 15)
    found = search(part, macs.restrict(part), [limit], evaluations=60)
    assert found.value == 36 * 8 * 15


def test_a_table_that_is_wrong_is_not_given(monkeypatch):
    """A build whose choices act together in a way that neither end shows."""

    def make(genes):
        odd = genes["a"] == 2 and genes["b"] == 2
        return nn.Sequential(
            nn.Conv2d(3, 9 if odd else 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    three = (1, 2, 3)
    family = Given("odd", [Gene("resolution", (4, 8)), Gene("a", three), Gene("b", three)], make)
    for name in COSTS:
        table = cost_table(family, name)
        for arch in family.space:
            shape = (3, arch.resolution, arch.resolution)
            assert table.of(arch) == getattr(cost(family.build(arch), shape), name)


class Reading(Transformer):
    def forward(self, x):
        return super().forward(x * 2 if x.sum().item() > 0 else x)


def test_a_network_that_needs_values_is_run_with_them():
    """Its way is one of several: it is counted, and a limit on it is refused."""
    family = transformer(Reading)
    arch = family.space.largest()
    found = arch_cost(family, arch)
    assert found.uncovered == ("item",)
    assert found.macs == arch_cost(transformer(), arch).macs
    with pytest.raises(InputError, match="costs: no rule says what item costs"):
        cost_table(family, "macs")
    assert cost_table(family, "params").of(arch) == found.params


def test_what_cannot_be_run_is_one_line():
    def make(genes):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, genes["width"]))

    family = Given("flat", [Gene("resolution", (4, 8)), Gene("width", (2, 3))], make)
    with pytest.raises(InputError, match=r"^flat@8/width=3: Sequential: .*\(3, 8, 8\): .*192.*48"):
        cost_table(family, "macs")
    with pytest.raises(InputError, match="Sequential: cannot be counted"):
        check_resolution(family, family.space.largest())
    check_resolution(family, family.space.smallest())
    with pytest.raises(InputError, match="4097 px is too large"):
        check_resolution(family, family.space.smallest().at(4097))
    with pytest.raises(InputError, match="not written as layers by place"):
        layer_table(family, lambda layer, shape: 1.0)


def test_weights_are_not_filled_nor_changed_by_counting():
    def make(genes):
        layer = nn.Linear(genes["width"], 5)
        nn.init.trunc_normal_(layer.weight)
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, genes["width"]), layer
        )

    family = Given("filled", [Gene("resolution", (4, 8)), Gene("width", (2, 3))], make)
    arch = family.space.largest()
    assert arch_cost(family, arch).params == 3 * 3 + 3 + 15 + 5
    network = family.build(arch).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cost(network, (3, 8, 8))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_no_more_archs_are_counted_than_the_largest_operation_has_choices():
    """27 combinations of resolution, heads and an MLP ratio, and one of each for the depths."""
    family = transformer()
    cost_tables(family)
    assert family.builds <= 27 + 2 * len(family.space.genes) + 3 * discovery.TESTED
