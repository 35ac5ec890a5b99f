"""The authors' and MMRazor's files: read, written, and refused by name."""

import copy
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from onceforall import families, interop
from onceforall.costs import cost
from onceforall.errors import InputError
from onceforall.families.fixed import Fixed
from onceforall.families.layers import MBConv
from onceforall.interop import mmrazor, zoo
from onceforall.interop.arch_dict import from_arch_dict, to_arch_dict
from onceforall.interop.net_config import from_config, to_config
from onceforall.interop.tensors import read_tensors, write_tensors
from onceforall.space import Arch, Block
from onceforall.supernet import SuperNet, load_network, save_network

NOTE8 = "note8_lat-22ms_top1-70.4_finetune-25"


def conv(in_channels: int, out_channels: int, kernel: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "name": "ConvLayer",
        "kernel_size": kernel,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "act_func": "relu6",
        **changes,
    }


def block(in_channels: int, out_channels: int, **changes: Any) -> dict[str, Any]:
    inner = {
        "name": "MBInvertedConvLayer",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": 3,
        "stride": 1,
        "expand_ratio": 3,
        **changes,
    }
    same = in_channels == out_channels and inner["stride"] == 1
    identity = {"name": "IdentityLayer", "in_channels": [in_channels], "out_channels": in_channels}
    return {
        "name": "MobileInvertedResidualBlock",
        "mobile_inverted_conv": inner,
        "shortcut": identity if same else None,
    }


def small_config() -> dict[str, Any]:
    """An old ProxylessNAS config, as short as can be, of widths that belong to no supernet."""
    placeholder = {
        "name": "MobileInvertedResidualBlock",
        "mobile_inverted_conv": {"name": "ZeroLayer", "stride": 1},
        "shortcut": {"name": "IdentityLayer", "in_channels": 10, "out_channels": 10},
    }
    return {
        "name": "ProxylessNASNets",
        "bn": {"momentum": 0.1, "eps": 0.001},
        "first_conv": conv(3, 16, 3, stride=2),
        "blocks": [
            block(16, 10, expand_ratio=1),
            placeholder,
            block(10, 10, kernel_size=5),
            block(10, 12, stride=2, mid_channels=28),
        ],
        "feature_mix_layer": conv(12, 20),
        "classifier": {"name": "LinearLayer", "in_features": 20, "out_features": 6},
    }


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return network.eval()


# --- net.config


def test_a_config_of_no_family_is_built_as_it_says() -> None:
    read = from_config(small_config(), 64)
    assert isinstance(read.family, Fixed)
    assert str(read.arch) == "fixed@64/10:3x1/10:5x3/12:3x3"
    network = read.build()
    assert list(dict(network.named_children())) == [
        "stem",
        "block0",
        "block2",
        "block3",
        "feature_mix",
        "pool",
        "flatten",
        "classifier",
    ]
    assert network.block2.depthwise.conv.out_channels == 30  # not rounded: no mid_channels given
    assert network.block2.shortcut
    assert network.block3.depthwise.conv.out_channels == 28
    assert {m.eps for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    assert isinstance(network.stem.act, torch.nn.ReLU6)
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 6)


def test_a_config_written_again_keeps_its_block_numbers() -> None:
    written = to_config(from_config(small_config(), 64))
    kinds = [b["mobile_inverted_conv"]["name"] for b in written["blocks"]]
    real = "MBInvertedConvLayer"
    assert kinds == [real, "ZeroLayer", real, real]
    assert from_config(written, 64) == from_config(small_config(), 64)


def test_networks_of_the_families_are_recognised() -> None:
    rng = np.random.default_rng(0)
    for name in interop.OFFICIAL:
        family = families.get(name, classes=10, dropout=0.2)
        for _ in range(5):
            arch = family.space.random(rng)
            read = from_config(to_config(interop.StaticNetwork(family, arch)), arch.resolution)
            assert read == interop.StaticNetwork(family, arch)


def test_a_resolution_beyond_the_supernets() -> None:
    entry = zoo.get("note10_lat-64ms_top1-80.2_finetune-75")
    described = zoo.network(entry)
    assert described.arch.resolution == 260
    assert from_config(to_config(described), 260).arch == described.arch


