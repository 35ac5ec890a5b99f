"""The authors' `net.config` (JSON) of a static network, read and written.

A config lists layers with their sizes. Those that describe a network of one of our
families become that family's arch: the two are compared layer by layer. All others
become a `fixed` family, which has exactly the config's layers. Field names and defaults
are those of the `ofa` package. What a config can say but no published network does
(dilation, dropout inside the network, ...) is refused by name.

Knows no files and no weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from onceforall import families
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.base import planned
from onceforall.families.fixed import Fixed
from onceforall.families.layers import (
    ACTIVATIONS,
    Bottleneck,
    ConvNormAct,
    ConvNormActPool,
    Layer,
    MBConv,
    ResidualConv,
    layer,
    make_divisible,
)
from onceforall.families.resnet import STEM_STAGES
from onceforall.interop.fields import Fields, items, shown, whole
from onceforall.space import Arch, Block

OFFICIAL = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")
NETWORKS = ("MobileNetV3", "ProxylessNASNets", "ResNets")
CONVS, SKIPS = ("MBInvertedConvLayer", "MBConvLayer"), ("ZeroLayer",)


class StaticNetwork(NamedTuple):
    """A static network as a value: what a file, an id or a name stands for."""

    family: Family
    arch: Arch

    def build(self) -> nn.Module:
        """The network with fresh weights; (N, C, R, R) -> (N, classes)."""
        return self.family.build(self.arch)


# --- reading


def from_config(data: Any, resolution: int, where: str = "net.config") -> StaticNetwork:
    """The network that a config describes, as read from JSON.

    Args:
        resolution: of its input, pixels; a config does not say it.
        where: named in errors.

    Raises:
        InputError: names the field, its value, and what it could be.
    """
    top = Fields(data, where)
    name = top.one_of("name", NETWORKS)
    norm = Fields(top.take("bn", {"momentum": 0.1, "eps": _eps(name)}), f"{where}: bn")
    eps, momentum = norm.number("eps"), norm.number("momentum")
    if eps <= 0:
        raise InputError(f"{norm.where('eps')}: {shown(eps)} is not above 0")
    norm.one_of("ws_eps", (None,), None)  # weight standardisation
    norm.done()
    top.take("resolution", None)
    layers = dict(_resnet(top, where, eps) if name == "ResNets" else _mobile(top, where, eps, name))
    in_channels, classes = _check_chain(layers, where)
    top.done()
    found = _match(layers, in_channels, classes, momentum, resolution)
    if found is not None:
        return found
    rows = [(n, at.make.__name__, dict(at.settings)) for n, at in layers.items()]
    try:
        family = families.get(
            "fixed",
            layers=rows,
            in_channels=in_channels,
            classes=classes,
            momentum=momentum,
            resolutions=[resolution],
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    assert isinstance(family, Fixed)
    return StaticNetwork(family, family.arch)


def _eps(name: str) -> float:
    """What `ofa` takes where a config does not say it."""
    return 1e-3 if name == "ProxylessNASNets" else 1e-5


def _mobile(top: Fields, where: str, eps: float, name: str) -> Iterator[tuple[str, Layer]]:
    yield "stem", _conv(top.take("first_conv"), f"{where}: first_conv", eps)
    for i, block in enumerate(items(top.take("blocks"), f"{where}: blocks")):
        made = _residual(block, f"{where}: blocks[{i}]", eps)
        if made is not None:
            yield f"block{i}", made
    pool = layer(nn.AdaptiveAvgPool2d, output_size=1)
    mix = top.take("feature_mix_layer")
    if name == "MobileNetV3":
        expand = top.take("final_expand_layer")
        yield "final_expand", _conv(expand, f"{where}: final_expand_layer", eps)
        yield "pool", pool
        yield "feature_mix", _conv(mix, f"{where}: feature_mix_layer", eps)
    else:
        if mix is not None:
            yield "feature_mix", _conv(mix, f"{where}: feature_mix_layer", eps)
        yield "pool", pool
    yield from _classifier(top, where)


def _resnet(top: Fields, where: str, eps: float) -> Iterator[tuple[str, Layer]]:
    stem = items(top.take("input_stem"), f"{where}: input_stem")
    for i, data in enumerate(stem):
        at = f"{where}: input_stem[{i}]"
        last = i == len(stem) - 1
        if not last and isinstance(data, dict) and "conv" in data:
            yield f"stem{i}", _residual_conv(data, at, eps)
        else:
            yield f"stem{i}", _conv(data, at, eps, pooled=last)
    for i, data in enumerate(items(top.take("blocks"), f"{where}: blocks")):
        yield f"block{i}", _bottleneck(data, f"{where}: blocks[{i}]", eps)
    yield "pool", layer(nn.AdaptiveAvgPool2d, output_size=1)
    yield from _classifier(top, where)


def _conv(data: Any, where: str, eps: float, pooled: bool = False) -> Layer:
    given = Fields(data, where)
    given.one_of("name", ("ConvLayer",))
    settings: dict[str, Any] = {
        "in_channels": given.whole("in_channels"),
        "out_channels": given.whole("out_channels"),
        "kernel": given.whole("kernel_size", 3),
        "stride": given.whole("stride", 1),
        "act": _act(given, "relu"),
        "eps": eps,
    }
    norm = given.flag("use_bn", True)
    for name, only in (
        ("dilation", 1),
        ("groups", 1),
        ("bias", False),
        ("has_shuffle", False),
        ("use_se", False),
        ("dropout_rate", 0),
        ("ops_order", "weight_bn_act"),
    ):
        given.one_of(name, (only,), only)
    given.done()
    if pooled and not norm:
        raise InputError(f"{where}: use_bn: False is not supported here, only True")
    if pooled:
        return _layer(ConvNormActPool, settings)
    return _layer(ConvNormAct, {**settings, "norm": norm})


def _residual(data: Any, where: str, eps: float) -> Layer | None:
    """An inverted residual block; None where it is a placeholder that passes its input on."""
    given = Fields(data, where)
    given.one_of("name", ("MobileInvertedResidualBlock", "ResidualBlock"), "ResidualBlock")
    key = "conv" if "conv" in given else "mobile_inverted_conv"
    conv, shortcut = given.take(key), given.take("shortcut")
    given.done()
    passes = _is_identity(shortcut, f"{where}: shortcut")
    if conv is None:
        return None
    at = Fields(conv, f"{where}: {key}")
    if at.one_of("name", (*CONVS, *SKIPS)) in SKIPS:
        at.take("stride", 1)
        at.done()
        return None
    width, out = at.whole("in_channels"), at.whole("out_channels")
    stride = at.whole("stride", 1)
    expand = at.take("expand_ratio", 6)
    mid = at.take("mid_channels", None)
    if expand is not None:
        expand = at.number("expand_ratio", 6)
        if not 0 < expand <= 1000:
            raise InputError(f"{at.where('expand_ratio')}: {shown(expand)} is not above 0")
    elif mid is None:
        raise InputError(f"{at.where('expand_ratio')}: neither it nor mid_channels is given")
    hidden = round(width * expand) if mid is None else whole(mid, at.where("mid_channels"))
    if expand == 1 and hidden != width:
        raise InputError(
            f"{at.where('mid_channels')}: {hidden} with expand_ratio 1 and {width} channels in"
        )
    whole(hidden, f"{at.where('expand_ratio')}: hidden channels")
    by_rule = expand is not None and (
        expand == 1 or hidden == make_divisible(round(width * expand))
    )
    fits = stride == 1 and width == out
    if passes and not fits:
        raise InputError(
            f"{where}: shortcut: an identity cannot join {width} channels in and {out} out"
            f" at stride {stride}"
        )
    settings: dict[str, Any] = {
        "in_channels": width,
        "out_channels": out,
        "kernel": at.whole("kernel_size", 3),
        "expand": expand,
        "stride": stride,
        "act": _act(at, "relu6"),
        "se": at.flag("use_se", False),
        "shortcut": passes or not fits,
        "eps": eps,
        "hidden": None if by_rule else hidden,
    }
    at.one_of("groups", (None,), None)
    at.done()
    return _layer(MBConv, settings)


def _residual_conv(data: Any, where: str, eps: float) -> Layer:
    given = Fields(data, where)
    given.one_of("name", ("ResidualBlock",))
    conv, shortcut = given.take("conv"), given.take("shortcut")
    given.done()
    inner = dict(_conv(conv, f"{where}: conv", eps).settings)
    width = inner["in_channels"]
    same = inner["out_channels"] == width and inner.get("stride", 1) == 1
    if not (_is_identity(shortcut, f"{where}: shortcut") and same and inner.get("norm", True)):
        raise InputError(f"{where}: only a convolution that keeps its input's shape is supported")
    settings = {
        "channels": width,
        "kernel": inner["kernel"],
        "act": inner.get("act", "none"),
        "eps": eps,
    }
    return _layer(ResidualConv, settings)


def _bottleneck(data: Any, where: str, eps: float) -> Layer:
    given = Fields(data, where)
    given.one_of("name", ("ResNetBottleneckBlock",))
    width, out = given.whole("in_channels"), given.whole("out_channels")
    expand, mid = given.number("expand_ratio", 0.25), given.take("mid_channels", None)
    if not 0 < expand <= 1000:
        raise InputError(f"{given.where('expand_ratio')}: {shown(expand)} is not above 0")
    rule = make_divisible(round(out * expand))
    hidden = rule if mid is None else make_divisible(whole(mid, given.where("mid_channels")))
    pooled = given.one_of("downsample_mode", ("avgpool_conv", "conv"), "avgpool_conv")
    settings = {
        "in_channels": width,
        "out_channels": out,
        "kernel": given.whole("kernel_size", 3),
        "expand": expand,
        "stride": given.whole("stride", 1),
        "act": _act(given, "relu"),
        "pooled": pooled == "avgpool_conv",
        "eps": eps,
        "hidden": None if hidden == rule else hidden,
    }
    given.one_of("groups", (1,), 1)
    given.done()
    return _layer(Bottleneck, settings)


def _is_identity(data: Any, where: str) -> bool:
    """Whether a shortcut passes its input on; None and a zero layer do not."""
    if data is None:
        return False
    given = Fields(data, where)
    if given.one_of("name", ("IdentityLayer", *SKIPS)) in SKIPS:
        given.take("stride", 1)
        given.done()
        return False
    sizes = [
        _channels(given.take(n, None), given.where(n)) for n in ("in_channels", "out_channels")
    ]
    if sizes[0] != sizes[1]:
        raise InputError(f"{where}: out_channels: {sizes[1]}, but in_channels is {sizes[0]}")
    for name, only in (("use_bn", False), ("act_func", None), ("dropout_rate", 0)):
        given.one_of(name, (only,), only)
    given.take("ops_order", None)
    given.done()
    return True


def _channels(value: Any, where: str) -> int | None:
    """Channels, which older configs give as a list of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return None if value is None else whole(value, where)


