"""Costs against hand counts, torch's own counter, published numbers, and tables against costs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planned_families import PLANNED
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onceforall import families, interop
from onceforall.cli import networks
from onceforall.costs import (
    check_resolution,
    cost,
    cost_table,
    cost_tables,
    dispatch,
    layer_cost,
    layer_table,
    unique_layers,
)
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.layers import ConvNormAct, MBConv, layer
from onceforall.interop import Resolved, StaticNetwork
from onceforall.space import Table

COSTS = ("macs", "params", "peak_activation_bytes")


@pytest.fixture(scope="module", params=PLANNED)
def family(request: pytest.FixtureRequest) -> Family:
    return families.get(request.param)


@pytest.fixture(scope="module")
def tables(family: Family) -> dict[str, Table]:
    resolutions = family.space.resolution
    return cost_tables(family, sorted({resolutions[0], resolutions[1], resolutions[-1]}))


def test_convolution_by_hand():
    # out 8x16x16 from 3x32x32, kernel 3, stride 2
    found = cost(ConvNormAct(3, 8, 3, 2, act="relu"), (3, 32, 32))
    outputs = 8 * 16 * 16
    assert found.output_shape == (8, 16, 16)
    assert found.macs == outputs * 3 * 9
    assert found.params == 8 * 3 * 9 + 2 * 8
    assert found.flops == found.macs + 2 * outputs + outputs  # batch norm, ReLU
    # at the convolution both are alive; batch norm and ReLU write in place
    assert found.peak_activation_bytes == 4 * (3 * 32 * 32 + outputs)
    assert [(row.name, row.kind, row.macs, row.params) for row in found.rows] == [
        ("conv", "Conv2d", found.macs, 216),
        ("norm", "BatchNorm2d", 0, 16),
        ("act", "ReLU", 0, 0),
    ]


def test_inverted_residual_by_hand():
    # 16 -> 64 -> 16 channels at 10x10, kernel 5, squeeze-excite to 16, shortcut
    found = cost(MBConv(16, 16, 5, 4, act="h_swish", se=True), (16, 10, 10))
    x, hidden = 16 * 100, 64 * 100
    assert found.macs == x * 64 + hidden * 25 + 2 * 64 * 16 + x * 64
    assert found.params == 2 * (16 * 64) + 64 * 25 + 2 * (64 + 64 + 16) + 2 * 64 * 16 + 16 + 64
    # at the product of the squeeze-excite: block input (kept for the shortcut), its two
    # factors and its output
    assert found.peak_activation_bytes == 4 * (x + hidden + 64 + hidden)


def test_memory_of_a_value_that_is_read_again():
    class Kept(nn.Module):
        def forward(self, x):
            y = F.relu(x)  # x is read again: not in place
            return x + y

    found = cost(Kept(), (2, 3, 3))
    assert found.peak_activation_bytes == 4 * 3 * 18  # x, y and their sum

    class Chain(nn.Module):
        def forward(self, x):
            return torch.flatten(F.relu(x), 1)  # in place, then a view

    found = cost(Chain(), (2, 3, 3))
    assert found.peak_activation_bytes == 4 * 18
    assert found.output_shape == (18,)


def test_a_view_keeps_its_memory_alive():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(18, 5)

        def forward(self, x):
            flat = torch.flatten(x, 1)
            once = self.linear(flat)
            return once + self.linear(flat)

    # second linear: x (through the view), first result, second result
    assert cost(Viewed(), (2, 3, 3)).peak_activation_bytes == 4 * (18 + 5 + 5)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize(
    "make",
    [
        lambda ceil: nn.AvgPool2d(2, 2, ceil_mode=ceil),
        lambda ceil: nn.AvgPool2d(3, 2, 1, ceil_mode=ceil),
        lambda ceil: nn.MaxPool2d(3, 2, 1, ceil_mode=ceil),
        lambda ceil: nn.MaxPool2d((3, 2), (2, 3), dilation=2, ceil_mode=ceil),
        lambda ceil: nn.Conv2d(4, 6, 3, 2, 1, dilation=2, groups=2),
        lambda ceil: nn.Conv2d(4, 6, (3, 1), padding="same"),
        lambda ceil: nn.AdaptiveAvgPool2d((3, None)),
    ],
)
def test_shapes_are_those_of_torch(make, size, ceil):
    module = make(ceil)
    assert (
        cost(module, (4, size, size)).output_shape
        == module(torch.zeros(1, 4, size, size)).shape[1:]
    )


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [  # authors' supernets at 224 px: largest, smallest; millions
        ("ofa_mbv3_w1.0", (566.2, 121.3), (7.665, 3.411)),
        ("ofa_mbv3_w1.2", (843.1, 193.1), (10.702, 4.602)),
        ("ofa_proxyless_w1.3", (1005, 266), (7.94, 3.72)),
        ("ofa_resnet50", (7492, 962), (48.1, 6.54)),
    ],
)
def test_published_numbers(name, macs, params):
    family = families.get(name)
    for arch, mmacs, mparams in zip(
        (family.space.largest(), family.space.smallest()), macs, params, strict=True
    ):
        with torch.device("meta"):
            found = cost(family.build(arch), (3, 224, 224))
        assert found.macs / 1e6 == pytest.approx(mmacs, rel=0.002)
        assert found.params / 1e6 == pytest.approx(mparams, abs=0.006)


def test_macs_are_half_of_torchs_flops(family: Family):
    for arch in (*family.space.decode(family.space.sample(np.random.default_rng(0), 4)),):
        with torch.device("meta"):
            network = family.build(arch).eval()
            image = torch.zeros(1, family.in_channels, arch.resolution, arch.resolution)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            out = network(image)
        found = cost(network, image.shape[1:])
        assert 2 * found.macs == counter.get_total_flops()
        assert found.params == sum(p.numel() for p in network.parameters())
        assert found.output_shape == out.shape[1:]


@pytest.mark.parametrize(
    "n", [20, pytest.param(80, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.long)]
)
def test_tables_are_the_costs_of_the_networks(family: Family, tables: dict[str, Table], n: int):
    space = tables["macs"].space
    population = space.sample(np.random.default_rng(n), n)
    population = np.concatenate([population, space.encode([space.largest(), space.smallest()])])
    values = {name: tables[name](population) for name in COSTS}
    for i, arch in enumerate(space.decode(population)):
        with torch.device("meta"):
            network = family.build(arch)
        found = cost(network, (family.in_channels, arch.resolution, arch.resolution))
        for name in COSTS:
            assert values[name][i] == getattr(found, name), (name, str(arch))


def test_running_counts_what_the_rules_count(family: Family):
    """Two ways to count one network; memory and MMRazor's FLOPs included."""
    space = family.space
    sampled = space.decode(space.sample(np.random.default_rng(3), 2))
    for arch in (space.largest(), space.smallest(), *sampled):
        with torch.device("meta"):
            network = family.build(arch)
        shape = (family.in_channels, arch.resolution, arch.resolution)
        by_rules, by_running = cost(network, shape), dispatch.count(network, shape)
        for name in (*COSTS, "flops", "output_shape", "uncovered"):
            assert getattr(by_rules, name) == getattr(by_running, name), (name, str(arch))
        for row in by_running.rows:
            assert row.params == 0 or row in by_rules.rows, str(arch)