def test_one_layer_apart_is_another_network() -> None:
    arch = families.get("ofa_mbv3_w1.0").space.smallest()
    described = interop.StaticNetwork(families.get("ofa_mbv3_w1.0"), arch)
    config = to_config(described)
    config["blocks"][3]["mobile_inverted_conv"]["mid_channels"] += 8
    read = from_config(config, 128)
    assert read.family.name == "fixed"
    changed = [at for at in dict(read.family.layers).values() if at.make is MBConv][3]
    assert dict(changed.settings)["hidden"] == 40 * 0 + 24 * 3 + 8


def test_the_family_of_small_images_can_be_said_too() -> None:
    family = families.get("mbv3_mini")
    described = interop.StaticNetwork(family, family.space.largest())
    config = to_config(described)
    network = from_config(config, 28).build()
    with torch.device("meta"):
        own = described.build()
    shapes = [p.shape for p in own.parameters()]
    assert [p.shape for p in network.parameters()] == shapes


def at(config: dict[str, Any], path: str) -> tuple[Any, Any]:
    *steps, last = [int(s) if s.isdigit() else s for s in path.split(".")]
    for step in steps:
        config = config[step]  # type: ignore[index]
    return config, last


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("name", "MCUNet", "'MCUNet' is not supported, only MobileNetV3"),
        ("bn.eps", "small", "bn: eps: 'small' is not a number"),
        ("bn.eps", 0, "not above 0"),
        ("bn.ws_eps", 1e-5, "ws_eps: 1e-05 is not supported"),
        ("first_conv.name", "Conv", "first_conv: name: 'Conv' is not supported"),
        ("first_conv.dilation", 2, "dilation: 2 is not supported, only 1"),
        ("first_conv.out_channels", 24, "block0: takes 16 channels, but 24 come to it"),
        ("blocks", {}, "blocks: {} is not a list"),
        ("blocks", [], "feature_mix: takes 12 channels, but 16 come to it"),
        ("blocks.2", [], r"blocks\[2\]: \[\] is not a map"),
        ("blocks.2.mobile_inverted_conv.name", "Magic", r"blocks\[2\].*'Magic' is not supported"),
        ("blocks.2.mobile_inverted_conv.kernel_size", 4, "kernel 4 is not an odd number"),
        ("blocks.2.mobile_inverted_conv.kernel_size", "5", "'5' is not a positive whole number"),
        ("blocks.2.mobile_inverted_conv.act_func", "gelu", "act_func: 'gelu' is not supported"),
        ("blocks.2.mobile_inverted_conv.wings", 2, "unknown field 'wings'"),
        ("blocks.2.mobile_inverted_conv.expand_ratio", None, "expand_ratio"),
        ("blocks.2.mobile_inverted_conv.expand_ratio", 1e9, "not above 0|not a positive"),
        ("blocks.0.mobile_inverted_conv.mid_channels", 24, "24 with expand_ratio 1"),
        ("blocks.3.shortcut", {"name": "IdentityLayer"}, "cannot join 10 channels in and 12 out"),
        ("blocks.2.shortcut.in_channels", [10, 10], "in_channels"),
        ("blocks.2.shortcut.in_channels", [11], "out_channels"),
        ("feature_mix_layer", 3, "feature_mix_layer: 3 is not a map"),
        ("classifier.out_features", True, "True is not a positive whole number"),
        ("classifier.dropout_rate", 1.5, "1.5 is not in"),
        ("extra", 1, "unknown field 'extra'"),
    ],
)
def test_configs_are_refused_by_field(path: str, value: Any, says: str) -> None:
    config = small_config()
    holder, key = at(config, path)
    holder[key] = value
    with pytest.raises(InputError, match=says):
        from_config(config, 64)


@pytest.mark.parametrize("key", ["name", "first_conv", "blocks", "classifier"])
def test_a_missing_field_is_named(key: str) -> None:
    config = small_config()
    del config[key]
    with pytest.raises(InputError, match=f"'{key}' is missing"):
        from_config(config, 64)


def test_a_network_without_feature_mix() -> None:
    config = {**small_config(), "feature_mix_layer": None}
    config["classifier"] = {"name": "LinearLayer", "in_features": 12, "out_features": 6}
    read = from_config(config, 64)
    assert "feature_mix" not in dict(read.build().named_children())
    assert to_config(read)["feature_mix_layer"] is None


