"""Networks of timm and torchvision as families: builders that nobody there wrote for it.

Each function is all that is needed: which choices there are, and how the library's own
constructor takes them. `FAMILIES` has them by name, with the network of the library that the
largest of the family is (None: it has a shape of its own).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torchvision
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torchvision.models import mobilenetv3, regnet

from onceforall.families.elastic import Elastic, elastic, per_block


def stages(depths: list[tuple[int, ...]], **each: tuple[float, ...]) -> dict[str, Any]:
    """Choices `depth1`, `depth2`, ... of stages and, of each block in stage 1, `kernel1`, ..."""
    choices: dict[str, Any] = {f"depth{s}": depth for s, depth in enumerate(depths, 1)}
    for s, depth in enumerate(depths, 1):
        for name, values in each.items():
            choices[f"{name}{s}"] = per_block(values, max(depth), within=f"depth{s}")
    return choices


def listed(values: dict[str, Any], name: str) -> list[Any]:
    """The choices `depth1`, `depth2`, ... of an arch as one list."""
    return [v for k, v in sorted(values.items()) if k.removeprefix(name).isdigit()]


def timm_mobilenetv3(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """Kernel size and expand ratio of each block, two to four blocks a stage."""
    tails = ["c24_nre", "c40_se0.25_nre", "c80", "c112_se0.25", "c160_se0.25"]

    def build(classes: int = 1000, **values: Any) -> nn.Module:
        definition = [["ds_r1_k3_s1_e1_c16_nre"]]
        rows = zip(listed(values, "kernel"), listed(values, "expand"), tails, strict=True)
        for s, (kernels, expands, tail) in enumerate(rows):
            strides = [1 if s == 3 else 2] + [1] * (len(kernels) - 1)
            blocks = zip(kernels, strides, expands, strict=True)
            definition.append([f"ir_r1_k{k}_s{t}_e{e}_{tail}" for k, t, e in blocks])
        return MobileNetV3(
            decode_arch_def([*definition, ["cn_r1_k1_s1_c960"]]),
            num_classes=classes,
            act_layer=nn.Hardswish,
            se_layer=partial(SqueezeExcite, gate_layer=nn.Hardsigmoid, force_act_layer=nn.ReLU),
        )

    choices = stages([(2, 3, 4)] * 5, kernel=(3, 5, 7), expand=(3, 4, 6))
    return elastic(build, name="timm_mobilenetv3", resolution=resolution, **choices)


def timm_efficientnet(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """EfficientNet-Lite0 as timm has it: expand ratio of each block, blocks of each stage."""
    ends = ["k3_s2_c24", "k5_s2_c40", "k3_s2_c80", "k5_s1_c112", "k5_s2_c192", "k3_s1_c320"]

    def build(classes: int = 1000, **values: Any) -> nn.Module:
        definition = [["ds_r1_k3_s1_e1_c16"]]
        for end, expands in zip(ends, listed(values, "expand"), strict=True):
            names = [end] + [end.replace("_s2", "_s1")] * (len(expands) - 1)
            definition.append([f"ir_r1_e{e}_{n}" for e, n in zip(expands, names, strict=True)])
        return EfficientNet(
            decode_arch_def(definition), num_classes=classes, fix_stem=True, act_layer=nn.ReLU6
        )

    depths: list[tuple[int, ...]] = [(1, 2), (1, 2), (2, 3), (2, 3), (3, 4), (1,)]
    choices = stages(depths, expand=(3, 4, 6))
    return elastic(build, name="timm_efficientnet", resolution=resolution, **choices)


def timm_convnext(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """ConvNeXt-Atto: blocks and kernel size of each stage, width of all."""

    def build(width: int, kernel: tuple[int, ...], classes: int = 1000, **values: Any) -> nn.Module:
        return ConvNeXt(
            num_classes=classes,
            depths=tuple(listed(values, "depth")),
            dims=(width, 2 * width, 4 * width, 8 * width),
            kernel_sizes=kernel,
            conv_mlp=True,
            ls_init_value=0.5,  # so that blocks count from the start
        )

    choices = stages([(1, 2), (1, 2), (2, 4, 6), (1, 2)])
    choices |= {"width": (24, 32, 40), "kernel": per_block((3, 5, 7), 4)}
    return elastic(build, name="timm_convnext", resolution=resolution, **choices)


def timm_resnet(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """ResNet50: blocks and width of each stage, ratio of all bottlenecks."""

    def build(ratio: int, classes: int = 1000, **values: Any) -> nn.Module:
        return ResNet(
            Bottleneck,
            listed(values, "depth"),
            num_classes=classes,
            base_width=ratio,  # 64ths of a stage's width
            channels=tuple(listed(values, "width")),
            zero_init_last=False,  # so that blocks count from the start
        )

    choices = stages([(2, 3), (2, 3, 4), (3, 4, 6), (2, 3)])
    choices |= {f"width{s}": (48 * 2 ** (s - 1), 64 * 2 ** (s - 1)) for s in (1, 2, 3, 4)}
    return elastic(build, name="timm_resnet", resolution=resolution, ratio=(32, 48, 64), **choices)


def torchvision_resnet(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """ResNet50: blocks of each stage, ratio of all bottlenecks."""

    def build(ratio: int, classes: int = 1000, **values: Any) -> nn.Module:
        block, depths = torchvision.models.resnet.Bottleneck, listed(values, "depth")
        return torchvision.models.ResNet(block, depths, classes, width_per_group=ratio)

    choices = stages([(2, 3), (2, 3, 4), (3, 4, 6), (2, 3)])
    name = "torchvision_resnet"
    return elastic(build, name=name, resolution=resolution, ratio=(32, 48, 64), **choices)


def torchvision_mobilenetv3(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """MobileNetV3-Large: hidden channels of all blocks but the first, kernel size where it is 5.

    Its blocks are numbered through, so that none can be left out without renaming all others."""

    def build(hidden: tuple[float, ...], kernel: tuple[int, ...], classes: int = 1000) -> nn.Module:
        rows, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_large")
        for row, share in zip(rows[1:], hidden, strict=True):
            row.expanded_channels = row.adjust_channels(row.expanded_channels, share)
        for row, size in zip([r for r in rows if r.kernel == 5], kernel, strict=True):
            row.kernel = size
        return torchvision.models.MobileNetV3(rows, last, classes, dropout=0.0)

    return elastic(
        build,
        name="torchvision_mobilenetv3",
        resolution=resolution,
        hidden=per_block((0.5, 0.75, 1), 14),
        kernel=per_block((3, 5), 6),
    )


def torchvision_regnet(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """RegNetY-400MF: blocks and width of each stage, and so the groups of its convolutions."""

    def build(classes: int = 1000, **values: Any) -> nn.Module:
        blocks = regnet.BlockParams(
            depths=listed(values, "depth"),
            widths=listed(values, "width"),
            group_widths=[8] * 4,
            bottleneck_multipliers=[1.0] * 4,
            strides=[2] * 4,
            se_ratio=0.25,
        )
        norm = partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1)
        return torchvision.models.RegNet(blocks, classes, norm_layer=norm)

    choices = stages([(1,), (1, 2, 3), (3, 4, 5, 6), (3, 4, 5, 6)])
    widths = [(32, 48), (72, 104), (144, 176, 208), (320, 440)]
    choices |= {f"width{s}": width for s, width in enumerate(widths, 1)}
    return elastic(build, name="torchvision_regnet", resolution=resolution, **choices)


def torchvision_swin(resolution: tuple[int, ...] = (160, 192, 224)) -> Elastic:
    """Swin-T: blocks of each stage, MLP ratio of all."""

    def build(mlp: float, classes: int = 1000, **values: Any) -> nn.Module:
        return torchvision.models.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=96,
            depths=listed(values, "depth"),
            num_heads=[3, 6, 12, 24],
            window_size=[7, 7],
            mlp_ratio=mlp,
            stochastic_depth_prob=0.0,
            num_classes=classes,
        )

    choices = stages([(1, 2), (1, 2), (2, 4, 6), (1, 2)])
    return elastic(build, name="torchvision_swin", resolution=resolution, mlp=(2, 3, 4), **choices)


def torchvision_vit(resolution: int = 224) -> Elastic:
    """A vision transformer on `nn.MultiheadAttention`: heads of 64, blocks, MLP ratio."""

    def build(heads: int, depth: int, mlp: float, classes: int = 1000) -> nn.Module:
        return torchvision.models.VisionTransformer(
            image_size=resolution,
            patch_size=16,
            num_layers=depth,
            num_heads=heads,
            hidden_dim=64 * heads,
            mlp_dim=int(64 * heads * mlp),
            num_classes=classes,
        )

    return elastic(
        build,
        name="torchvision_vit",
        resolution=(resolution,),
        heads=(2, 3, 4),
        depth=(4, 6, 8),
        mlp=(2, 3, 4),
    )


FAMILIES: dict[str, tuple[Callable[..., Elastic], Callable[[], nn.Module] | None]] = {
    "timm_mobilenetv3": (timm_mobilenetv3, None),
    "timm_efficientnet": (timm_efficientnet, lambda: timm.create_model("efficientnet_lite0")),
    "timm_convnext": (timm_convnext, lambda: timm.create_model("convnext_atto")),
    "timm_resnet": (timm_resnet, lambda: timm.create_model("resnet50")),
    "torchvision_resnet": (torchvision_resnet, torchvision.models.resnet50),
    "torchvision_mobilenetv3": (
        torchvision_mobilenetv3,
        torchvision.models.mobilenet_v3_large,
    ),
    "torchvision_regnet": (torchvision_regnet, torchvision.models.regnet_y_400mf),
    "torchvision_swin": (torchvision_swin, torchvision.models.swin_t),
    "torchvision_vit": (torchvision_vit, None),
}