def test_extremes_are_the_largest_and_smallest(family: Family, tables: dict[str, Table]):
    space = tables["macs"].space
    for name in COSTS:
        assert tables[name].minimum()[0] == tables[name].of(space.smallest())
        assert tables[name].maximum()[0] == tables[name].of(space.largest())


def test_layer_tables_and_unique_layers(family: Family):
    resolution = family.space.resolution[0]
    unique = unique_layers(family, [resolution])
    assert len(unique) == len(set(unique))
    number = {pair: float(i + 1) for i, pair in enumerate(unique)}
    table = layer_table(family, lambda layer, shape: number[layer, shape], "sum", [resolution])
    for arch in table.space.decode(table.space.sample(np.random.default_rng(2), 20)):
        shape: tuple[int, ...] = (family.in_channels, resolution, resolution)
        total = 0.0
        for each in family.plan(arch).values():
            total += number[each, shape]
            shape = layer_cost(each, shape).output_shape
        assert table.of(arch) == total


class Spelled(nn.Module):
    """One operation on (N, 4, 6, 5), with a convolution that can be called by a keyword."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(output_size=1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return self.spelling(self, x)


SPELLINGS = {
    "flatten end": lambda m, x: torch.flatten(x, end_dim=2, start_dim=1),
    "flatten positions": lambda m, x: torch.flatten(x, 1, 2),
    "flatten from 2": lambda m, x: torch.flatten(x, 2),
    "flatten named": lambda m, x: torch.flatten(start_dim=1, input=x),
    "flatten negative": lambda m, x: torch.flatten(x, -3, -2),
    "flatten one": lambda m, x: torch.flatten(x, start_dim=1, end_dim=1),
    "flatten none": lambda m, x: torch.flatten(x, end_dim=0),
    "method flatten": lambda m, x: x.flatten(end_dim=2, start_dim=1),
    "method flatten position": lambda m, x: x.flatten(1),
    "mean keep first": lambda m, x: x.mean(keepdim=True, dim=(2, 3)),
    "mean drop": lambda m, x: x.mean((2, 3)),
    "mean positions": lambda m, x: x.mean([2, 3], True),
    "mean negative": lambda m, x: torch.mean(x, dim=(-1, -2), keepdim=False),
    "mean one": lambda m, x: torch.mean(x, 3),
    "mean channels": lambda m, x: torch.mean(keepdim=True, input=x, dim=1),
    "mean axis": lambda m, x: torch.mean(x, axis=(2, 3), keepdims=True),
    "relu named": lambda m, x: F.relu(inplace=False, input=x),
    "relu6 position": lambda m, x: F.relu6(x, True),
    "hardswish": lambda m, x: F.hardswish(input=x),
    "gelu": lambda m, x: F.gelu(x, approximate="tanh"),
    "dropout": lambda m, x: F.dropout(training=False, p=0.3, input=x),
    "pool": lambda m, x: F.adaptive_avg_pool2d(output_size=(2, None), input=x),
    "pool position": lambda m, x: F.adaptive_avg_pool2d(x, 3),
    "add named": lambda m, x: torch.add(other=x, input=F.relu(x), alpha=2),
    "add method": lambda m, x: x.add(other=x, alpha=3),
    "mul reversed": lambda m, x: 2 * x,
    "mul broadcast": lambda m, x: torch.mul(other=m.pool(x), input=x),
    "mul smaller first": lambda m, x: m.pool(x) * x,
    "mul parameter": lambda m, x: x * m.scale,
    "parameter first": lambda m, x: m.scale + x,
    "div": lambda m, x: torch.div(x, 3, rounding_mode="floor"),
    "conv named": lambda m, x: m.conv(input=x),
    "contiguous": lambda m, x: x.contiguous(memory_format=torch.contiguous_format),
    "view": lambda m, x: x.view(x.size(0), -1),
    "view shape": lambda m, x: x.view(x.shape[0], x.shape[1] * x.shape[2], x.shape[3]),
    "reshape": lambda m, x: torch.reshape(x, (-1, 8, 15)),
    "chunk": lambda m, x: x.chunk(2, dim=1)[1],
    "split": lambda m, x: torch.split(x, [1, 3], 1)[1] * 2,
    "cat": lambda m, x: torch.cat([x, x[:, :1]], dim=1),
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_has_the_shape_that_torch_computes(name):
    network = Spelled(SPELLINGS[name]).eval()
    with torch.device("meta"):
        image = torch.empty(7, 4, 6, 5)
    expected = network.to("meta")(image).shape
    found = cost(network, (4, 6, 5))
    assert (7, *found.output_shape) == tuple(expected)
    assert found.uncovered == ()
    assert found.macs == (4 * 4 * 9 * 30 if "conv" in name else 0)


@pytest.mark.parametrize("dims", [(1, -1), (1, 2), (2, -1), (2, 3), (-2, -1), (3, 3), (1, 1)])
def test_flatten_modules(dims):
    module = nn.Flatten(*dims)
    assert (5, *cost(module, (4, 6, 5)).output_shape) == module(torch.zeros(5, 4, 6, 5)).shape


class Transform(nn.Module):
    """Ends in an operation that nothing is known of."""

    def forward(self, x):
        return torch.fft.fft(x).real


def test_an_operation_that_is_not_known_is_named_and_the_rest_counted():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Transform(), nn.Flatten(), nn.Linear(32, 5))
    found = cost(network, (3, 4, 4))
    assert found.uncovered == ("1 (_fft_r2c)",)
    assert found.output_shape == (5,)
    assert found.macs == 8 * 4 * 27 + 32 * 5  # a lower bound
    assert found.params == 8 * 27 + 8 + 32 * 5 + 5
    assert [row.kind for row in found.rows] == ["Conv2d", "Transform", "Flatten", "Linear"]


def test_single_elements_in_place_and_in_a_place_of_their_own():
    found = cost(Spelled(lambda m, x: torch.sin(m.conv(x))), (4, 6, 5))
    assert (found.uncovered, found.peak_activation_bytes) == ((), 4 * 240)
    found = cost(Spelled(lambda m, x: torch.sin(m.conv(x)) + x), (4, 6, 5))
    assert found.peak_activation_bytes == 4 * 360


def test_products_of_matrices_by_hand():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 7, batch_first=True)

        def forward(self, x):
            y, _ = self.lstm(x)
            return y[:, -1]

    found = cost(Last(), (4, 5))
    assert (found.uncovered, found.output_shape) == ((), (7,))
    # 4 steps of 4 gates on the input; on the state 3, for the first state is always the same
    assert found.macs == 4 * 7 * (4 * 5 + 3 * 7)
    product = Spelled(lambda m, x: x.flatten(2) @ x.flatten(2).transpose(1, 2))
    found = cost(product, (4, 6, 5))
    assert (found.uncovered, found.output_shape) == ((), (4, 4))
    assert found.macs == 4 * 4 * 30
    sums = Spelled(lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x))
    assert cost(sums, (4, 6, 5)).macs == 4 * 4 * 30
    transposed = nn.ConvTranspose2d(4, 6, 3, stride=2)
    assert cost(transposed, (4, 5, 5)).macs == 25 * 4 * 6 * 9  # each input meets each weight


def test_a_padding_that_only_a_convolution_reads_owns_nothing():
    padded = cost(Spelled(lambda m, x: F.conv2d(F.pad(x, (0, 1, 0, 1)), m.conv.weight)), (4, 6, 5))
    assert padded.macs == 4 * 4 * 9 * 5 * 4
    assert padded.peak_activation_bytes == 4 * (4 * 30 + 4 * 20)
    kept = cost(Spelled(lambda m, x: F.pad(x, (0, 1, 0, 1)) * 2), (4, 6, 5))
    assert kept.peak_activation_bytes == 4 * 2 * 4 * 42  # it and the product


class Attending(nn.Module):
    """One attention of 2 heads of size 8 over the places of (N, 16, H, W)."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.whole = nn.MultiheadAttention(16, 2, batch_first=True) if how == "module" else None
        self.qkv = nn.Linear(16, 48) if how != "module" else None

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        if self.whole is not None:
            return self.whole(tokens, tokens, tokens)[0]
        parts = self.qkv(tokens).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        if self.how == "fused":
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        weights = (q * 8**-0.5 @ k.transpose(-2, -1)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_attention_by_hand(device):
    """25 tokens: the same however it is written, and where it is run."""
    linear, products = 25 * 16 * 48, 2 * 2 * 25 * 25 * 8
    found = {}
    for how in ("fused", "plain", "module"):
        network = Attending(how).to(device)
        found[how] = dispatch._count(dispatch._ready(network, device, False), (16, 5, 5), device)
        assert found[how].uncovered == ()
    assert found["fused"].macs == found["plain"].macs == linear + products
    assert found["module"].macs == linear + products + 25 * 16 * 16  # and its last layer
    # the softmax of the weights, while the values wait
    expected = 4 * (3 * 25 * 16 + 2 * 2 * 25 * 25)
    assert found["fused"].peak_activation_bytes == expected


def test_parameters_count_once_and_all():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.token = nn.Parameter(torch.zeros(1, 6))
            self.idle = nn.Linear(3, 3)

        def forward(self, x):
            return self.second(self.first(x + self.token)) + self.first(x)

    found = cost(Tied(), (6,))
    assert found.params == 36 + 6 + 6 + 6 + 12
    assert sum(row.params for row in found.rows) == found.params
    assert found.macs == 3 * 36
    assert ("token", "Parameter", 6) in [(r.name, r.kind, r.params) for r in found.rows]


def test_what_does_not_depend_on_the_image_costs_nothing():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.mix = nn.Parameter(torch.zeros(9, 4)), nn.Linear(4, 5)
            self.linear = nn.Linear(5, 5)

        def forward(self, x):
            mask = torch.ones(9, 1)
            mask[2:] = 0
            return self.linear(x) + self.mix(self.table) * mask

    found = cost(Biased(), (9, 5))
    assert found.macs == 9 * 25
    # at the sum: what the linear layer gave, and the sum
    assert found.peak_activation_bytes == 4 * 2 * 45


class Deciding(nn.Module):
    """Its way depends on the values: it cannot be run on the meta device."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x * 2 if float(x.sum()) > 0 else x


class Looping(nn.Module):
    """Runs on the meta device, though it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        for _ in x:  # once an image
            pass
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("network", "shape", "macs", "out"),
    [
        (Deciding(), (3, 5, 5), 4 * 9 * 27, (4, 3, 3)),
        (Looping(), (6, 1, 1), 36, (6,)),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1), Deciding(), nn.Flatten(), nn.Linear(36, 2)),
            (3, 5, 5),
            9 * 25 + 4 * 9 * 27 + 72,
            (2,),
        ),
    ],
)
def test_a_network_that_cannot_be_traced(network, shape, macs, out):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = cost(network.train(), shape)
    deciding = any(isinstance(module, Deciding) for module in network.modules())
    assert ["item" in name for name in found.uncovered] == [True] * deciding
    assert found.output_shape == out
    assert found.macs == macs
    assert found.params == sum(p.numel() for p in network.parameters())
    assert network.training
    for key, tensor in network.state_dict().items():  # running it left no trace
        assert torch.equal(tensor, before[key])