def test_a_plain_resnet50_is_read() -> None:
    """A 7x7 stem and strided shortcuts, 25.56M parameters as everywhere."""
    blocks = []
    width = 64
    for out, depth, stride in ((256, 3, 1), (512, 4, 2), (1024, 6, 2), (2048, 3, 2)):
        for i in range(depth):
            blocks.append(
                {
                    "name": "ResNetBottleneckBlock",
                    "in_channels": width,
                    "out_channels": out,
                    "stride": stride if i == 0 else 1,
                    "expand_ratio": 0.25,
                    "downsample_mode": "conv",
                }
            )
            width = out
    config = {
        "name": "ResNets",
        "bn": {"momentum": 0.1, "eps": 1e-5},
        "input_stem": [conv(3, 64, 7, stride=2, act_func="relu")],
        "blocks": blocks,
        "classifier": {"name": "LinearLayer", "in_features": 2048, "out_features": 1000},
    }
    read = from_config(config, 224)
    with torch.device("meta"):
        network = read.build()
    assert cost(network, (3, 224, 224)).params == 25_557_032
    assert from_config(to_config(read), 224) == read


# --- arch dictionaries


def test_arch_dictionaries_go_round() -> None:
    rng = np.random.default_rng(1)
    for name in interop.OFFICIAL:
        space = families.get(name).space
        for _ in range(20):
            arch = space.random(rng)
            data = json.loads(json.dumps(to_arch_dict(arch)))
            assert from_arch_dict(data, name) == arch
    assert from_arch_dict({"ks": 7, "e": 6, "d": 4, "r": 224}, "ofa_mbv3_w1.2") == (
        families.get("ofa_mbv3_w1.2").space.largest()
    )


def test_an_arch_dictionary_by_hand() -> None:
    data = {"ks": [7] * 20, "e": [6] * 20, "d": [2, 3, 4, 2, 2], "r": [160]}
    data["ks"][5], data["e"][6] = 3, 4  # the second stage's second and third block
    arch = from_arch_dict(data, "ofa_mbv3_w1.0")
    assert arch.stages[1] == (Block(7, 6, 40), Block(3, 6, 40), Block(7, 4, 40))
    assert arch.depths == (2, 3, 4, 2, 2)
    resnet = from_arch_dict(
        {"d": [0, 0, 1, 2, 0], "e": [0.2] * 18, "w": [1, 2, 0, 0, 1, 2], "image_size": 176}
    )
    assert resnet.family == "ofa_resnet50"
    assert resnet.depths == (1, 1, 2, 3, 6, 2)
    assert [s[0].width for s in resnet.stages] == [24, 64, 168, 336, 816, 2048]
    for first in ([0, 2], [1, 2]):  # the two widths of 24 are one
        data = {"d": 0, "e": 0.2, "w": [*first, 0, 0, 1, 2], "r": 176}
        assert from_arch_dict(data) == resnet.of_stages(
            "ofa_resnet50", 176, from_arch_dict(data).stages
        )
    a, b = ({"d": 0, "e": 0.2, "w": [i, 2, 0, 0, 1, 2], "r": 176} for i in (0, 1))
    assert from_arch_dict(a) == from_arch_dict(b)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ks": [3] * 19}, "19 entries"),
        ({"e": [3] * 21}, "21 entries"),
        ({"d": [2, 2, 2, 2]}, r"d: 4 entries, 5 were expected"),
        ({"d": [2, 2, 7, 2, 2]}, r"d\[2\]: 7 is not one of 2, 3, 4"),
        ({"d": [2, 2, "2", 2, 2]}, r"d\[2\]: '2' is not one of"),
        ({"ks": [9] * 20}, r"ks\[0\]: 9 is not one of 3, 5, 7"),
        ({"e": [True] * 20}, r"e\[0\]: True is not one of 3, 4, 6"),
        ({"r": 0}, "r: 0 is not a positive whole number"),
        ({"r": None}, "resolution is missing"),
        ({"x": 1}, "unknown field 'x'"),
        ({"family": "vgg"}, "'vgg' is not one of"),
    ],
)
def test_arch_dictionaries_are_refused_by_key(change: dict[str, Any], says: str) -> None:
    data = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 160, "family": "ofa_mbv3_w1.0"}
    with pytest.raises(InputError, match=says):
        from_arch_dict({**data, **change})


