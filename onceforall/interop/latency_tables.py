"""Latency look-up tables that others published, as exact `Table`s.

The Note10 tables are those of the Once-for-All authors, `mobile_trim.yaml` is the ProxylessNAS
authors' Pixel 1 table, the block CSV that of the Ultra96 measurements. Which layers a network has,
its family says; this file knows how the tables name them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onceforall import files
from onceforall.errors import InputError, choices
from onceforall.space import Place, ResolutionError, Space, Stage, Table

if TYPE_CHECKING:
    from onceforall.families.layers import Layer

Shape = tuple[int, ...]  # (C, H, W) that enters a layer, or (features,)
Values = Mapping[str, float]

NOTE10_FAMILY, ULTRA96_FAMILY = "ofa_mbv3_w1.2", "ofa_mbv3_w1.2"
PIXEL1_FAMILY = "proxylessnas"
_SUFFIX = "_lookup_table.yaml"


def read_table(path: Path, space: Space | None = None) -> Table:
    """A published look-up table: a folder of Note10 tables or one of them, `mobile_trim.yaml`, the
    CSV of Ultra96 blocks, or a table of our own (.json); for `space`, a part of its own.

    Raises:
        InputError: the file is none of these, or has no value for a block, a layer or a resolution
            of the space.
    """
    if path.suffix == ".json":
        table = Table.load(path)
    elif path.suffix == ".csv":
        table = ultra96(path, space)
    elif path.is_dir() or path.name.endswith(_SUFFIX):
        table = note10(path, space)
    else:
        _check_family(path, space, PIXEL1_FAMILY)
        table = pixel1(path)
    return table if space is None else table.restrict(space)


def note10(path: Path, space: Space | None = None) -> Table:
    """Latency on a Samsung Note10, ms: the sum of the means of all layers. `path` is a folder of
    `<resolution>_lookup_table.yaml`, or one such file."""
    _check_family(path, space, NOTE10_FAMILY)
    folder, there = path, {}
    if path.is_dir():
        for file in path.glob("*" + _SUFFIX):
            if (size := file.name.removesuffix(_SUFFIX)).isdigit():
                there[int(size)] = file
        if not there:
            raise InputError(f"{path}: has no file <resolution>{_SUFFIX}")
    else:
        folder = path.parent
        size = path.name.removesuffix(_SUFFIX)
        if not size.isdigit():
            raise InputError(f"{path}: its name does not begin with a resolution, as 160{_SUFFIX}")
        there = {int(size): path}
    resolutions = sorted(there) if space is None else space.resolution
    missing = [r for r in resolutions if r not in there]
    if missing:
        raise ResolutionError(
            f"{folder}: has no table for {missing[0]} px, a resolution that is asked for; there are"
            f" {choices(sorted(there))}",
            sorted(there),
        )
    values = {r: _means(there[r]) for r in resolutions}

    def key(layer: Layer, shape: Shape) -> str:
        s = dict(layer.settings)
        if layer.make.__name__ == "MBConv":
            return _mobile_key(s, shape)
        width = s.get("out_channels")
        if layer.make.__name__ == "ConvNormAct":
            name = {3: "Conv", 1: "Conv_1"}[s.get("kernel", 1)]
            if not s.get("norm", True):
                name = "Conv_2"
            out = math.ceil(shape[1] / s.get("stride", 1))
            return f"{name}-input:{_hwc(shape)}-output:{out}x{out}x{width}"
        if layer.make.__name__ == "AdaptiveAvgPool2d":
            return f"AvgPool2D-input:{_hwc(shape)}-output:1x1x{shape[0]}"
        return f"Logits-input:1x1x{s['in_features']}-output:{s['out_features']}"

    return _of_layers(
        path, NOTE10_FAMILY, tuple(resolutions), key, lambda r: values[r], "note10_ms"
    )


def _check_family(path: Path, space: Space | None, family: str) -> None:
    if space is not None and space.family != family:
        raise InputError(f"{path}: is for {family}, not for {space.family}")


def ultra96(path: Path, space: Space | None = None) -> Table:
    """Int8 latency on a Xilinx Ultra96, ms, at 224 px: the sum of the means of all layers. The
    pooling was not measured and counts nothing."""
    _check_family(path, space, ULTRA96_FAMILY)
    values = {}
    reader = csv.DictReader(io.StringIO(files.read_text(path)))
    if reader.fieldnames is None or not {"block", "mean_ms"} <= set(reader.fieldnames):
        raise InputError(f"{path}: not a table of blocks: it has no columns block and mean_ms")
    for row in reader:
        values[row["block"]] = _positive(row["mean_ms"], f"{path} line {reader.line_num}: mean_ms")

    def key(layer: Layer, shape: Shape) -> str | None:
        s = dict(layer.settings)
        entering = "x".join(str(n) for n in shape)
        if layer.make.__name__ == "MBConv":
            return (
                f"ResidualBlock-in_{entering}-out_{s['out_channels']}-k_{s['kernel']}"
                f"-e_{s['expand']:g}-s_{s.get('stride', 1)}-act_{s['act']}"
                f"-use_se_{s.get('se', False)}"
            )
        if layer.make.__name__ == "ConvNormAct":
            if s.get("stride", 1) == 2:  # the stem; the file calls its activation relu
                return f"Conv_in-{entering}_out-{s['out_channels']}_k-{s['kernel']}_act-relu"
            name = f"Conv_in-{entering}_out-{s['out_channels']}_k-1_act-{s['act']}"
            return name if name in values else f"{name}_shape"
        if layer.make.__name__ == "Linear":
            return f"Linear_in-{s['in_features']}_out-{s['out_features']}"
        return None

    if space is not None and space.resolution != (224,):
        raise ResolutionError(f"{path}: was measured at 224 px only", (224,))
    return _of_layers(path, ULTRA96_FAMILY, (224,), key, lambda r: values, "ultra96_ms")


def pixel1(path: Path) -> Table:
    """Latency on a Pixel 1, ms, at 224 px, of the ProxylessNAS space: five stages of one to four
    blocks and a last block."""
    values = _means(path)
    stages = [(24, 112, 2), (40, 56, 2), (80, 28, 2), (96, 14, 1), (192, 14, 2), (320, 7, 1)]
    space = Space.of_stages(
        PIXEL1_FAMILY,
        (224,),
        tuple(
            Stage((1,) if width == 320 else (1, 2, 3, 4), (3, 5, 7), (3, 6), (width,))
            for width, _, _ in stages
        ),
    )

    def look(name: str) -> float:
        if name not in values:
            raise InputError(f"{path}: has no {name!r}")
        return values[name]

    def block(place: Place) -> float:
        width, size, stride = stages[place.stage]
        first = place.position == 0
        entering = (place.width_in or 16) if first else width
        size, stride = (size, stride) if first else (math.ceil(size / stride), 1)
        out = math.ceil(size / stride)
        skip = int(stride == 1 and entering == width)
        return look(
            f"expanded_conv-input:{size}x{size}x{entering}-output:{out}x{out}x{width}"
            f"-expand:{place.expand:g}-kernel:{place.kernel}-stride:{stride}-idskip:{skip}"
        )

    rest = (
        "Conv-input:224x224x3-output:112x112x32",
        "expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0",
        "Conv_1-input:7x7x320-output:7x7x1280",
        "Logits-input:7x7x1280-output:1000",
    )
    fixed = sum(look(name) for name in rest)
    return Table.build(space, block, lambda r, w: fixed, name="pixel1_ms", unit="ms")


def _of_layers(
    path: Path,
    family: str,
    resolutions: tuple[int, ...],
    key: Callable[[Layer, Shape], str | None],
    values: Callable[[int], Values],
    name: str,
) -> Table:
    """The table of a family whose layers are looked up by their keys."""
    from onceforall import families
    from onceforall.costs import layer_table

    made = families.get(family)
    tables = []
    for resolution in resolutions:
        known = values(resolution)

        def value(layer: Layer, shape: Shape, known: Values = known, at: int = resolution) -> float:
            if layer.make.__name__ in ("Flatten", "Dropout"):
                return 0.0
            wanted = key(layer, shape)
            if wanted is None:
                return 0.0
            if wanted not in known:
                raise InputError(f"{path}: has no {wanted!r} for {at} px")
            return known[wanted]

        tables.append(layer_table(made, value, "sum", (resolution,), name, "ms"))
    arrays = [
        np.concatenate([factor.values for factor in same])
        for same in zip(*(table.factors for table in tables), strict=True)
    ]
    space = made.space.at(tuple(resolutions))
    return Table.of_blocks(space, arrays, "sum", name, "ms")


def _hwc(shape: Shape) -> str:
    return f"{shape[1]}x{shape[2]}x{shape[0]}"


def _mobile_key(s: Mapping[str, Any], shape: Shape) -> str:
    from onceforall.families.layers import make_divisible

    stride, width = s.get("stride", 1), s["out_channels"]
    out = int((shape[1] - 1) / stride + 1)
    hidden = make_divisible(round(shape[0] * s["expand"]))
    skip = int(stride == 1 and width == shape[0])
    return (
        f"expanded_conv-input:{_hwc(shape)}-output:{out}x{out}x{width}-expand:{hidden}"
        f"-kernel:{s['kernel']}-stride:{stride}-idskip:{skip}-se:{int(s.get('se', False))}"
        f"-hs:{int(s['act'] == 'h_swish')}"
    )


def _means(path: Path) -> Values:
    """The `mean` of every key of a YAML table, ms."""
    import yaml

    try:
        data = yaml.load(files.read_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict) or not data:
        raise InputError(f"{path}: not a look-up table: a map of layers was expected")
    values = {}
    for name, entry in data.items():
        if not isinstance(entry, dict) or "mean" not in entry:
            raise InputError(f"{path}: {name!r} has no 'mean'")
        values[str(name)] = _positive(entry["mean"], f"{path}: {name}: mean")
    return values


def _positive(value: object, where: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(f"{where}: {value!r} is not a number of milliseconds")
    return number