def _classifier(top: Fields, where: str) -> Iterator[tuple[str, Layer]]:
    given = Fields(top.take("classifier"), f"{where}: classifier")
    given.one_of("name", ("LinearLayer",))
    features, classes = given.whole("in_features"), given.whole("out_features")
    dropout = given.number("dropout_rate", 0)
    if not 0 <= dropout < 1:
        raise InputError(f"{given.where('dropout_rate')}: {shown(dropout)} is not in [0, 1)")
    given.one_of("bias", (True,), True)
    given.one_of("use_bn", (False,), False)
    given.one_of("act_func", (None,), None)
    given.take("ops_order", None)
    given.done()
    yield "flatten", layer(nn.Flatten)
    if dropout:
        yield "dropout", layer(nn.Dropout, p=dropout)
    yield "classifier", layer(nn.Linear, in_features=features, out_features=classes)


def _act(given: Fields, default: str) -> str:
    name = given.one_of("act_func", (*ACTIVATIONS, None), default)
    return "none" if name is None else name


def _check_chain(layers: dict[str, Layer], where: str) -> tuple[int, int]:
    """That each layer takes what the one before gives; channels of the image, and classes."""
    width: int | None = None
    first = 0
    for name, at in layers.items():
        found = dict(at.settings)
        takes = found.get("in_channels", found.get("channels", found.get("in_features")))
        if takes is None:
            continue  # pooling, flattening, dropout
        if width is not None and takes != width:
            raise InputError(f"{where}: {name}: takes {takes} channels, but {width} come to it")
        first = first or takes
        width = found.get("out_channels", found.get("out_features", takes))
    assert width is not None
    return first, width


