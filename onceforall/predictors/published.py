"""What others published: latency look-up tables, and the authors' accuracy predictors.

Tables become additive models (`tables.Table`), exact and searchable as such. The accuracy
predictors are small multi-layer perceptrons on one-hot codes, evaluated in numpy. Formats: the
Note10 tables and the perceptrons are those of the Once-for-All authors, `mobile_trim.yaml` is
the ProxylessNAS authors' Pixel 1 table, the block CSV that of the Ultra96 measurements.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall import files
from onceforall.errors import InputError, choices
from onceforall.predictors.base import Prediction, Predictor
from onceforall.space import Place, Population, ResolutionError, Space, Stage, Table, Value
from onceforall.space.stages import block_gene, stage_gene

if TYPE_CHECKING:
    from onceforall.families.layers import Layer

Shape = tuple[int, ...]  # (C, H, W) that enters a layer, or (features,)
Values = Mapping[str, float]

NOTE10_FAMILY, ULTRA96_FAMILY = "ofa_mbv3_w1.2", "ofa_mbv3_w1.2"
PIXEL1_FAMILY = "proxylessnas"
_SUFFIX = "_lookup_table.yaml"


class Additive(Predictor):
    """A look-up table in the form of a predictor; `table` is exact and has no uncertainty."""

    kind: ClassVar[str] = "table"

    def __init__(self, table: Table) -> None:
        self.table = table
        self.space, self.metric, self.unit, self.report = table.space, table.name, table.unit, None

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        self.check_covariates(covariates)
        return Prediction(self.table(population), None, np.zeros(len(population), bool))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {"table": self.table.to_dict()}, {}

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        return cls(Table.from_dict(data["table"]).restrict(space))


# --- look-up tables


def read_table(path: Path, space: Space | None = None) -> Additive:
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
    return Additive(table if space is None else table.restrict(space))


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


# --- the authors' accuracy predictors


class Perceptron(Predictor):
    """An accuracy predictor of the Once-for-All authors; top-1 in percent, no uncertainty."""

    kind: ClassVar[str] = "perceptron"

    def __init__(self, space: Space, layers: list[tuple[NDArray[np.float32], Any]]) -> None:
        """`layers` are weights (out, in) and biases (out,); ReLU between them."""
        self.space, self.metric, self.unit, self.report = space, "top1", "%", None
        self.layers = layers
        inputs = layers[0][0].shape[1]
        if inputs not in _CODES:
            raise InputError(f"a predictor of {inputs} inputs; those known have {choices(_CODES)}")
        self._code, self._least = _CODES[inputs](space)

    @property
    def family(self) -> str:
        """The family whose accuracies it was fitted on."""
        return _MADE_FOR[self.layers[0][0].shape[1]][0]

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        self.check_covariates(covariates)
        x = self.encode(population)
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if i + 1 < len(self.layers):
                np.maximum(x, 0, out=x)
        sizes = np.array(self.space.resolution)[population[:, 0]]
        return Prediction(100.0 * x[:, 0].astype(np.float64), None, sizes < self._least)

    def encode(self, population: Population) -> NDArray[np.float32]:
        """(n, inputs) one-hot codes; blocks that are not there are 0."""
        out = np.zeros((len(population), self.layers[0][0].shape[1]), np.float32)
        active = self.space.active(population)
        rows = np.arange(len(population))
        for column, positions in self._code:
            at = positions[population[:, column]]
            there = active[:, column] & (at >= 0)
            out[rows[there], at[there]] = 1
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        arrays: dict[str, NDArray[Any]] = {}
        for i, (weight, bias) in enumerate(self.layers):
            arrays |= {f"{i}.weight": weight, f"{i}.bias": np.asarray(bias)}
        return {"layers": len(self.layers)}, arrays

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        layers = [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in range(data["layers"])]
        return cls(space, layers)


Code = list[tuple[int, NDArray[np.intp]]]  # a gene, and the input that each of its choices sets


def read_perceptron(path: Path, space: Space | None = None) -> Perceptron:
    """`acc_predictor.pth` (made for `ofa_mbv3_w1.2`) or `ofa_resnet50_acc_predictor.pth`, asked
    about a space of any family whose archs its inputs can tell; `predictors.load` is stricter.

    Raises:
        InputError: the file is damaged or another, or the space has a resolution that the
            predictor has no input for.
    """
    from onceforall.interop.tensors import read_tensors

    arrays = {name: t.numpy().astype(np.float32) for name, t in read_tensors(path).items()}
    names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
    base = arrays.get("base_acc", np.zeros(1, np.float32))
    layers = [(arrays[f"{name}.weight"], arrays.get(f"{name}.bias", base)) for name in names]
    shapes = [weight.shape for weight, _ in layers]
    fits = all(a[0] == b[1] for a, b in itertools.pairwise(shapes))
    if not layers or not fits or shapes[-1][0] != 1 or shapes[0][1] not in _CODES:
        raise InputError(f"{path}: not a predictor of the authors: layers of shapes {shapes}")
    return Perceptron(space if space is not None else _own_space(shapes[0][1]), layers)


def _own_space(inputs: int) -> Space:
    from onceforall import families

    name, sizes = _MADE_FOR[inputs]
    return families.get(name).space.at(sizes)


MBV3_SIZES = tuple(range(112, 225, 16))
RESNET_SIZES = (128, 144, 160, 176, 192, 224, 240, 256)  # of the authors' search on ResNet50


_MADE_FOR = {128: ("ofa_mbv3_w1.2", MBV3_SIZES), 82: ("ofa_resnet50", RESNET_SIZES)}


def _mbv3_code(space: Space) -> tuple[Code, int]:
    """[kernel 20x3 | expand 20x3 | resolution 8], and the least size it was trained at."""
    if len(space.stages) != 5 or any(stage.blocks > 4 for stage in space.stages):
        raise InputError(f"the authors' predictor is for 5 stages of 4 blocks, not {space.family}")
    code = [(0, _sizes(space, MBV3_SIZES, 120))]
    for s, stage in enumerate(space.stages):
        for b in range(stage.blocks):
            at = 3 * (4 * s + b)
            code.append(_coded(space, block_gene(s, b, "kernel"), (3, 5, 7), at))
            code.append(_coded(space, block_gene(s, b, "expand"), (3, 4, 6), 60 + at))
    return code, 160


def _resnet_code(space: Space) -> tuple[Code, int]:
    """[resolution 8 | stem's residual convolution 2 | width 6x3 | expand 18x3]. Of two equal widths
    of the stem the first is meant."""
    if len(space.stages) != 6:
        raise InputError(f"the authors' predictor is for 6 stages, not for {space.family}")
    widths: list[tuple[int, ...]] = [(24, 32), (40, 48, 64), (168, 208, 256), (336, 408, 512)]
    widths += [(664, 816, 1024), (1328, 1640, 2048)]
    first = {2: 0, 3: 4, 4: 8, 5: 14}  # block of a stage, counted over stages at full depth
    code = [(0, _sizes(space, RESNET_SIZES, 0))]
    for s, stage in enumerate(space.stages):
        column, at = _coded(space, stage_gene(s, "width"), widths[s], 10 + 3 * s)
        if s == 0:
            at = np.where(at == 11, 12, at)  # 24, 24, 32
        code.append((column, at))
        if s == 0:
            code.append(_coded(space, stage_gene(s, "depth"), (1, 2), 8))
        for b in range(stage.blocks) if s > 1 else ():
            start = 28 + 3 * (first[s] + b)
            code.append(_coded(space, block_gene(s, b, "expand"), (0.2, 0.25, 0.35), start))
    return code, 0


def _coded(
    space: Space, name: str, known: tuple[float, ...], start: int
) -> tuple[int, NDArray[np.intp]]:
    column = space.column(name)
    gene = space.genes[column]
    return column, _positions(space, gene.kind, gene.values, known, start)


_CODES: dict[int, Callable[[Space], tuple[Code, int]]] = {128: _mbv3_code, 82: _resnet_code}


def _sizes(space: Space, known: tuple[int, ...], start: int) -> NDArray[np.intp]:
    try:
        return _positions(space, "resolution", space.resolution, known, start)
    except InputError as error:
        raise ResolutionError(str(error), known) from None


def _positions(
    space: Space, kind: str, values: tuple[Value, ...], known: tuple[float, ...], start: int
) -> NDArray[np.intp]:
    for value in values:
        if value not in known:
            raise InputError(
                f"the authors' predictor has no input for {kind} {value} of {space.family};"
                f" it has {choices(known)}"
            )
    return np.array([start + known.index(value) for value in values], np.intp)