def test_an_arch_dictionary_that_fits_two_families_is_refused() -> None:
    with pytest.raises(InputError, match="family: not given"):
        from_arch_dict({"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 160})


# --- MMRazor


def test_mmrazor_subnets_go_round() -> None:
    rng = np.random.default_rng(2)
    space = families.get(mmrazor.FAMILY, resolutions=mmrazor.RESOLUTIONS).space
    for _ in range(30):
        arch = space.random(rng)
        text = mmrazor.to_yaml(mmrazor.to_subnet(arch))
        subnet = mmrazor.from_subnet(yaml.safe_load(text))
        assert subnet.arch == arch
        assert mmrazor.to_yaml(subnet) == text


def test_equal_squeeze_excite_widths_from_unequal_ratios() -> None:
    """24 channels in: 72 hidden, 72 // 4 = 18, which rounds to 24; as 24 * 4 // 4 does."""
    arch = zoo.get(NOTE8).arch
    assert arch is not None
    choices = mmrazor.to_subnet(arch).choices
    data = {key: {"chosen": value} for key, value in choices.items()}
    assert choices["backbone.layers.3.0.expand_ratio"] == 3
    data["backbone.layers.3.0.expand_ratio_se"] = {"chosen": 4}
    subnet = mmrazor.from_subnet(data)
    assert subnet.arch == arch
    assert subnet.choices["backbone.layers.3.0.expand_ratio_se"] == 4  # kept for writing
    data["backbone.layers.6.0.expand_ratio_se"] = {"chosen": 3}
    with pytest.raises(InputError, match=r"6\.0\.expand_ratio_se: 3 gives 88 .* have 168"):
        mmrazor.from_subnet(data)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("backbone.layers.4.1.expand_ratio", 5, r"4\.1\.expand_ratio: 5; .* only 3, 4, 6"),
        ("backbone.layers.4.out_channels", 72, r"4\.out_channels: 72; .* only 80"),
        ("backbone.layers.4.depth", 7, r"4\.depth: 7; .* only 2, 3, 4"),
        ("backbone.layers.4.depth", None, r"4\.depth: None"),
        ("backbone.layers.1.depth", 2, r"1\.depth: 2"),
        ("backbone.last_channels", 1024, "last_channels: 1024"),
        ("backbone.first_channels", 24, "first_channels: 24"),
        ("input_shape", [140, 152], "only square input"),
        ("input_shape", 140, r"140 is not \[height, width\]"),
        ("backbone.layers.7.depth", 1, r"'backbone.layers.7.depth' is unknown"),
    ],
)
def test_mmrazor_subnets_are_refused_by_key(key: str, value: Any, says: str) -> None:
    arch = families.get(mmrazor.FAMILY, resolutions=mmrazor.RESOLUTIONS).space.largest()
    data = {k: {"chosen": v} for k, v in mmrazor.to_subnet(arch).choices.items()}
    data[key] = {"chosen": value}
    with pytest.raises(InputError, match=says):
        mmrazor.from_subnet(data)


def test_mmrazor_missing_stale_and_malformed_keys() -> None:
    arch = families.get(mmrazor.FAMILY, resolutions=mmrazor.RESOLUTIONS).space.smallest()
    data = {k: {"chosen": v} for k, v in mmrazor.to_subnet(arch).choices.items()}
    stale = {**data, "backbone.layers.2.0.expand_ratio_se": {"chosen": 5}}
    assert mmrazor.from_subnet(stale).arch == arch
    inactive = {k: v for k, v in data.items() if k != "backbone.layers.5.3.kernel_size"}
    with pytest.raises(InputError, match=r"'backbone.layers.5.3.kernel_size' is missing"):
        mmrazor.from_subnet(inactive)
    with pytest.raises(InputError, match="is not of the form"):
        mmrazor.from_subnet({**data, "backbone.layers.2.depth": 2})
    # Inactive choices may be what the authors' networks cannot be.
    assert (
        mmrazor.from_subnet({**data, "backbone.layers.4.3.expand_ratio": {"chosen": 5}}).arch
        == arch
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ofa_mbv3_w1.2:largest", "ofa_mbv3_w1.2 has no MMRazor form"),
        ("ofa_mbv3_w1.0:160", "160 is not in MMRazor's list"),
    ],
)
def test_what_mmrazor_cannot_have(text: str, says: str) -> None:
    name, which = text.split(":")
    arch = families.get(name).space.largest()
    if which.isdigit():
        arch = Arch.of_stages(name, int(which), arch.stages)
    with pytest.raises(InputError, match=says):
        mmrazor.to_subnet(arch)