def test_depthwise_is_said_by_groups():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),  # of one channel: nothing is kept apart
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(8, 9, 1),  # nine weights a filter, and dense
        nn.Conv2d(9, 9, 1, groups=9),  # one weight a filter, and depthwise
        nn.Conv2d(9, 18, 5, groups=9),
        nn.Conv2d(18, 18, 3, groups=2),
    )
    found = [row.depthwise for row in cost(network, (1, 16, 16)).rows]
    assert found == [False, False, False, True, True, False]


@pytest.fixture
def odd() -> Family:
    """A family with an operation that nothing is known of."""
    base = families.get("mbv3_mini")

    class Odd(type(base)):
        def tail(self, width_in):
            return {"odd": layer(Transform), **super().tail(width_in)}

    return Odd(**{f.name: getattr(base, f.name) for f in dataclasses.fields(base)})


def test_tables_refuse_what_they_cannot_count(odd):
    """A limit on a lower bound would let through what is above it. Parameters are known."""
    base = families.get("mbv3_mini")
    arch = odd.space.largest()
    with pytest.raises(InputError, match="costs: no rule says what _fft_r2c costs"):
        cost_tables(odd)
    assert cost_table(odd, "params").of(arch) == cost_tables(base)["params"].of(arch)
    found = cost(odd.build(arch), (3, 28, 28))
    assert found.uncovered == ("odd (_fft_r2c)",)
    assert found.macs == cost(base.build(arch), (3, 28, 28)).macs


