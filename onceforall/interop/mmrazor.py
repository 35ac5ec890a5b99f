"""MMRazor's sub-network YAML for its once-for-all MobileNetV3, read and written.

The file is a flat map `key: {chosen: value}` with choices for every block, also for those
beyond a stage's depth; an arch has only the blocks that are there. `Subnet` keeps the
whole map, so that what was read can be written back as it was.

MMRazor's space is wider than the authors': expand 5, narrower outputs, a squeeze-excite
width of its own (`expand_ratio_se`), input that is not square. What the authors' networks
cannot be is refused, with the key. Knows no files and no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from onceforall import families
from onceforall.errors import InputError, choices
from onceforall.families.layers import make_divisible
from onceforall.interop.fields import shown, whole
from onceforall.space import Arch, Block

FAMILY = "ofa_mbv3_w1.0"
RESOLUTIONS = (128, 140, 144, 152, 192, 204, 224, 256)  # MMRazor's, pixels
FIRST, LAST = 16, 1280  # channels of the stem and of the feature mix
STAGES = range(2, 7)  # its numbers of the elastic stages; stage 1 is the fixed block
SE_STAGES = (3, 5, 6)
BLOCKS = range(4)


@dataclass(frozen=True)
class Subnet:
    """An arch and all that its file chose: `choices` has values of inactive blocks too."""

    arch: Arch
    choices: dict[str, Any]


def is_subnet(data: Any) -> bool:
    """Whether a parsed YAML looks like a sub-network."""
    return isinstance(data, dict) and any(str(key).startswith("backbone.") for key in data)


def parse_yaml(text: str, where: str) -> Any:
    """Plain data of a YAML text.

    Raises:
        InputError: it is not YAML, or would make objects.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{where}: not YAML: {line[:120]}") from None


def from_subnet(data: Any, where: str = "sub-network") -> Subnet:
    """The sub-network that a parsed YAML describes.

    Raises:
        InputError: names the key that is missing, unknown, or that the authors' networks cannot
            have, and why.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: {shown(data)} is not a map of choices")
    chosen = {}
    for key, value in data.items():
        if not isinstance(value, dict) or list(value) != ["chosen"]:
            raise InputError(
                f"{where}: {shown(key)}: {shown(value)} is not of the form {{chosen: value}}"
            )
        chosen[str(key)] = value["chosen"]
    for key in _keys():
        if key not in chosen:
            raise InputError(f"{where}: key {key!r} is missing")
    known = {*_keys(), *_stale()}
    for key in chosen:
        if key not in known:
            raise InputError(f"{where}: key {key!r} is unknown")
    return Subnet(_arch(chosen, where), chosen)


def to_subnet(arch: Arch) -> Subnet:
    """The choices that MMRazor needs for an arch; blocks that are not there get the smallest.

    Raises:
        InputError: MMRazor has no such network: another family or resolution.
    """
    if arch.family != FAMILY:
        raise InputError(f"arch: family: {arch.family} has no MMRazor form, only {FAMILY}")
    if arch.resolution not in RESOLUTIONS:
        raise InputError(
            f"arch: resolution: {arch.resolution} is not in MMRazor's list; it has"
            f" {choices(RESOLUTIONS)}"
        )
    families.get(FAMILY).space.check(arch, resolution=False)
    chosen: dict[str, Any] = {
        "backbone.first_channels": FIRST,
        "backbone.last_channels": LAST,
        "backbone.layers.1.0.expand_ratio": 1,
        "backbone.layers.1.0.kernel_size": 3,
        "backbone.layers.1.depth": 1,
        "backbone.layers.1.out_channels": FIRST,
        "input_shape": [arch.resolution, arch.resolution],
    }
    for s, blocks in zip(STAGES, arch.stages, strict=True):
        at = f"backbone.layers.{s}"
        chosen[f"{at}.depth"] = len(blocks)
        chosen[f"{at}.out_channels"] = blocks[0].width
        for k in BLOCKS:
            block = blocks[k] if k < len(blocks) else Block(3, 3, blocks[0].width)
            chosen[f"{at}.{k}.kernel_size"] = block.kernel
            chosen[f"{at}.{k}.expand_ratio"] = block.expand
            if s in SE_STAGES:
                chosen[f"{at}.{k}.expand_ratio_se"] = block.expand
    return Subnet(arch, chosen)


def to_yaml(subnet: Subnet) -> str:
    """The text of the file, keys sorted as MMRazor sorts them."""
    data = {key: {"chosen": value} for key, value in subnet.choices.items()}
    return yaml.safe_dump(data, sort_keys=True, default_flow_style=False)


def _keys() -> list[str]:
    """What a file must have."""
    keys = ["backbone.first_channels", "backbone.last_channels", "input_shape"]
    for s in (1, *STAGES):
        at = f"backbone.layers.{s}"
        keys += [f"{at}.depth", f"{at}.out_channels"]
        for k in BLOCKS if s > 1 else (0,):
            keys += [f"{at}.{k}.kernel_size", f"{at}.{k}.expand_ratio"]
            if s in SE_STAGES:
                keys.append(f"{at}.{k}.expand_ratio_se")
    return keys


def _stale() -> list[str]:
    """What a file may have: MMRazor's loader ignores it too."""
    plain = [s for s in (1, *STAGES) if s not in SE_STAGES]
    return [f"backbone.layers.{s}.{k}.expand_ratio_se" for s in plain for k in BLOCKS]