# --- weights


@pytest.fixture(scope="module")
def supernet() -> SuperNet:
    """w1.0 with four classes, every tensor random."""
    net = SuperNet(families.get("ofa_mbv3_w1.0", classes=4))
    randomised(net)
    return net


@pytest.mark.parametrize("form", ["official", "mmrazor"])
def test_supernet_weights_go_round(form: str, supernet: SuperNet, tmp_path: Path) -> None:
    interop.write_supernet(tmp_path / "net", supernet, form)
    again = interop.read_supernet(tmp_path / "net")
    assert again.family.name == "ofa_mbv3_w1.0"
    assert again.family.classes == 4
    for key, tensor in supernet.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_mmrazor_names(supernet: SuperNet, tmp_path: Path) -> None:
    """As its own converter of the authors' files names them."""
    interop.write_supernet(tmp_path / "net", supernet, "mmrazor")
    keys = set(read_tensors(tmp_path / "net"))
    assert {
        "architecture.backbone.first_conv.conv.weight",
        "architecture.backbone.layer1.0.depthwise_conv.conv.weight",
        "architecture.backbone.layer2.0.expand_conv.conv.weight",
        "architecture.backbone.layer2.3.depthwise_conv.conv.trans_matrix_7to5",
        "architecture.backbone.layer3.1.se.conv1.conv.bias",
        "architecture.backbone.layer6.3.linear_conv.bn.running_var",
        "architecture.backbone.last_conv.final_expand_layer.bn.weight",
        "architecture.backbone.last_conv.feature_mix_layer.conv.weight",
        "architecture.head.fc.bias",
    } <= keys
    assert not any("blocks" in key or "se.fc" in key for key in keys)


@pytest.mark.parametrize("form", ["official", "mmrazor"])
def test_network_weights_go_round(form: str, supernet: SuperNet, tmp_path: Path) -> None:
    arch = supernet.space.random(np.random.default_rng(3))
    network = supernet.extract(arch)
    interop.write_weights(tmp_path / "init", network, supernet.family, arch, form)
    again = interop.read_weights(tmp_path / "init", supernet.family, arch)
    assert not again.training
    for key, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_a_supernets_file_gives_its_subnetworks(supernet: SuperNet, tmp_path: Path) -> None:
    interop.write_supernet(tmp_path / "net", supernet)
    arch = supernet.space.smallest()
    got = interop.read_weights(tmp_path / "net", supernet.family, arch).state_dict()
    for key, tensor in supernet.extract(arch).state_dict().items():
        assert torch.equal(got[key], tensor), key


def test_a_fixed_network_through_every_format_that_holds_it(tmp_path: Path) -> None:
    described = from_config(small_config(), 64)
    network = randomised(described.build())
    x = torch.randn(1, 3, 64, 64)
    interop.write_weights(tmp_path / "init", network, *described)
    keys = set(read_tensors(tmp_path / "init"))
    prefix = "blocks.2.mobile_inverted_conv.inverted_bottleneck.conv.weight"
    assert prefix in keys  # its number in the config, where block 1 is a placeholder
    assert not any(key.startswith("blocks.1.") for key in keys)
    read = interop.read_weights(tmp_path / "init", *described)
    save_network(tmp_path / "own.safetensors", read, *described, {})
    own, arch, _ = load_network(tmp_path / "own.safetensors")
    assert arch == described.arch
    interop.write_network(
        tmp_path / "folder", interop.read_network(tmp_path / "own.safetensors"), "official"
    )
    back = interop.read_network(tmp_path / "folder")
    assert back == described
    last = interop.read_weights(tmp_path / "own.safetensors", *back)
    for key, tensor in network.state_dict().items():
        assert torch.equal(own.state_dict()[key], tensor), key
        assert torch.equal(last.state_dict()[key], tensor), key
    torch.testing.assert_close(last(x), network(x))
    with pytest.raises(InputError, match="fixed has no MMRazor form"):
        interop.write_weights(tmp_path / "mm", network, *described, "mmrazor")