# --- which family it is


def _match(
    layers: dict[str, Layer], in_channels: int, classes: int, momentum: float, resolution: int
) -> StaticNetwork | None:
    """The official family's network that has the same layers, if there is one."""
    if momentum != 0.1:
        return None
    settings: dict[str, Any] = {"in_channels": in_channels, "classes": classes}
    if "dropout" in layers:
        settings["dropout"] = dict(layers["dropout"].settings)["p"]
    for name in OFFICIAL:
        family = families.get(name, **settings)
        arch = _arch(family, layers, resolution)
        if arch is not None and [*layers.values()] == [
            canonical(at) for at in planned(family).plan(arch).values()
        ]:
            return StaticNetwork(family, arch)
    return None


def _arch(family: Family, layers: dict[str, Layer], resolution: int) -> Arch | None:
    """The family's arch whose stages have the widths and depths of these blocks."""
    blocks = [dict(at.settings) for name, at in layers.items() if name.startswith("block")]
    stem = [dict(at.settings) for name, at in layers.items() if name.startswith("stem")]
    stages: list[tuple[Block, ...]] = []
    elastic = list(family.space.stages)
    if family.name == "ofa_resnet50":
        widths = [int(found.get("out_channels") or found["channels"]) for found in stem]
        if len(stem) not in (2, 3):
            return None
        stages = [(Block(3, 1, widths[0]),) * (len(stem) - 1), (Block(3, 1, widths[-1]),)]
        elastic = elastic[STEM_STAGES:]
    else:
        blocks = blocks[1:]  # the first is not elastic
    for stage in elastic:
        depth = 0
        while depth < len(blocks) and blocks[depth]["out_channels"] in stage.width:
            depth += 1
        own, blocks = blocks[:depth], blocks[depth:]
        if not own or any(b["expand"] is None for b in own):
            return None
        stages.append(tuple(Block(b["kernel"], b["expand"], b["out_channels"]) for b in own))
    if blocks:
        return None
    try:
        arch = Arch.of_stages(family.name, resolution, tuple(stages))
        family.space.check(arch, resolution=False)
    except InputError:
        return None
    return arch