def _arch(chosen: dict[str, Any], where: str) -> Arch:
    def is_(key: str, *allowed: Any, why: str = "the authors' networks have only") -> Any:
        value = chosen[key]
        for known in allowed:
            if value == known and not isinstance(value, bool):
                return known
        raise InputError(f"{where}: {key}: {shown(value)}; {why} {choices(allowed)}")

    is_("backbone.first_channels", FIRST)
    is_("backbone.last_channels", LAST)
    for name, value in (("0.expand_ratio", 1), ("0.kernel_size", 3), ("depth", 1)):
        is_(f"backbone.layers.1.{name}", value)
    is_("backbone.layers.1.out_channels", FIRST)
    stages = []
    width_in = FIRST
    for s, stage in zip(STAGES, families.get(FAMILY).space.stages, strict=True):
        at = f"backbone.layers.{s}"
        width = is_(f"{at}.out_channels", *stage.width)
        depth = is_(f"{at}.depth", *stage.depth)
        blocks = []
        for k in range(depth):
            kernel = is_(f"{at}.{k}.kernel_size", *stage.kernel)
            expand = is_(f"{at}.{k}.expand_ratio", *stage.expand)
            if s in SE_STAGES:
                _check_se(chosen[f"{at}.{k}.expand_ratio_se"], expand, width_in, at, k, where)
            blocks.append(Block(kernel, expand, width))
            width_in = width
        stages.append(tuple(blocks))
    return Arch.of_stages(FAMILY, _resolution(chosen["input_shape"], where), tuple(stages))


def _check_se(ratio: Any, expand: float, width_in: int, at: str, k: int, where: str) -> None:
    """The squeeze-excite's inner width follows from `expand` in the authors' networks; MMRazor
    chooses it by a ratio of its own. Different ratios can give one width."""
    key = f"{at}.{k}.expand_ratio_se"
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 100:
        raise InputError(f"{where}: {key}: {shown(ratio)} is not a ratio")
    theirs = make_divisible(width_in * ratio // 4)
    official = make_divisible(make_divisible(round(width_in * expand)) // 4)
    if theirs != official:
        raise InputError(
            f"{where}: {key}: {shown(ratio)} gives {theirs} inner squeeze-excite channels; the"
            f" authors' networks have {official} at expand_ratio {expand:g}"
        )


def _resolution(shape: Any, where: str) -> int:
    if not isinstance(shape, list) or len(shape) != 2:
        raise InputError(f"{where}: input_shape: {shown(shape)} is not [height, width]")
    height, width = (whole(n, f"{where}: input_shape") for n in shape)
    if height != width:
        raise InputError(f"{where}: input_shape: {shown(shape)}; only square input is supported")
    return height