def _renamed(tensors: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {k.replace(old, new): v for k, v in tensors.items()}


def _without(key: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: {k: v for k, v in tensors.items() if k != key}


WEIGHT = "blocks.2.mobile_inverted_conv.depth_conv.conv.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without(WEIGHT), f"'{WEIGHT}' is missing"),
        (_without("classifier.linear.bias"), "'classifier.linear.bias' is missing"),
        (lambda t: {**t, "extra.weight": torch.zeros(1)}, "'extra.weight' is unknown"),
        (lambda t: {**t, WEIGHT: torch.zeros(30, 1, 3, 3)}, r"\(30, 1, 3, 3\) given, .*5, 5"),
        (lambda t: {**t, WEIGHT: t[WEIGHT] * float("nan")}, "not finite"),
        (lambda t: {**t, WEIGHT: 3.0}, "is not a tensor"),
        (lambda t: {**t, WEIGHT: t[WEIGHT].to(torch.int32)}, "int32"),
        (lambda t: {k: v for k, v in t.items() if "blocks.3." not in k}, "'blocks.3.*missing"),
        (lambda t: {}, "holds no tensors"),
    ],
)
def test_every_key_must_be_right(
    change: Callable[[dict[str, torch.Tensor]], Any], says: str, tmp_path: Path
) -> None:
    described = from_config(small_config(), 64)
    interop.write_weights(tmp_path / "init", described.build(), *described)
    tensors = read_tensors(tmp_path / "init")
    torch.save({"state_dict": change(tensors)}, tmp_path / "changed")
    with pytest.raises(InputError, match=says) as error:
        interop.read_weights(tmp_path / "changed", *described)
    assert str(tmp_path / "changed") in str(error.value)


def test_both_spellings_of_blocks(tmp_path: Path) -> None:
    described = from_config(small_config(), 64)
    network = randomised(described.build())
    interop.write_weights(tmp_path / "init", network, *described)
    tensors = read_tensors(tmp_path / "init")
    write_tensors(tmp_path / "new", _renamed(tensors, "mobile_inverted_conv", "conv"))
    read = interop.read_weights(tmp_path / "new", *described)
    for key, tensor in network.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor)


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_does_not(zipped: bool, tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "weights.pth"
    if zipped:
        torch.save({"state_dict": {"a": Evil(ran)}}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": {"a": Evil(ran)}}, protocol=2))
    with pytest.raises(InputError, match="refused") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert not ran.exists()


def test_a_pickle_of_another_protocol_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(pickle.dumps({"a": Evil(tmp_path / "ran")}, protocol=4))
    with pytest.raises(InputError, match="refused"):
        read_tensors(tmp_path / "weights")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_weights(legacy: bool, tmp_path: Path) -> None:
    described = from_config(small_config(), 64)
    whole = tmp_path / "whole"
    torch.save(
        {"state_dict": described.build().state_dict()},
        whole,
        _use_new_zipfile_serialization=not legacy,
    )
    data = whole.read_bytes()
    cut = tmp_path / "cut"
    for size in (0, 1, 2, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(InputError, match="cut") as error:
            interop.read_weights(cut, *described)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),  # four bytes that would be summed for hours
        torch.zeros(2).to(torch.float8_e4m3fn),
        torch.zeros(2, dtype=torch.complex64),
        torch.ones(2, 2).to_sparse(),
        torch.empty(2, device="meta"),
    ],
    ids=["expanded", "float8", "complex", "sparse", "meta"],
)
def test_tensors_that_no_network_has(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": tensor}}, tmp_path / "weights")
    with pytest.raises(InputError, match="weights: key 'a': is not an ordinary tensor"):
        read_tensors(tmp_path / "weights")


def test_what_holds_no_weights(tmp_path: Path) -> None:
    described = from_config(small_config(), 64)
    torch.save({"state_dict": {}}, tmp_path / "none")
    (tmp_path / "text").write_text("weights")
    (tmp_path / "short").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("readme", "not by PyTorch")
    for name, says in (
        ("none", "holds no tensors"),
        ("text", "neither PyTorch wrote it nor is it safetensors"),
        ("short", "neither PyTorch wrote it nor is it safetensors"),
        ("folder", "is a folder"),
        ("archive", "not a weights file"),
        ("absent", "no such"),
    ):
        for read in (lambda p: interop.read_weights(p, *described), interop.read_supernet):
            with pytest.raises(InputError, match=f"{name}: .*{says}") as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)