def test_info_says_what_is_not_covered(odd, monkeypatch, capsys):
    described = StaticNetwork(odd, odd.space.largest())
    monkeypatch.setattr(interop, "resolve", lambda *named: Resolved("odd", described))
    networks.info("odd")
    text = capsys.readouterr().out
    macs = cost(families.get("mbv3_mini").build(described.arch), (3, 28, 28)).macs
    assert f"MACs        at least {macs / 1e6:.2f}M at 28 px" in text
    assert "not covered odd (_fft_r2c): no rule says what these cost" in text
    networks.info("odd", as_json=True)
    assert json.loads(capsys.readouterr().out)["uncovered"] == ["odd (_fft_r2c)"]


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"conv: \(3, H, W\) expected, \(1, 8, 8\) given"):
        cost(ConvNormAct(3, 8), (1, 8, 8))
    with pytest.raises(InputError, match="5 features expected, 4 given"):
        cost(nn.Linear(5, 2), (4,))


def test_a_layer_is_traced_once():
    made = []

    def make(channels: int) -> nn.Module:
        made.append(channels)
        return nn.Conv2d(channels, channels, 1)

    for size in (8, 16, 8):
        assert layer_cost(layer(make, channels=4), (4, size, size)).macs == 16 * size * size
    assert made == [4]


