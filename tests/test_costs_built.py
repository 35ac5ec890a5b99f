"""Costs of families that are given by `build` alone: tables against networks counted one by one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import onceforall
from onceforall import families, interop, predictors
from onceforall.cli import networks
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
from onceforall.interop import Resolved, StaticNetwork
from onceforall.predictors import work
from onceforall.records import Labels
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


def mobilenet(width, depth, num_classes=10):
    """timm's MobileNetV3, scaled."""
    from timm.models.mobilenetv3 import _gen_mobilenet_v3

    return _gen_mobilenet_v3("mobilenetv3_small_100", width, depth, num_classes=num_classes)


@pytest.fixture(scope="module")
def small():
    """A transformer's family that its tables were found for, and how many networks that took."""
    family = transformer()
    cost_tables(family)
    return family, family.builds


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


def test_tables_are_the_costs_of_the_networks(small):
    """No more networks are counted than some operation has combinations: 27 of resolution, heads
    and an MLP's ratio, a few for the depths, one for each gene and end, and some to test it."""
    family, builds = small
    space, tables = family.space, cost_tables(family)
    assert family.builds == builds < 27 + 2 * len(space.genes) + 2 * discovery.TESTED
    population = np.concatenate(
        [space.sample(np.random.default_rng(7), 12), space.encode([space.smallest()])]
    )
    for name in COSTS:
        assert isinstance(tables[name], Table)
    values = {name: tables[name](population) for name in COSTS}
    for i, arch in enumerate(space.decode(population)):
        counted = cost(family.build(arch), (3, arch.resolution, arch.resolution))
        for name in COSTS:
            assert values[name][i] == getattr(counted, name), (name, str(arch))


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
    some = everything[np.random.default_rng(0).permutation(len(everything))[:40]]
    tables = cost_tables(family, (10, 14))
    for i, arch in enumerate(table.space.decode(some)):
        counted = cost(family.build(arch), (3, arch.resolution, arch.resolution))
        for name in COSTS:
            assert tables[name](some)[i] == getattr(counted, name), (name, str(arch))


@pytest.mark.parametrize("name", ["vit_mini", "mobilenet"])
def test_tables_of_timms_networks(name):
    """A vision transformer, and convolutions whose width is chosen for all blocks at once."""
    pytest.importorskip("timm")
    if name == "vit_mini":
        family = families.get(name)
    else:
        family = onceforall.elastic(
            mobilenet, width=(0.5, 0.75), depth=(0.5, 1.0), resolution=(32, 48)
        )
    tables = cost_tables(family)
    population = family.space.sample(np.random.default_rng(5), 6)
    for i, arch in enumerate(family.space.decode(population)):
        counted = arch_cost(family, arch)
        for name in COSTS:
            assert tables[name](population)[i] == getattr(counted, name), (name, str(arch))


def test_searching_within_a_found_table_is_exact(small):
    family, _ = small
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
    found = search(part, macs.restrict(part), [limit], evaluations=20)
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


def test_choices_by_name_and_parts_that_come_with_one():
    """A text is no number: what comes with it depends on it, and on the width."""

    def make(genes):
        width = genes["width"]
        extra = [nn.Conv2d(width, width, 3, padding=1)] if genes["neck"] != "none" else []
        extra += [nn.Conv2d(width, width, 1)] if genes["neck"] == "wide" else []
        return nn.Sequential(nn.Conv2d(3, width, 1), *extra, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    genes = [Gene("resolution", (4, 8)), Gene("width", (2, 3, 4))]
    family = Given("necks", [*genes, Gene("neck", ("none", "plain", "wide"))], make)
    macs = cost_table(family, "macs")
    for arch in family.space:
        more = {"none": 0, "plain": 9, "wide": 10}[arch["neck"]]
        width = arch["width"]
        assert macs.of(arch) == arch.resolution**2 * (3 * width + more * width**2)


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


def records_of(family, n):
    """Latencies that MACs and operations make."""
    population = family.space.sample(np.random.default_rng(3), n)
    macs = np.array([arch_cost(family, a).macs for a in family.space.decode(population)])
    return Labels(family.space, "latency_ms", population, 1.0 + macs / 1e5)


def test_predictors_know_the_physics_of_a_family_given_by_build(small, monkeypatch, capsys):
    """Held-out error with MACs known is a small part of that without."""
    family, _ = small
    labels = records_of(family, 30)
    known = families.get
    monkeypatch.setattr(
        families,
        "get",
        lambda name, **more: family if name == "transformer" else known(name, **more),
    )
    with_physics = predictors.fit_latency(labels)
    assert with_physics.notes == ()
    assert "without physics" not in capsys.readouterr().err
    monkeypatch.undo()
    work._work_of.cache_clear()
    without = predictors.fit_latency(labels)
    said = capsys.readouterr().err
    assert said.startswith("latency_ms: fitted without physics: MACs, parameters and operations")
    assert "family: 'transformer' is not known" in said
    assert without.notes[0] in said
    predictors.fit_accuracy(replace(labels, metric="top1"))
    assert "top1: fitted without physics" in capsys.readouterr().err
    assert with_physics.report.mape < 0.5 * without.report.mape
    work._work_of.cache_clear()


def test_info_lists_the_blocks_of_a_network_given_by_build(small, monkeypatch, capsys):
    family, _ = small
    arch = family.space.largest()
    described = Resolved("transformer", StaticNetwork(family, arch))
    monkeypatch.setattr(interop, "resolve", lambda *named: described)
    networks.info("transformer", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    counted = arch_cost(family, arch)
    assert [shown["macs"], shown["params"]] == [counted.macs, counted.params]
    names = [row["name"] for row in shown["layers"]]
    assert names == ["patches", *(f"blocks.{i}" for i in range(4)), "head", "token", "position"]
    for column in ("macs", "params"):
        assert sum(row[column] for row in shown["layers"]) == shown[column]
    block = shown["layers"][1]
    assert block["output"] == "17x24"
    tokens, width = 17, 24
    assert block["macs"] == tokens * width**2 * (4 + 2 * 3) + 2 * tokens**2 * width
