"""The authors' arch dictionaries, read and written.

`{"ks": [...], "e": [...], "d": [...], "r": [160]}` for MobileNetV3 and ProxylessNAS: kernel
and expand lists have one entry a block of the largest network, skipped blocks included
(their entries mean nothing), `d` one a stage. `{"d": [...], "e": [...], "w": [...]}` for
ResNet50: `d` counts blocks beyond the least, its first entry being the stem's (2 keeps the
residual convolution); `w` are indices of widths. A single number stands for all entries.

Knows no files.
"""

from __future__ import annotations

from typing import Any

from onceforall import families
from onceforall.errors import InputError, choices
from onceforall.families.layers import make_divisible
from onceforall.families.resnet import BASE_DEPTHS, STEM_STAGES, WIDTH_MULTS
from onceforall.interop.fields import Fields, shown, whole
from onceforall.space import Arch, Block, Space

RESNET = "ofa_resnet50"
BY_BLOCKS = {20: ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2"), 21: ("ofa_proxyless_w1.3",)}
_STEM = [make_divisible(64 * m) for m in WIDTH_MULTS]
_FIRST = [make_divisible(width // 2) for width in _STEM]  # two of the three are equal


def is_arch_dict(data: Any) -> bool:
    """Whether it looks like one."""
    return isinstance(data, dict) and "e" in data and "d" in data and ("ks" in data or "w" in data)


def from_arch_dict(
    data: Any, family: str | None = None, resolution: int | None = None, where: str = "arch"
) -> Arch:
    """The arch that a dictionary describes.

    Args:
        family: its name; not needed where the lists' lengths or a field `family` tell.
        resolution: where the dictionary has none (neither `r` nor `image_size`).

    Raises:
        InputError: names the key, the value and what would be right.
    """
    given = Fields(data, where)
    for ignored in ("wid", "net_id"):
        given.take(ignored, None)
    family = _family(given, family)
    space = families.get(family).space
    size = _resolution(given, resolution)
    stages = _resnet(given, space) if family == RESNET else _mobile(given, space)
    given.done()
    arch = Arch.of_stages(family, size, stages)
    try:
        space.check(arch, resolution=False)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return arch


def to_arch_dict(arch: Arch) -> dict[str, Any]:
    """The dictionary of an official family's arch; blocks that are not there get the smallest
    choices. `ofa`'s `set_active_subnet(**d)` takes it.

    Raises:
        InputError: the arch is of another family.
    """
    if arch.family != RESNET and all(arch.family not in names for names in BY_BLOCKS.values()):
        known = [n for names in BY_BLOCKS.values() for n in names]
        raise InputError(
            f"{arch.family} has no official dictionaries, only {choices([*known, RESNET])}"
        )
    space = families.get(arch.family).space
    space.check(arch, resolution=False)
    skip = STEM_STAGES if arch.family == RESNET else 0
    kernels: list[int] = []
    expands: list[float] = []
    for blocks, stage in list(zip(arch.stages, space.stages, strict=True))[skip:]:
        absent = stage.blocks - len(blocks)
        kernels += [b.kernel for b in blocks] + [stage.kernel[0]] * absent
        expands += [b.expand for b in blocks] + [stage.expand[0]] * absent
    depths = list(arch.depths)
    if arch.family != RESNET:
        return {"ks": kernels, "e": expands, "d": depths, "r": [arch.resolution]}
    extra = [n - base for n, base in zip(depths[skip:], BASE_DEPTHS, strict=True)]
    widths = [blocks[0].width for blocks in arch.stages]
    indices = [_FIRST.index(widths[0]), _STEM.index(widths[1])]
    indices += [s.width.index(w) for s, w in zip(space.stages[skip:], widths[skip:], strict=True)]
    first = 2 if depths[0] == 2 else 0
    return {"d": [first, *extra], "e": expands, "w": indices, "r": [arch.resolution]}


def _family(given: Fields, family: str | None) -> str:
    named = given.take("family", None)
    if family is None and named is not None:
        if not isinstance(named, str):
            raise InputError(f"{given.where('family')}: {shown(named)} is not a name")
        family = named
    known = [*(n for names in BY_BLOCKS.values() for n in names), RESNET]
    if family is None and "w" in given and "ks" not in given:
        return RESNET
    if family is None:
        kernels, expands = given.take("ks"), given.take("e")
        lists = [x for x in (kernels, expands) if isinstance(x, list)]
        fitting = BY_BLOCKS.get(len(lists[0]), ()) if lists else ()
        if len(fitting) == 1:
            return fitting[0]
        if lists and not fitting:
            raise InputError(
                f"{given.where('ks')}: {len(lists[0])} entries; 20 (MobileNetV3) or 21"
                " (ProxylessNAS) were expected"
            )
        raise InputError(f"{given.where('family')}: not given; one of {choices(known)}")
    if family not in known:
        raise InputError(f"{given.where('family')}: {shown(family)} is not one of {choices(known)}")
    return family


def _resolution(given: Fields, resolution: int | None) -> int:
    name = "r" if "r" in given else "image_size"
    value = given.take(name, resolution)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        raise InputError(f"{given.where('r')}: the resolution is missing")
    return whole(value, given.where(name))


def _entries(given: Fields, name: str, n: int) -> list[Any]:
    value = given.take(name)
    if not isinstance(value, list):
        value = [value] * n
    if len(value) != n:
        raise InputError(f"{given.where(name)}: {len(value)} entries, {n} were expected")
    return value


def _choice(value: Any, allowed: tuple[Any, ...], where: str) -> Any:
    for known in allowed:
        if value == known and not isinstance(value, bool):
            return known
    raise InputError(f"{where}: {shown(value)} is not one of {choices(allowed)}")


def _mobile(given: Fields, space: Space) -> tuple[tuple[Block, ...], ...]:
    n = sum(stage.blocks for stage in space.stages)
    kernels, expands = _entries(given, "ks", n), _entries(given, "e", n)
    depths = _entries(given, "d", len(space.stages))
    stages, first = [], 0
    for s, stage in enumerate(space.stages):
        where = given.where(f"d[{s}]")
        if stage.depth == (1,):
            _choice(depths[s], (1, *space.stages[0].depth), where)
            depth = 1  # the last stage of ProxylessNAS; `ofa` cuts its depth to 1 too
        else:
            depth = _choice(depths[s], stage.depth, where)
        blocks = []
        for b in range(first, first + depth):
            kernel = _choice(kernels[b], stage.kernel, given.where(f"ks[{b}]"))
            expand = _choice(expands[b], stage.expand, given.where(f"e[{b}]"))
            blocks.append(Block(kernel, expand, stage.width[0]))
        stages.append(tuple(blocks))
        first += stage.blocks
    return tuple(stages)


def _resnet(given: Fields, space: Space) -> tuple[tuple[Block, ...], ...]:
    elastic = space.stages[STEM_STAGES:]
    expands = _entries(given, "e", sum(stage.blocks for stage in elastic))
    depths = _entries(given, "d", 1 + len(elastic))
    indices = [
        _choice(w, tuple(range(len(WIDTH_MULTS))), given.where(f"w[{i}]"))
        for i, w in enumerate(_entries(given, "w", len(space.stages)))
    ]
    extra = [_choice(d, (0, 1, 2), given.where(f"d[{i}]")) for i, d in enumerate(depths)]
    stages = [
        (Block(3, 1, _FIRST[indices[0]]),) * (2 if extra[0] == 2 else 1),
        (Block(3, 1, _STEM[indices[1]]),),
    ]
    first = 0
    for s, stage in enumerate(elastic):
        width = stage.width[indices[STEM_STAGES + s]]
        blocks = []
        for b in range(first, first + BASE_DEPTHS[s] + extra[1 + s]):
            expand = _choice(expands[b], stage.expand, given.where(f"e[{b}]"))
            blocks.append(Block(3, expand, width))
        stages.append(tuple(blocks))
        first += stage.blocks
    return tuple(stages)
