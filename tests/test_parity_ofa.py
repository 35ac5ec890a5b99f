"""The same numbers as PyPI `ofa` with the same weights: the authors' own code is the reference."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onceforall import families, interop
from onceforall.costs import cost
from onceforall.interop.arch_dict import from_arch_dict, to_arch_dict
from onceforall.interop.net_config import to_config
from onceforall.supernet import SuperNet, calibrate

pytest.importorskip("ofa")

from ofa.imagenet_classification.elastic_nn.networks import (
    OFAMobileNetV3,
    OFAProxylessNASNets,
    OFAResNets,
)
from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics
from ofa.imagenet_classification.networks import get_net_by_name
from ofa.utils import profile


def _mobile(make: Any, width: float) -> Callable[[], nn.Module]:
    return lambda: make(
        dropout_rate=0,
        width_mult=width,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )


def _resnet() -> nn.Module:
    return OFAResNets(
        dropout_rate=0,
        depth_list=[0, 1, 2],
        expand_ratio_list=[0.2, 0.25, 0.35],
        width_mult_list=[0.65, 0.8, 1.0],
    )


THEIRS = {
    "ofa_mbv3_w1.0": _mobile(OFAMobileNetV3, 1.0),
    "ofa_mbv3_w1.2": _mobile(OFAMobileNetV3, 1.2),
    "ofa_proxyless_w1.3": _mobile(OFAProxylessNASNets, 1.3),
    "ofa_resnet50": _resnet,
}
EVERY = pytest.mark.parametrize("name", THEIRS)


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Weights that keep activations in range; batch-norm statistics and transforms included."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif key.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif key.endswith("_matrix"):
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
        elif "bn." in key and key.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith("weight"):
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[nn.Module, SuperNet]]:
    """The two supernets of a name with the same weights, passed over as a file."""
    made: dict[str, tuple[nn.Module, SuperNet]] = {}

    def pair(name: str) -> tuple[nn.Module, SuperNet]:
        if name not in made:
            theirs = THEIRS[name]()
            randomise(theirs)
            path = tmp_path_factory.mktemp("weights") / "init"
            torch.save({"state_dict": theirs.state_dict()}, path)
            made.clear()  # one at a time: they are large
            made[name] = (theirs.eval(), interop.read_supernet(path))
        ours = made[name][1].eval()
        assert isinstance(ours, SuperNet)
        return made[name][0], ours

    return pair


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to 1e-5 of the largest logit."""
    return float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@EVERY
@pytest.mark.parametrize(
    "n", [5, pytest.param(50, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.long)]
)
def test_logits_of_random_subnetworks(
    name: str, n: int, pairs: Callable[[str], tuple[nn.Module, SuperNet]]
) -> None:
    theirs, ours = pairs(name)
    random.seed(n)
    torch.manual_seed(n)
    seen = set()
    with torch.inference_mode():
        for i in range(n):
            resolution = (64, 76, 92, 108)[i % 4]
            chosen = theirs.sample_active_subnet()
            arch = from_arch_dict({**chosen, "r": [resolution]}, name)
            seen.add(arch)
            x = torch.randn(1, 3, resolution, resolution)
            active = theirs(x)
            extracted = ours.extract(arch)(x)
            assert close(extracted, active)
            if i % 10 == 0:
                assert close(theirs.get_active_subnet().eval()(x), active)
                assert torch.equal(ours(x, arch), extracted)
    assert len(seen) == n


@EVERY
def test_the_same_operations_give_the_same_bits(
    name: str, pairs: Callable[[str], tuple[nn.Module, SuperNet]]
) -> None:
    """Up to the pooling, ProxylessNAS and ResNet50 are the same operations; hard-swish and
    squeeze-excite are not (`x * relu6(x + 3) / 6` there, one operation here), but each block's
    convolutions and batch norms are."""
    theirs, ours = pairs(name)
    random.seed(1)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for _ in range(3):
            chosen = theirs.sample_active_subnet()
            static = theirs.get_active_subnet().eval()
            network = ours.extract(from_arch_dict({**chosen, "r": 64}, name))
            if name == "ofa_resnet50":
                want = static.max_pooling(nn.Sequential(*static.input_stem)(x))
                want = nn.Sequential(*static.blocks)(want)
                got = network[: list(dict(network.named_children())).index("pool")](x)
            elif name == "ofa_proxyless_w1.3":
                want = nn.Sequential(static.first_conv, *static.blocks, static.feature_mix_layer)(x)
                got = network[: list(dict(network.named_children())).index("pool")](x)
            else:  # relu and no squeeze-excite up to the end of the first stage
                stem = static.first_conv(x)
                depth = len(static.grouped_block_index[0])
                want = nn.Sequential(*static.blocks[: 1 + depth])(stem)
                got = network[1 : 2 + depth](stem)
            assert torch.equal(got, want)