def _layer(make: type[nn.Module], settings: dict[str, Any]) -> Layer:
    return canonical(layer(make, **settings))


def canonical(at: Layer) -> Layer:
    """The same layer with its settings sorted, and without those that are the default."""
    defaults = _defaults(at.make)
    kept = {k: v for k, v in at.settings if not (k in defaults and defaults[k] == v)}
    return Layer(at.make, tuple(sorted(kept.items())))


@cache
def _defaults(make: Any) -> dict[str, Any]:
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


# --- writing


def to_config(network: StaticNetwork) -> dict[str, Any]:
    """The config of a network, in the published form: `from_config` and `ofa` read it.

    Raises:
        InputError: the network has layers that a config cannot say.
    """
    plan = {name: _full(at) for name, at in planned(network.family).plan(network.arch).items()}
    by_kind = [(at.make, name, dict(at.settings)) for name, at in plan.items()]
    blocks = [found for make, _, found in by_kind if make in (MBConv, Bottleneck)]
    convs = [(n, found) for make, n, found in by_kind if make is ConvNormAct]
    eps = next((found["eps"] for _, _, found in by_kind if "eps" in found), 1e-5)
    momentum = network.family.momentum if isinstance(network.family, Fixed) else 0.1
    config: dict[str, Any] = {"name": "", "bn": {"momentum": momentum, "eps": eps}}
    if not blocks or "classifier" not in plan:
        raise InputError(f"{network.family.name}: has layers that no net.config can say")
    if any(make is Bottleneck for make, _, _ in by_kind):
        config["name"] = "ResNets"
        config["input_stem"] = [
            _residual_conv_config(found) if make is ResidualConv else _conv_config(found)
            for make, _, found in by_kind
            if make in (ConvNormAct, ConvNormActPool, ResidualConv)
        ]
        config["blocks"] = [_bottleneck_config(found) for found in blocks]
    else:
        named = dict(convs)
        if "stem" not in named or not set(named) <= {"stem", "final_expand", "feature_mix"}:
            raise InputError(f"{network.family.name}: has layers that no net.config can say")
        config["name"] = "MobileNetV3" if "final_expand" in named else "ProxylessNASNets"
        config["first_conv"] = _conv_config(named["stem"])
        config["blocks"] = _mobile_blocks(by_kind)
        if "final_expand" in named:
            config["final_expand_layer"] = _conv_config(named["final_expand"])
        mix = named.get("feature_mix")
        config["feature_mix_layer"] = None if mix is None else _conv_config(mix)
    linear = dict(plan["classifier"].settings)
    dropout = dict(plan["dropout"].settings)["p"] if "dropout" in plan else 0
    config["classifier"] = {
        "name": "LinearLayer",
        "in_features": linear["in_features"],
        "out_features": linear["out_features"],
        "bias": True,
        "use_bn": False,
        "act_func": None,
        "dropout_rate": dropout,
        "ops_order": "weight_bn_act",
    }
    again = from_config(config, network.arch.resolution)
    if [canonical(at) for at in planned(again.family).plan(again.arch).values()] != [
        canonical(at) for at in planned(network.family).plan(network.arch).values()
    ]:
        raise InputError(f"{network.family.name}: has layers that no net.config can say")
    return config