def test_flipped_bits(tmp_path: Path) -> None:
    """Of an archive every flipped bit of a tensor is seen; PyTorch alone would load it."""
    described = from_config(small_config(), 64)
    interop.write_weights(tmp_path / "init", described.build(), *described)
    data = bytearray((tmp_path / "init").read_bytes())
    with zipfile.ZipFile(tmp_path / "init") as archive:
        stored = max(archive.infolist(), key=lambda i: i.file_size)
        place = stored.header_offset + 200
    data[place] ^= 0x10
    (tmp_path / "flipped").write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        interop.read_weights(tmp_path / "flipped", *described)


def test_weights_of_another_supernet(tmp_path: Path) -> None:
    net = SuperNet(families.get("ofa_proxyless_w1.3", classes=3))
    interop.write_supernet(tmp_path / "net", net)
    assert interop.read_supernet(tmp_path / "net").family.name == "ofa_proxyless_w1.3"
    with pytest.raises(InputError, match=r"given|missing|unknown"):
        interop.read_supernet(tmp_path / "net", families.get("ofa_mbv3_w1.0", classes=3))


# --- files


def test_every_kind_of_file_is_recognised_by_content(tmp_path: Path) -> None:
    arch = zoo.get(NOTE8).arch
    assert arch is not None
    described = interop.from_text(str(arch))
    for form in interop.FORMATS:
        (written, *_) = interop.write_network(tmp_path / f"{form}.json", described, form)
        assert interop.read_network(written) == described, form
    (tmp_path / "text").write_text(f"{arch}\n")
    assert interop.read_network(tmp_path / "text") == described
    folder = interop.write_network(tmp_path / "folder", described, "official")
    assert [p.name for p in folder] == ["net.config", "run.config"]
    assert interop.read_network(tmp_path / "folder") == described
    assert interop.read_network(tmp_path / "folder", resolution=192).arch.resolution == 192
    with pytest.raises(InputError, match="exists already"):
        interop.write_network(tmp_path / "folder", described, "official")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "{}",
        "null",
        "just words",
        "a: [",
        "{'a': 1",
        '{"e": 1, "d": 2, "ks": 3}',
        "\0",
    ],
)
def test_other_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        interop.read_network(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# --- real files


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    text = json.dumps(small_config())
    (tmp_path / "net.config").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert interop.read_network(tmp_path / "net.config", 64) == from_config(small_config(), 64)
    (tmp_path / "net.config").write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="not text in UTF-8"):
        interop.read_network(tmp_path / "net.config", 64)


@pytest.mark.parametrize("how", ["folder", "dangling link"])
def test_a_run_config_that_cannot_be_read_is_not_passed_over(how: str, tmp_path: Path) -> None:
    """Else the network would be one of 224 pixels, whatever it was trained for."""
    (tmp_path / "net.config").write_text(json.dumps(small_config()))
    assert interop.read_network(tmp_path).arch.resolution == 224
    if how == "folder":
        (tmp_path / "run.config").mkdir()
    else:
        (tmp_path / "run.config").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match=r"run\.config: "):
        interop.read_network(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"family": "no", "resolution": 28, "stages": [[{"kernel": 3, "expand": 2, "width": 8}]]}',
        "nonesuch@28/8:3x2",
        "mbv3_mini@28/nonsense",
        '{"stages": ' + "9" * 5000 + "}",
        '{"name": "MobileNetV3", "resolution": 1000001, "blocks": []}',
        " \n",
    ],
)
def test_an_error_names_its_file_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "arch"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        interop.read_network(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).count(str(path)) == 1