@pytest.mark.data
def test_mmrazors_flops_of_its_published_networks(data_dir):
    """70.88M FLOPs and 67.2M MACs, read from the official configs of the same networks."""
    import json

    from onceforall.space import Arch, Block

    family = families.get("ofa_mbv3_w1.0")
    expected = {"note8_lat@22ms": (70.88, 67.2, 4.30), "note8_lat@31ms": (105.43, 100.5, 4.60)}
    for name, (flops, macs, params) in expected.items():
        folder = next(p for p in data_dir.glob("specialized/note8*") if name[-4:] in p.name)
        config = json.loads((folder / "net.config").read_text())
        resolution = json.loads((folder / "run.config").read_text())["image_size"]
        stages: list[list[Block]] = []
        for entry in config["blocks"][1:]:
            block = entry["mobile_inverted_conv"]
            if block["stride"] != 1 or entry["shortcut"] is None:
                stages.append([])
            width = block["out_channels"]
            stages[-1].append(Block(block["kernel_size"], block["expand_ratio"], width))
        arch = Arch.of_stages(family.name, resolution, tuple(map(tuple, stages)))
        with torch.device("meta"):
            found = cost(family.build(arch), (3, resolution, resolution))
        assert found.flops / 1e6 == pytest.approx(flops, abs=0.005)
        assert found.macs / 1e6 == pytest.approx(macs, abs=0.05)
        assert found.params / 1e6 == pytest.approx(params, abs=0.005)


@pytest.mark.parametrize(
    ("name", "least"),  # products of the strides, by the papers
    [
        ("mbv3_mini", 8),
        ("ofa_mbv3_w1.0", 32),
        ("ofa_mbv3_w1.2", 32),
        ("ofa_proxyless_w1.3", 32),
        ("ofa_resnet50", 32),
    ],
)
def test_resolutions_without_meaning_are_refused(name, least):
    family = families.get(name)
    arch = family.space.smallest()
    for resolution in (least, least + 1, 4096):
        check_resolution(family, arch.at(resolution))
    for resolution, message in (
        (1, f"resolution: 1 px is too small for {name}, .* at least {least} px are needed"),
        (least - 1, f"at least {least} px"),
        (4097, "resolution: 4097 px is too large; at most 4096 px are possible"),
        (10**6, "resolution: 1000000 px"),
    ):
        with pytest.raises(InputError, match=message):
            check_resolution(family, arch.at(resolution))
