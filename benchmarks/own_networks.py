"""The network of a library for an arch, by the library's own constructor: what a network that was
extracted must be equal to. Nothing here asks the family that the arch is of.

`OWN` has them by the family's name: (genes of the arch, classes) -> network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import timm
import torchvision
from timm.layers import Mlp, get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn
from torchvision.models import mobilenetv3, regnet

from onceforall.families import Family
from onceforall.interop.efficientnet import TIMM
from onceforall.interop.keys import network_names
from onceforall.space import Arch

Genes = Mapping[str, Any]


def each(genes: Genes, kind: str) -> list[Any]:
    """The values of all genes of a kind, in order: `expand3` of `depth3.block2.expand3`."""
    return [value for name, value in genes.items() if name.rpartition(".")[2] == kind]


def mobilenetv3_timm(genes: Genes, classes: int) -> nn.Module:
    ends = ("c24_nre", "c40_se0.25_nre", "c80", "c112_se0.25", "c160_se0.25")
    stages = [["ds_r1_k3_s1_e1_c16_nre"]]
    for s, (end, stride) in enumerate(zip(ends, (2, 2, 2, 1, 2), strict=True), 1):
        pairs = zip(each(genes, f"kernel{s}"), each(genes, f"expand{s}"), strict=True)
        stages.append(
            [f"ir_r1_k{k}_s{1 if i else stride}_e{e}_{end}" for i, (k, e) in enumerate(pairs)]
        )
    return MobileNetV3(
        decode_arch_def([*stages, ["cn_r1_k1_s1_c960"]]),
        num_classes=classes,
        act_layer=get_act_layer("hard_swish"),
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU),
    )


def efficientnet_timm(genes: Genes, classes: int) -> nn.Module:
    ends = ("k3_s2_c24", "k5_s2_c40", "k3_s2_c80", "k5_s1_c112", "k5_s2_c192", "k3_s1_c320")
    stages = [["ds_r1_k3_s1_e1_c16"]]
    for s, end in enumerate(ends, 1):
        names = (end if i == 0 else end.replace("s2", "s1") for i in range(genes[f"depth{s}"]))
        pairs = zip(each(genes, f"expand{s}"), names, strict=True)
        stages.append([f"ir_r1_e{expand}_{name}" for expand, name in pairs])
    return EfficientNet(
        decode_arch_def(stages), num_classes=classes, fix_stem=True, act_layer=nn.ReLU6
    )


def lite0_timm(arch: Arch, classes: int) -> nn.Module:
    """Of our own family, whose archs have stages and whose weights have other names."""
    stages = [["ds_r1_k3_s1_e1_c16"]]
    for blocks, stride in zip(arch.stages, (2, 2, 2, 1, 2, 1), strict=True):
        stages.append(
            [
                f"ir_r1_k{b.kernel}_s{1 if i else stride}_e{b.expand}_c{b.width}"
                for i, b in enumerate(blocks)
            ]
        )
    return EfficientNet(
        decode_arch_def(stages),
        num_classes=classes,
        fix_stem=True,
        pad_type="same",
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    )


def convnext_timm(genes: Genes, classes: int) -> nn.Module:
    return timm.create_model(
        "convnext_atto",
        num_classes=classes,
        depths=[genes[f"depth{s}"] for s in (1, 2, 3, 4)],
        dims=[genes["width"] * times for times in (1, 2, 4, 8)],
        kernel_sizes=each(genes, "kernel"),
        ls_init_value=1.0,
    )


def resnet_timm(genes: Genes, classes: int) -> nn.Module:
    return timm.create_model(
        "resnet50",
        num_classes=classes,
        layers=[genes[f"depth{s}"] for s in (1, 2, 3, 4)],
        channels=[genes[f"width{s}"] for s in (1, 2, 3, 4)],
        base_width=genes["ratio"],
    )


def vit_timm(genes: Genes, classes: int) -> nn.Module:
    """timm's has one MLP ratio for all; a block of another gets another MLP."""
    heads = genes["heads"]
    network = timm.create_model(
        "deit_base_patch16_224",
        num_classes=classes,
        img_size=genes["resolution"],
        embed_dim=64 * heads,
        depth=genes["depth"],
        num_heads=heads,
    )
    for block, ratio in zip(network.blocks, each(genes, "mlp"), strict=True):
        block.mlp = Mlp(64 * heads, int(64 * heads * ratio), act_layer=nn.GELU)
    return network