@pytest.mark.data
def test_all_published_configs(data_dir: Path) -> None:
    """Each is an arch of a family, the zoo's, and is written back as it was."""
    configs = sorted((data_dir / "specialized").glob("*/net.config"))
    assert len(configs) == 50
    for path in configs:
        described = interop.read_network(path)
        assert described.arch == zoo.get(path.parent.name).arch
        assert to_config(described) == json.loads(path.read_text()), path.parent.name


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "resolution", "params"),
    [
        ("proxyless_gpu.config", 224, 7_119_848),
        ("proxyless_cpu.config", 224, 4_361_648),
        ("proxyless_mobile.config", 224, 4_080_512),
        ("proxyless_mobile_14.config", 224, 6_857_568),
        ("proxyless-w0.3-r176_imagenet.json", 176, 754_280),
    ],
)
def test_proxylessnas_networks(file: str, resolution: int, params: int, data_dir: Path) -> None:
    described = interop.read_network(data_dir / "proxyless" / file)
    assert described.arch.resolution == resolution
    with torch.device("meta"):
        network = described.build()
    assert cost(network, (3, resolution, resolution)).params == params
    again = from_config(to_config(described), resolution)
    assert again == described


@pytest.mark.data
def test_mmrazors_note8(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "mmrazor" / "OFA_SUBNET_NOTE8_LAT22.yaml"
    described = interop.read_network(path)
    assert described.arch == zoo.get(NOTE8).arch
    interop.rewrite_subnet(path, described, tmp_path / "again.yaml")
    want = yaml.safe_load(path.read_text())
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == want
    with torch.device("meta"):
        counted = cost(described.build(), (3, 140, 140))
    assert round(counted.flops / 1e6, 2) == 70.88
    assert round(counted.macs / 1e6, 1) == 67.2
    assert round(counted.params / 1e6, 2) == 4.30


@pytest.mark.data
@pytest.mark.slow
def test_real_weights_say_the_same_as_the_authors_code(data_dir: Path, tmp_path: Path) -> None:
    """To the image, over the 1000 images, and after every format that can hold the network."""
    networks = pytest.importorskip("ofa.imagenet_classification.networks")
    from PIL import Image
    from torchvision import transforms as T

    folder = data_dir / "proxyless"
    config = folder / "proxyless-w0.3-r176_imagenet.json"
    described = interop.read_network(config)
    network = interop.read_weights(config.with_suffix(".pth"), *described)
    theirs = networks.ProxylessNASNets.build_from_config(
        copy.deepcopy(json.loads(config.read_text()))
    )
    theirs.load_state_dict(torch.load(config.with_suffix(".pth"), weights_only=True)["state_dict"])
    theirs.eval()
    save_network(tmp_path / "own", network, *described, {})
    interop.write_network(tmp_path / "official", described, "official")
    interop.write_weights(
        tmp_path / "official" / "init", load_network(tmp_path / "own")[0], *described
    )
    again = interop.read_weights(
        tmp_path / "official" / "init", *interop.read_network(tmp_path / "official")
    )
    prepare = T.Compose(
        [T.Resize(201), T.CenterCrop(176), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]
    )
    files = sorted((data_dir / "imagenet_samples" / "val").glob("*/*"))
    assert len(files) == 1000
    hits = {"theirs": 0, "ours": 0, "again": 0}
    five = {"theirs": 0, "ours": 0}
    with torch.inference_mode():
        for start in range(0, 1000, 50):
            images = torch.stack(
                [prepare(Image.open(f).convert("RGB")) for f in files[start : start + 50]]
            )
            labels = torch.arange(start, start + 50)
            wanted, got = theirs(images), network(images)
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)
            assert torch.equal(got.argsort(1)[:, -5:], wanted.argsort(1)[:, -5:])
            hits["theirs"] += int((wanted.argmax(1) == labels).sum())
            hits["ours"] += int((got.argmax(1) == labels).sum())
            hits["again"] += int((again(images).argmax(1) == labels).sum())
            for name, logits in (("theirs", wanted), ("ours", got)):
                five[name] += int((logits.topk(5).indices == labels[:, None]).any(1).sum())
    assert hits["ours"] == hits["again"] == hits["theirs"]
    assert five["ours"] == five["theirs"]
    assert 590 <= hits["ours"] <= 630  # about 61%, training images