@EVERY
def test_config_and_weights_written_here_are_read_there(
    name: str, pairs: Callable[[str], tuple[nn.Module, SuperNet]], tmp_path: Path
) -> None:
    theirs, ours = pairs(name)
    random.seed(2)
    x = torch.randn(1, 3, 96, 96)
    for i in range(4):
        chosen = theirs.sample_active_subnet()
        static = interop.StaticNetwork(ours.family, from_arch_dict({**chosen, "r": 96}, name))
        network = ours.extract(static.arch).eval()
        config = json.loads(json.dumps(to_config(static)))
        interop.write_weights(tmp_path / f"init{i}", network, *static)
        built = get_net_by_name(config["name"]).build_from_config(copy.deepcopy(config))
        saved = torch.load(tmp_path / f"init{i}", weights_only=True)["state_dict"]
        built.load_state_dict(saved)
        with torch.inference_mode():
            assert close(network(x), built.eval()(x))
        macs, params = profile(built, (1, 3, 96, 96))
        counted = cost(network, (3, 96, 96))
        assert (counted.macs, counted.params) == (macs, params)
        again = interop.read_weights(tmp_path / f"init{i}", *static)
        assert torch.equal(again(x), network(x))


@EVERY
def test_their_config_is_read_here(
    name: str, pairs: Callable[[str], tuple[nn.Module, SuperNet]]
) -> None:
    """Also in the form that current code writes, of blocks called `ResidualBlock`."""
    theirs, _ = pairs(name)
    random.seed(3)
    for _ in range(5):
        chosen = theirs.sample_active_subnet()
        arch = from_arch_dict({**chosen, "r": 160}, name)
        config = theirs.get_active_subnet(preserve_weight=False).config
        read = interop.net_config.from_config(json.loads(json.dumps(config)), 160)
        assert read.arch == arch


@EVERY
def test_supernet_written_here_is_read_there(
    name: str, pairs: Callable[[str], tuple[nn.Module, SuperNet]], tmp_path: Path
) -> None:
    theirs, ours = pairs(name)
    interop.write_supernet(tmp_path / "net", ours)
    fresh = THEIRS[name]()
    fresh.load_state_dict(torch.load(tmp_path / "net", weights_only=True)["state_dict"])
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], tensor), key


@EVERY
def test_arch_dictionaries_choose_the_same_network(name: str) -> None:
    theirs = THEIRS[name]()
    space = families.get(name).space
    rng = np.random.default_rng(4)
    for _ in range(10):
        arch = space.random(rng)
        theirs.set_active_subnet(**to_arch_dict(arch))
        config = theirs.get_active_subnet(preserve_weight=False).config
        read = interop.net_config.from_config(json.loads(json.dumps(config)), arch.resolution)
        assert read.arch == arch


@EVERY
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_channels_are_sorted_in_the_same_order(name: str, stage: int, tmp_path: Path) -> None:
    """At stages 1 and 2 `ofa` keeps bands apart by subtracting up to 2e5 from the importances,
    which rounds them to 1/64; here they are not rounded. So the weights are scaled to have
    importances that are whole numbers apart, and then the order must be the same."""
    theirs = THEIRS[name]()
    randomise(theirs, seed=5)
    sorting = ("point_linear.conv.conv.weight", "fc.expand.weight", "conv2.conv.conv.weight")
    for key, tensor in theirs.state_dict().items():
        if key.endswith((*sorting, "conv3.conv.conv.weight")):
            importance = 4.0 * (1 + torch.randperm(tensor.shape[1]))
            tensor.mul_((importance / tensor.abs().sum((0, 2, 3))).view(1, -1, 1, 1))
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "before")
    ours = interop.read_supernet(tmp_path / "before")
    theirs.re_organize_middle_weights(expand_ratio_stage=stage)
    assert isinstance(ours, SuperNet)
    ours.sort_channels(expand=stage + 1)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "after")
    sorted_there = interop.read_supernet(tmp_path / "after").state_dict()
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, sorted_there[key]), key


@EVERY
def test_batch_norm_statistics(
    name: str, pairs: Callable[[str], tuple[nn.Module, SuperNet]]
) -> None:
    theirs, ours = pairs(name)
    random.seed(6)
    chosen = theirs.sample_active_subnet()
    static = theirs.get_active_subnet().eval()
    network = ours.extract(from_arch_dict({**chosen, "r": 64}, name))
    batches = [torch.randn(n, 3, 64, 64) for n in (8, 8, 5)]
    set_running_statistics(static, [(batch, None) for batch in batches])
    calibrate(network, batches, "batch-mean")
    want = [m for m in static.modules() if isinstance(m, nn.BatchNorm2d)]
    got = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for theirs_norm, ours_norm in zip(want, got, strict=True):
        for statistic in ("running_mean", "running_var"):
            a, b = getattr(ours_norm, statistic), getattr(theirs_norm, statistic)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.data
def test_macs_and_parameters_of_all_published_networks(data_dir: Path) -> None:
    """Their code, on the config they published, counts what ours does; also of the five networks
    whose published MACs are not the nearest million. (Its sum is in float32, which would round.)"""
    configs = sorted((data_dir / "specialized").glob("*/net.config"))
    assert len(configs) == 50
    for path in configs:
        config = json.loads(path.read_text())
        theirs = get_net_by_name(config["name"]).build_from_config(config)
        described = interop.read_network(path)
        size = described.arch.resolution
        with torch.device("meta"):
            network = described.build()
        counted = cost(network, (3, size, size))
        _, params = profile(theirs, (1, 3, size, size))  # leaves its counts in the layers
        macs = sum(int(m.total_ops) for m in theirs.modules() if hasattr(m, "total_ops"))
        assert (counted.macs, counted.params) == (macs, params), path