def resnet_torchvision(genes: Genes, classes: int) -> nn.Module:
    depths = [genes[f"depth{s}"] for s in (1, 2, 3, 4)]
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(
        block, depths, num_classes=classes, width_per_group=genes["ratio"]
    )


LARGE = (  # MobileNetV3-Large (Howard et al., ICCV 2019, table 1): in, kernel, hidden, out, SE, ...
    (16, 3, 16, 16, False, "RE", 1),
    (16, 3, 64, 24, False, "RE", 2),
    (24, 3, 72, 24, False, "RE", 1),
    (24, 5, 72, 40, True, "RE", 2),
    (40, 5, 120, 40, True, "RE", 1),
    (40, 5, 120, 40, True, "RE", 1),
    (40, 3, 240, 80, False, "HS", 2),
    (80, 3, 200, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 480, 112, True, "HS", 1),
    (112, 3, 672, 112, True, "HS", 1),
    (112, 5, 672, 160, True, "HS", 2),
    (160, 5, 960, 160, True, "HS", 1),
    (160, 5, 960, 160, True, "HS", 1),
)


def mobilenetv3_torchvision(genes: Genes, classes: int) -> nn.Module:
    shares, kernels = iter([1, *each(genes, "hidden")]), iter(each(genes, "kernel"))
    rows = []
    for width_in, kernel, hidden, width, *rest in LARGE:
        size = next(kernels) if kernel == 5 else kernel
        row = (width_in, size, hidden * next(shares), width, *rest, 1, 1.0)
        rows.append(mobilenetv3.InvertedResidualConfig(*row))
    return torchvision.models.MobileNetV3(rows, last_channel=1280, num_classes=classes)


def regnet_torchvision(genes: Genes, classes: int) -> nn.Module:
    depths, widths = ([genes[f"{n}{s}"] for s in (1, 2, 3, 4)] for n in ("depth", "width"))
    shape = regnet.BlockParams(depths, widths, [8] * 4, [1.0] * 4, [2] * 4, se_ratio=0.25)
    return regnet._regnet(shape, None, False, num_classes=classes)


def swin_torchvision(genes: Genes, classes: int) -> nn.Module:
    return torchvision.models.swin_transformer._swin_transformer(
        patch_size=[4, 4],
        embed_dim=96,
        depths=[genes[f"depth{s}"] for s in (1, 2, 3, 4)],
        num_heads=[3, 6, 12, 24],
        window_size=[7, 7],
        stochastic_depth_prob=0.0,
        weights=None,
        progress=False,
        mlp_ratio=genes["mlp"],
        num_classes=classes,
    )


def vit_torchvision(genes: Genes, classes: int) -> nn.Module:
    width = 64 * genes["heads"]
    return torchvision.models.VisionTransformer(
        genes["resolution"],
        16,
        genes["depth"],
        genes["heads"],
        width,
        width * genes["mlp"],
        num_classes=classes,
    )


OWN: dict[str, Callable[[Genes, int], nn.Module]] = {
    "vit": vit_timm,
    "timm_mobilenetv3": mobilenetv3_timm,
    "timm_efficientnet": efficientnet_timm,
    "timm_convnext": convnext_timm,
    "timm_resnet": resnet_timm,
    "torchvision_resnet": resnet_torchvision,
    "torchvision_mobilenetv3": mobilenetv3_torchvision,
    "torchvision_regnet": regnet_torchvision,
    "torchvision_swin": swin_torchvision,
    "torchvision_vit": vit_torchvision,
}


def own_network(family: Family, arch: Arch, extracted: nn.Module) -> nn.Module | None:
    """The library's network for an arch, with the weights of the one that was extracted; None
    where no library has such networks."""
    weights = extracted.state_dict()
    if family.name == "efficientnet_lite0":
        network = lite0_timm(arch, family.classes)
        names = network_names(family, arch, TIMM)
        weights = {theirs: weights[ours] for ours, theirs in names.items()}
    elif family.name in OWN:
        network = OWN[family.name](arch.genes, family.classes)
    else:
        return None
    network.load_state_dict(weights)  # strict: the same names, all of them, of the same shapes
    return network.train(extracted.training)