def _full(at: Layer) -> Layer:
    """The layer with all its settings, defaults too."""
    return Layer(at.make, tuple({**_defaults(at.make), **dict(at.settings)}.items()))


def _mobile_blocks(by_kind: list[tuple[Any, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The blocks in order; numbers left out by a fixed network's names are placeholders."""
    blocks: list[dict[str, Any]] = []
    for make, name, found in by_kind:
        if make is not MBConv:
            continue
        number = name.removeprefix("block")
        while number.isdigit() and len(blocks) < int(number):
            width = found["in_channels"]
            blocks.append(_block_config({"name": "ZeroLayer", "stride": 1}, width))
        blocks.append(_mobile_block(found))
    return blocks


def _mobile_block(found: dict[str, Any]) -> dict[str, Any]:
    width, out, expand = found["in_channels"], found["out_channels"], found["expand"]
    hidden = found["hidden"]
    if hidden is None and expand != 1:
        hidden = make_divisible(round(width * expand))
    conv = {
        "name": "MBInvertedConvLayer",
        "in_channels": width,
        "out_channels": out,
        "kernel_size": found["kernel"],
        "stride": found["stride"],
        "expand_ratio": expand,
        "mid_channels": hidden,
        "act_func": found["act"],
        "use_se": found["se"],
    }
    joined = found["shortcut"] and found["stride"] == 1 and width == out
    return _block_config(conv, width if joined else None)


def _block_config(conv: dict[str, Any], identity: int | None) -> dict[str, Any]:
    return {
        "name": "MobileInvertedResidualBlock",
        "mobile_inverted_conv": conv,
        "shortcut": None if identity is None else _identity_config(identity),
    }


def _identity_config(width: int) -> dict[str, Any]:
    return {
        "name": "IdentityLayer",
        "in_channels": [width],
        "out_channels": [width],
        "use_bn": False,
        "act_func": None,
        "dropout_rate": 0,
        "ops_order": "weight_bn_act",
    }


def _conv_config(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "ConvLayer",
        "kernel_size": found["kernel"],
        "stride": found["stride"],
        "dilation": 1,
        "groups": 1,
        "bias": False,
        "has_shuffle": False,
        "in_channels": found["in_channels"],
        "out_channels": found["out_channels"],
        "use_bn": found.get("norm", True),
        "act_func": None if found["act"] == "none" else found["act"],
        "dropout_rate": 0,
        "ops_order": "weight_bn_act",
    }


def _residual_conv_config(found: dict[str, Any]) -> dict[str, Any]:
    width = found["channels"]
    same = {**found, "in_channels": width, "out_channels": width, "stride": 1}
    return {
        "name": "ResidualBlock",
        "conv": _conv_config(same),
        "shortcut": _identity_config(width),
    }


def _bottleneck_config(found: dict[str, Any]) -> dict[str, Any]:
    hidden = found["hidden"] or make_divisible(round(found["out_channels"] * found["expand"]))
    return {
        "name": "ResNetBottleneckBlock",
        "in_channels": found["in_channels"],
        "out_channels": found["out_channels"],
        "kernel_size": found["kernel"],
        "stride": found["stride"],
        "expand_ratio": found["expand"],
        "mid_channels": hidden,
        "act_func": found["act"],
        "groups": 1,
        "downsample_mode": "avgpool_conv" if found["pooled"] else "conv",
    }
