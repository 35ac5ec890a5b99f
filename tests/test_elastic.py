"""Families made by `elastic` of networks that nobody wrote for it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onceforall import families
from onceforall.errors import InputError
from onceforall.families import elastic, lending, per_block
from onceforall.families.elastic import Elastic
from onceforall.space import Arch
from onceforall.supernet import SuperNet
from onceforall.supernet.inference import Axis, infer, sizes
from onceforall.testing import check_family


class Attention(nn.Module):
    """Heads of 4 features each, from one fused layer, with a scale for each head's entries."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * 4 * heads)
        self.proj = nn.Linear(4 * heads, features)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(2, 3) / 2).softmax(3) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, features: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attn = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = nn.Sequential(
            nn.Linear(features, mlp * features), nn.GELU(), nn.Linear(mlp * features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A small vision transformer; its tokens' positions depend on the input's size."""

    def __init__(
        self, depth: int, heads: int, mlp: tuple[int, ...], resolution: int, classes: int
    ) -> None:
        super().__init__()
        features = 4 * heads
        self.patch = nn.Conv2d(3, features, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, features))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (resolution // 4) ** 2, features))
        self.blocks = nn.ModuleList(Block(features, heads, mlp[i]) for i in range(depth))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def transformer(
    depth: int, heads: int, mlp: tuple[int, ...], resolution: int, classes: int = 5
) -> nn.Module:
    return Transformer(depth, heads, mlp, resolution, classes)


def tiny_transformer() -> Elastic:
    return elastic(
        transformer,
        depth=(1, 2, 3),
        heads=(1, 2, 3),
        mlp=per_block((1, 2, 3), 3),
        resolution=(16, 24),
    )


class Residual(nn.Module):
    """Grouped, depthwise and gated convolutions around a stream of residuals."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.gate = nn.Conv2d(hidden, hidden, 1)
        self.project = nn.Conv2d(hidden, width, 1)
        self.gamma = nn.Parameter(torch.full((width, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.expand(x)).relu()
        y = self.depthwise(y)
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return x + self.gamma * self.project(y)


class Convolutional(nn.Module):
    def __init__(self, width: int, hidden: tuple[int, ...], kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.GroupNorm(1, width)
        pairs = zip(hidden, kernel, strict=True)
        self.blocks = nn.Sequential(*(Residual(width, h, k) for h, k in pairs))
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width * 4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.norm(self.stem(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        x = self.mix(x.movedim(1, 3)).relu().movedim(3, 1)
        return self.head(x.flatten(1))


def convolutional(
    depth: int, width: int, hidden: tuple[int, ...], kernel: tuple[int, ...]
) -> nn.Module:
    assert len(hidden) == depth
    return Convolutional(width, hidden, kernel)


def small_convolutional() -> Elastic:
    return elastic(
        convolutional,
        depth=(1, 2, 3),
        width=(4, 6, 8),
        hidden=per_block((8, 12, 16), 3),
        kernel=per_block((3, 5, 7), 3),
        resolution=(16, 24),
    )


@pytest.mark.parametrize("make", [tiny_transformer, small_convolutional])
def test_own_networks_keep_the_contract(make: Callable[[], Elastic]) -> None:
    check_family(make(), archs=12)


def test_what_build_gets() -> None:
    family = tiny_transformer()
    assert (family.classes, family.in_channels, family.name) == (5, 3, "transformer")
    arch = Arch.parse("transformer@24/depth=2,heads=3,block1.mlp=1,block2.mlp=3")
    assert arch in family.space
    network = family.build(arch)
    assert len(network.blocks) == 2  # type: ignore[arg-type]
    shapes = [network.get_parameter(f"blocks.{i}.mlp.0.weight").shape for i in (0, 1)]
    assert shapes == [(12, 12), (36, 12)]
    assert network.get_parameter("pos_embed").shape == (1, 37, 12)
    # by hand: 2 resolutions x 3 heads x (3 + 9 + 27) ratios of 1, 2 or 3 blocks
    assert family.space.size == 2 * 3 * (3 + 9 + 27)


def test_lending_by_hand() -> None:
    """Leading channels, whole heads of each third, the centre of a kernel, the same tie."""
    supernet = SuperNet(tiny_transformer())
    arch = Arch.parse("transformer@24/depth=1,heads=2,block1.mlp=1")
    lent = supernet.lend(supernet.skeleton(arch))
    whole = supernet.network.state_dict()
    qkv = whole["blocks.0.attn.qkv.weight"]
    rows = [*range(8), *range(12, 20), *range(24, 32)]  # of q, of k, of v: 2 of 3 heads of 4
    assert torch.equal(lent["blocks.0.attn.qkv.weight"], qkv[rows][:, :8])
    assert torch.equal(lent["blocks.0.attn.qkv.bias"], whole["blocks.0.attn.qkv.bias"][rows])
    assert torch.equal(lent["cls_token"], whole["cls_token"][:, :, :8])
    assert torch.equal(lent["blocks.0.mlp.2.weight"], whole["blocks.0.mlp.2.weight"][:8, :8])
    convolutions = SuperNet(small_convolutional())
    arch = Arch.parse("convolutional@16/depth=1,width=6,block1.hidden=8,block1.kernel=3")
    lent = convolutions.lend(convolutions.skeleton(arch))
    kernel = convolutions.network.state_dict()["blocks.0.depthwise.weight"]
    assert torch.equal(lent["blocks.0.depthwise.weight"], kernel[:8, :, 2:5, 2:5])


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.first = nn.Linear(width, width, bias=False)
        self.again = nn.Linear(width, width, bias=False)
        self.again.weight = self.first.weight
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.first(self.stem(x.mean((2, 3)))).relu()))


def test_what_is_tied_stays_tied() -> None:
    family = elastic(Tied, width=(4, 6, 8), resolution=(8,))
    supernet = SuperNet(family)
    skeleton = supernet.skeleton(family.space.smallest())
    lent = supernet.lend(skeleton)
    assert lent["again.weight"] is lent["first.weight"]
    extracted = supernet.extract(family.space.smallest())
    assert extracted.again.weight is extracted.first.weight  # type: ignore[union-attr]
    assert extracted.again.weight.shape == (4, 4)  # type: ignore[union-attr]
    check_family(family, archs=2)


def test_positions_are_resampled_as_timm_does() -> None:
    timm = pytest.importorskip("timm.layers.pos_embed")
    supernet = SuperNet(tiny_transformer())
    arch = supernet.space.largest().at(16)
    lent = supernet.lend(supernet.skeleton(arch))["pos_embed"]
    whole = supernet.network.get_parameter("pos_embed")
    theirs = timm.resample_abs_pos_embed(whole, [4, 4], num_prefix_tokens=1)
    assert torch.allclose(lent, theirs, atol=1e-6)


def test_grouped_convolutions_are_lent_by_groups() -> None:
    def build(width: int) -> nn.Module:
        layers = [nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, groups=2, padding=1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))

    family = elastic(build, width=(4, 8), resolution=(8,))
    supernet = SuperNet(family)
    lent = supernet.lend(supernet.skeleton(family.space.smallest()))["1.weight"]
    whole = supernet.network.get_parameter("1.weight")  # (8, 4, 3, 3): two groups of 4
    assert torch.equal(lent, whole[[0, 1, 4, 5]][:, :2])  # half of each group
    check_family(family, archs=2)


def randomised(supernet: SuperNet) -> SuperNet:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in supernet.network.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
            if tensor.dim() > 1:
                tensor.sub_(1)
            assert name
    return supernet.double().eval()


@pytest.mark.parametrize("make", [tiny_transformer, small_convolutional])
def test_channels_of_any_network_are_sorted_and_proved(
    make: Callable[[], Elastic], capsys: pytest.CaptureFixture[str]
) -> None:
    """Sorted by importance, with the output of all that is in use unchanged."""
    family = make()
    supernet = randomised(SuperNet(family))
    largest = family.space.largest()
    kinds = {gene.kind for gene in family.space.genes}
    formed = dict.fromkeys(kinds - {"resolution"}, 2)
    used = family.space.top(**formed)
    archs = used.decode(used.sample(np.random.default_rng(0), 8))
    x = torch.randn((2, 3, 24, 24), dtype=torch.float64)
    before = [supernet(x, arch.at(24)) for arch in [largest, *archs]]
    supernet.sort_channels(**formed)
    assert capsys.readouterr().err == ""  # every group was proved
    for arch, was in zip([largest, *archs], before, strict=True):
        now = supernet(x, arch.at(24))
        assert torch.allclose(now, was, rtol=1e-9, atol=1e-9 * float(was.detach().abs().max())), (
            str(arch)
        )
    whole = supernet(x, largest)
    supernet.sort_channels()  # nothing but the largest in use
    assert torch.allclose(supernet(x, largest), whole, rtol=1e-9, atol=1e-9)
    readers = ["mlp.2"] if make is tiny_transformer else ["project", "gate"]
    weights = [supernet.network.get_parameter(f"blocks.1.{name}.weight") for name in readers]
    apart = [w.detach().abs().flatten(2) if w.dim() > 2 else w.detach().abs() for w in weights]
    norms = sum(w.sum((0, 2)) if w.dim() > 2 else w.sum(0) for w in apart)
    assert isinstance(norms, Tensor)
    assert (norms[:-1] >= norms[1:]).all()


def test_whole_heads_move() -> None:
    groups = infer(tiny_transformer()).groups
    (heads,) = (g for g in groups if Axis("blocks.0.attn.qkv.weight", 0, 3) in g.axes)
    assert heads.pieces == 3
    assert {(a.tensor, a.dim, a.parts) for a in heads.axes} == {
        ("blocks.0.attn.qkv.weight", 0, 3),
        ("blocks.0.attn.qkv.bias", 0, 3),
        ("blocks.0.attn.proj.weight", 1, 1),
    }
    (width,) = (
        g for g in groups if Axis("patch.weight", 0) in g.axes
    )  # one group over the whole network
    assert width.pieces == 12
    members = {"cls_token", "pos_embed", "norm.weight", "head.weight"}
    assert {a.tensor for a in width.axes} >= members


def test_bands_of_many_kinds_take_few_builds() -> None:
    """Twelve choices of two values each have 4,096 combinations; a layer depends on one of them."""
    names = [f"w{i}" for i in range(12)]
    built: list[dict[str, int]] = []

    def build(**widths: int) -> nn.Module:
        built.append(widths)
        layers = [nn.Linear(3, widths["w0"])]
        layers += [nn.Linear(widths[a], widths[b]) for a, b in itertools.pairwise(names)]
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers, nn.Linear(widths["w11"], 2)
        )

    family = elastic(build, resolution=(4,), name="many", **dict.fromkeys(names, (2, 4)))
    groups = infer(family).groups
    assert len(groups) == 12
    built.clear()
    for group in groups:
        assert sizes(family, group, dict.fromkeys(names, 2)) == {2, 4}
    assert len(built) <= 13


def test_channels_that_may_not_move_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A layer whose channels differ by their place."""

    class Ramp(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.into = nn.Linear(12, features)
            self.out = nn.Linear(features, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.into(x.flatten(1)[:, :12])
            return self.out(y * torch.arange(y.shape[1], device=y.device))

    family = elastic(lambda features: Ramp(features), features=(4, 8), resolution=(4,), name="ramp")
    supernet = SuperNet(family)
    before = {n: t.clone() for n, t in supernet.state_dict().items()}
    supernet.sort_channels()
    said = capsys.readouterr().err
    assert "ramp: the channels of into.weight" in said
    assert "not sorted: changing their places changed the output" in said
    assert all(torch.equal(t, before[n]) for n, t in supernet.state_dict().items())


# --- weights to start from


def test_the_largest_computes_what_the_given_network_computed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    family = tiny_transformer()
    given = family.build(family.space.largest()).eval()
    supernet = SuperNet(family, weights=given.state_dict()).eval()
    x = torch.randn((3, 3, 24, 24))
    assert torch.equal(supernet(x, family.space.largest()), given(x))
    assert capsys.readouterr().err == ""
    other = family.again(classes=7)
    replaced = SuperNet(other, weights=given.state_dict()).eval()
    assert replaced(x, other.space.largest()).shape == (3, 7)
    said = capsys.readouterr().err
    assert "head.weight, head.bias: of 5 classes; replaced by a fresh one for 7" in said
    kept = replaced.network.state_dict()["blocks.2.mlp.0.weight"]
    assert torch.equal(kept, given.state_dict()["blocks.2.mlp.0.weight"])


def test_weights_that_do_not_fit_are_refused() -> None:
    family = tiny_transformer()
    good = dict(family.build(family.space.largest()).state_dict())
    small = family.build(family.space.smallest()).state_dict()
    with pytest.raises(InputError, match=r"cls_token is \(1, 1, 4\), and \(1, 1, 12\)"):
        SuperNet(family, weights={**good, "cls_token": small["cls_token"]})
    with pytest.raises(InputError, match=r"cls_token \(1, 1, 12\) of the largest .* is missing"):
        SuperNet(family, weights={n: t for n, t in good.items() if n != "cls_token"})
    with pytest.raises(InputError, match=r"odd \(2,\) is not in the largest network"):
        SuperNet(family, weights={**good, "odd": torch.zeros(2)})


# --- builds that cannot be a family


def linear(features: int = 4, **more: Any) -> nn.Module:
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, features), nn.Linear(features, 2)]
    return nn.Sequential(*layers)


class OwnParameter(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weird = nn.Parameter(torch.ones(features))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3))) * self.weird.sum()


class OwnBuffer(nn.Module):
    def __init__(self, features: int, values: bool) -> None:
        super().__init__()
        table = torch.full((3,), float(features)) if values else torch.zeros(features)
        self.register_buffer("table", table)
        self.head = nn.Linear(3, features)
        self.out = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.head(x.mean((2, 3)))) + self.table.sum()  # type: ignore[operator]


class PlainTensor(OwnParameter):
    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.kept = torch.ones(2)


def two_names(a: int, b: int) -> nn.Module:
    return linear(a * b)


def grows(features: int) -> nn.Module:
    return linear(8 // features)


def only_small(features: int) -> nn.Module:
    network = linear(features)
    if features < 4:
        network.append(nn.Linear(2, 2))
    return network


_DRAWS = iter(range(4, 10_000))


def random(features: int) -> nn.Module:
    drawn = next(_DRAWS)
    return nn.Sequential(linear(features), nn.Linear(2, drawn), nn.Linear(drawn, 2))


def even_kernel(kernel: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, kernel), nn.AdaptiveAvgPool2d(1), nn.Flatten())


BAD: list[tuple[Callable[..., nn.Module], dict[str, Any], str]] = [
    (linear, {"feature": (2, 4)}, "linear: feature: the network of 2 has the parameters of the"),
    (linear, {}, "linear: no choice is given"),
    (linear, {"features": 4}, "linear: features: 4 is not a list of choices"),
    (linear, {"features": (4, 2)}, "features: (4, 2) is not ascending"),
    (linear, {"features": per_block((2, 4), 2)}, "TypeError"),
    (
        two_names,
        {"a": (2, 4), "b": (2, 4)},
        "two_names: a 2 and b 2 make the same network, in which"
        " 2.weight is (8, 3) instead of (16, 3)",
    ),
    (
        grows,
        {"features": (1, 2)},
        "grows: features 1: makes 2.weight larger: (8, 3), in the largest network (4, 3)",
    ),
    (only_small, {"features": (2, 4)}, "features 2: 4.weight (2, 2) is not in the largest network"),
    (random, {"features": (2, 4)}, "random: two builds of the largest network differ: 1.weight is"),
    (
        OwnParameter,
        {"features": (2, 4)},
        "OwnParameter: features 2: weird is (4,) in the largest network, (2,) here, and no rule",
    ),
    (
        lambda features: OwnBuffer(features, False),
        {"features": (2, 4)},
        "features 2: the buffer table is (2,), in the largest network (4,)",
    ),
    (
        lambda features: OwnBuffer(features, True),
        {"features": (2, 4)},
        "the buffer table (3,) has other values in the smallest network than in the largest",
    ),
    (PlainTensor, {"features": (2, 4)}, "the network keeps the tensor 'kept' (2,) as a plain"),
    (
        even_kernel,
        {"kernel": (4, 5)},
        "kernel 4: 0.weight is (2, 3, 5, 5) in the largest network, (2, 3, 4, 4) here: a kernel of"
        " 5 has no centre of 4",
    ),
    (lambda n: [n], {"n": (1, 2)}, "build returned list, no nn.Module"),
    (lambda n: nn.Linear(n, 2), {"n": (1, 2)}, "does not run on images (2, 3, 8, 8)"),
    (
        lambda n: nn.Sequential(nn.Conv2d(3, n, 1), nn.Flatten(0)),
        {"n": (1, 2)},
        "give (256,), not (images, classes, ...)",
    ),
]


@pytest.mark.parametrize(("build", "choices", "message"), BAD, ids=range(len(BAD)))
def test_builds_that_cannot_be_a_family(
    build: Callable[..., nn.Module], choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        elastic(build, resolution=(8,), **choices)
    assert "\n" not in str(caught.value)


def test_a_rule_of_ones_own() -> None:
    rules = {"weird": lending.leading}
    check_family(elastic(OwnParameter, features=(2, 4), resolution=(8,), rules=rules), archs=2)

    class Ruled(OwnParameter):
        lending: ClassVar = {"weird": lending.leading}

    check_family(elastic(Ruled, features=(2, 4), resolution=(8,)), archs=2)


# --- in a file

FILE = """
from torch import nn
from onceforall import elastic

def build(width, classes=4):
    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, classes))

family = elastic(build, width=(2, 4, 8), resolution=(8, 12))

def made(classes=3, in_channels=3, resolutions=(8, 12)):
    return elastic(lambda width: build(width, classes), width=(2, 4), resolution=resolutions)

number = 3
"""


def test_a_family_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my_net.py"
    path.write_text(FILE)
    family = families.get(f"{path}:family", classes=9)
    assert (family.name, family.classes) == ("my_net.py:family", 9)
    again = families.get(family.name, **family.settings())  # as a checkpoint says it
    assert again.space == family.space
    assert again.classes == 9
    arch = family.space.smallest()
    assert Arch.parse(str(arch)) == arch
    assert families.get(f"{path}:made", classes=5).classes == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/none.py:family", "no file"),
        ("{}/my_net.py:nothing", "has no 'nothing'; families in it: family"),
        ("{}/my_net.py", "name the family in the file, as in"),
        ("{}/my_net.py:number", "is int; it must be a family made by elastic(), or a function"),
        ("{}/broken.py:family", "SyntaxError"),
        ("{}/my_net.py:build", "missing a required argument: 'width'"),
    ],
)
def test_files_without_a_family_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "my_net.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("def")
    with pytest.raises(InputError, match=re.escape(message)):
        families.get(name.format(tmp_path))


def test_settings_that_build_does_not_take_are_refused(tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(FILE)
    with pytest.raises(InputError, match="in_channels: its networks have 3, not 1; let build take"):
        families.get(f"{tmp_path}/my_net.py:family", in_channels=1)


def test_a_family_made_again_is_not_looked_at_again() -> None:
    """It is the same object, by which its costs are found again; what differs is looked at."""
    built = []

    def build(depth: int, classes: int = 4) -> nn.Module:
        built.append(depth)
        blocks = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(depth)))
        return nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

    first = elastic(build, depth=(1, 2), resolution=(8,))
    seen = len(built)
    assert seen > 2
    assert elastic(build, depth=(1, 2), resolution=(8,)) is first
    assert first.again() is first
    assert first.with_origin({"path": "a.py"}) is first.with_origin({"path": "a.py"})
    assert first.with_origin({"path": "a.py"}).kernels is first.kernels
    assert len(built) == seen
    assert first.again(classes=5).classes == 5
    assert len(built) > seen
    assert elastic(build, depth=(1, 2, 3), resolution=(8,)) is not first
    assert first.classes == 4
