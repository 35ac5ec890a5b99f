"""What a network costs: MACs, parameters, peak activation memory; and as tables over a space.

A network is traced once by `torch.fx`; every operation of its graph has a rule in one of
the three tables below, which turns the shapes that enter into the shape that leaves and
what it costs. No tensor is computed. An operation without a rule is an error that names
it, never a zero.

Units and conventions:
- One multiply-add of a convolution or a linear layer is one MAC; nothing else counts
  (squeeze-excite is made of convolutions). Biases are no MACs.
- `flops` is MMRazor's count of the same pass: MACs, one per output of a bias, two per
  output of a batch norm, one per output of a ReLU or ReLU6, one per input of a pooling;
  hard-swish and hard-sigmoid count nothing.
- `peak_activation_bytes`: float32, batch 1. At each operation, the sum of all tensors
  that are alive: those that this operation or a later one reads, and its output; the
  input image included, weights not. Batch norms, activations and other operations on
  single elements write in place, unless their input is read again later; views own
  nothing. Additions and products of two tensors have an output of their own.

Only the tables know a family; the rest knows an `nn.Module`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.layers import Layer
from onceforall.tables import Place, Reduce, Table

Shape = tuple[int, ...]  # without the batch: (C, H, W) or (features,)

FLOAT_BYTES = 4


class Row(NamedTuple):
    """One layer of a network."""

    name: str
    kind: str
    output_shape: Shape
    macs: int
    params: int


@dataclass(frozen=True)
class Cost:
    """What a network costs for one input; units are at the top of this file."""

    macs: int
    params: int
    peak_activation_bytes: int
    output_shape: Shape
    flops: int  # MMRazor's convention
    rows: tuple[Row, ...]


def cost(network: nn.Module, shape: Shape) -> Cost:
    """The cost of a network for one input of `shape`, (C, H, W).

    Raises:
        InputError: the network cannot be traced, an operation has no rule, or the shape does
            not fit.
    """
    return _run(_trace(network), tuple(shape))


@lru_cache(maxsize=65536)
def layer_cost(layer: Layer, shape: Shape) -> Cost:
    """The cost of a layer; each layer is traced once, each input shape counted once."""
    return _run(_trace_layer(layer), shape)


# --- rules


class Effect(NamedTuple):
    """What one operation does: the shape that leaves and what it costs."""

    shape: Shape
    macs: int = 0
    flops: int = 0  # beside the MACs, see the top of this file


class Rule(NamedTuple):
    """`effect(module or None, shapes of the tensors that enter, other arguments)`."""

    effect: Callable[[Any, Sequence[Shape], tuple[Any, ...]], Effect]
    memory: str = "own"  # its output: "own", "in place" or a "view" of its input


def _same(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    return Effect(shapes[0])


def _relu(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    return Effect(shapes[0], flops=math.prod(shapes[0]))


def _norm(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    if shapes[0][0] != module.num_features:
        raise InputError(f"{module.num_features} channels expected, {shapes[0][0]} given")
    return Effect(shapes[0], flops=(2 if module.affine else 1) * math.prod(shapes[0]))


def _conv(module: nn.Conv2d, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    channels, *size = shapes[0]
    if len(size) != 2 or channels != module.in_channels:
        raise InputError(f"({module.in_channels}, H, W) expected, {shapes[0]} given")
    if module.padding == "same":
        out = size
    else:
        padding = (0, 0) if isinstance(module.padding, str) else module.padding
        out = [
            (n + 2 * padding[i] - module.dilation[i] * (module.kernel_size[i] - 1) - 1)
            // module.stride[i]
            + 1
            for i, n in enumerate(size)
        ]
    if min(out) < 1:
        raise InputError(f"an input of {size[0]}x{size[1]} pixels is smaller than its kernel")
    outputs = module.out_channels * math.prod(out)
    macs = outputs * module.in_channels // module.groups * math.prod(module.kernel_size)
    return Effect((module.out_channels, *out), macs, outputs if module.bias is not None else 0)


def _linear(module: nn.Linear, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    if shapes[0][-1] != module.in_features:
        raise InputError(f"{module.in_features} features expected, {shapes[0][-1]} given")
    out = (*shapes[0][:-1], module.out_features)
    bias = math.prod(out) if module.bias is not None else 0
    return Effect(out, math.prod(out) * module.in_features, bias)


def _pool(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    channels, *size = shapes[0]
    kernel, stride, padding = (
        v if isinstance(v, tuple) else (v, v)
        for v in (module.kernel_size, module.stride, module.padding)
    )
    dilation = getattr(module, "dilation", 1)
    dilation = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    out = []
    for i, n in enumerate(size):
        steps = n + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        if module.ceil_mode:
            count = -(-steps // stride[i]) + 1
            if (count - 1) * stride[i] >= n + padding[i]:  # a window must start inside
                count -= 1
        else:
            count = steps // stride[i] + 1
        out.append(count)
    if min(out) < 1:
        raise InputError(f"an input of {size[0]}x{size[1]} pixels is smaller than its window")
    return Effect((channels, *out), flops=math.prod(shapes[0]))


def _adaptive_pool(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    size = module.output_size
    pair = size if isinstance(size, tuple) else (size, size)
    out = tuple(n if n is not None else s for n, s in zip(pair, shapes[0][1:], strict=True))
    return Effect((shapes[0][0], *out), flops=math.prod(shapes[0]))


def _global_pool(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    if tuple(arguments[0]) not in ((2, 3), (-2, -1)):
        raise InputError(f"a mean over {arguments[0]} has no rule, only over height and width")
    channels = shapes[0][0]
    kept = len(arguments) > 1 and arguments[1]
    return Effect((channels, 1, 1) if kept else (channels,), flops=math.prod(shapes[0]))


def _flatten(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    start = module.start_dim if module is not None else (*arguments, 0)[0]
    if start != 1:
        raise InputError(f"flattening from dimension {start} has no rule, only from 1")
    return Effect((math.prod(shapes[0]),))


def _pairwise(module: Any, shapes: Sequence[Shape], arguments: tuple[Any, ...]) -> Effect:
    if len(shapes) == 1:
        return Effect(shapes[0])  # with a number
    a, b = shapes
    if len(a) != len(b) or any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        raise InputError(f"{a} and {b} do not fit together")
    return Effect(tuple(max(m, n) for m, n in zip(a, b, strict=True)))


IN_PLACE, RELU = Rule(_same, "in place"), Rule(_relu, "in place")
PAIRWISE, VIEW = Rule(_pairwise), Rule(_same, "view")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: Rule(_conv),
    nn.Linear: Rule(_linear),
    nn.BatchNorm2d: Rule(_norm, "in place"),
    nn.ReLU: RELU,
    nn.ReLU6: RELU,
    nn.Hardswish: IN_PLACE,
    nn.Hardsigmoid: IN_PLACE,
    nn.Sigmoid: IN_PLACE,
    nn.SiLU: IN_PLACE,
    nn.GELU: IN_PLACE,
    nn.Identity: VIEW,
    nn.Dropout: VIEW,  # at inference
    nn.AdaptiveAvgPool2d: Rule(_adaptive_pool),
    nn.AvgPool2d: Rule(_pool),
    nn.MaxPool2d: Rule(_pool),
    nn.Flatten: Rule(_flatten, "view"),
}
FUNCTIONS: dict[Callable[..., Any], Rule] = {
    operator.add: PAIRWISE,
    operator.iadd: PAIRWISE,
    operator.mul: PAIRWISE,
    operator.imul: PAIRWISE,
    torch.add: PAIRWISE,
    torch.mul: PAIRWISE,
    torch.relu: RELU,
    F.relu: RELU,
    F.relu6: RELU,
    F.hardswish: IN_PLACE,
    F.hardsigmoid: IN_PLACE,
    torch.sigmoid: IN_PLACE,
    torch.flatten: Rule(_flatten, "view"),
    torch.mean: Rule(_global_pool),
}
METHODS: dict[str, Rule] = {
    "add": PAIRWISE,
    "mul": PAIRWISE,
    "relu": RELU,
    "sigmoid": IN_PLACE,
    "flatten": Rule(_flatten, "view"),
    "mean": Rule(_global_pool),
    "contiguous": VIEW,
}


# --- a traced network


class Step(NamedTuple):
    """One operation, ready to be counted."""

    name: str
    kind: str
    rule: Rule
    module: nn.Module | None
    params: int
    inputs: tuple[int, ...]  # the tensors that enter: 0 is the network's input, i + 1 step i
    arguments: tuple[Any, ...]  # what else is given, keywords last
    last_reads: tuple[int, ...]  # tensors that no later step reads


class Traced(NamedTuple):
    steps: tuple[Step, ...]
    result: int  # the tensor that leaves
    params: int


class _Leaves(fx.Tracer):
    """Keeps modules with a rule whole and looks into all others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


@lru_cache(maxsize=4096)
def _trace_layer(layer: Layer) -> Traced:
    with torch.device("meta"):
        return _trace(layer.build())


def _trace(network: nn.Module) -> Traced:
    if type(network) in MODULES:
        network = nn.Sequential(network)  # a network of one operation
    try:
        nodes = list(_Leaves().trace(network).nodes)
    except Exception as error:  # whatever the forward of a foreign network raises
        message = " ".join(str(error).split())
        raise InputError(f"{type(network).__name__}: cannot be traced: {message}") from None
    index: dict[fx.Node, int] = {}
    last_read: dict[int, int] = {}
    found: list[Step] = []
    result = 0
    for node in nodes:
        if node.op == "placeholder":
            if index:
                raise InputError(f"{type(network).__name__}: takes more than one input")
            index[node] = 0
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise InputError(f"{type(network).__name__}: gives more than one tensor")
            result = index[node.args[0]]
            last_read[result] = len(found)
        else:
            step = _step(network, node, index)
            for tensor in step.inputs:
                last_read[tensor] = len(found)
            found.append(step)
            index[node] = len(found)
    steps = tuple(
        step._replace(last_reads=tuple(t for t, at in last_read.items() if at == i))
        for i, step in enumerate(found)
    )
    return Traced(steps, result, sum(p.numel() for p in network.parameters()))


def _step(network: nn.Module, node: fx.Node, index: dict[fx.Node, int]) -> Step:
    module, rule = None, None
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        name, kind = str(node.target), type(module).__name__
        rule = MODULES.get(type(module))
    elif node.op == "call_function":
        name, kind = node.name, getattr(node.target, "__name__", str(node.target))
        rule = FUNCTIONS.get(node.target)  # type: ignore[arg-type]
    else:
        name, kind = node.name, str(node.target)
        rule = METHODS.get(kind) if node.op == "call_method" else None
    if rule is None:
        raise InputError(f"{name}: no rule says what {kind} costs ({node.op})")
    given = [*node.args, *node.kwargs.values()]
    params = sum(p.numel() for p in module.parameters()) if module is not None else 0
    tensors = tuple(index[a] for a in given if isinstance(a, fx.Node))
    others = tuple(a for a in given if not isinstance(a, fx.Node))
    return Step(name, kind, rule, module, params, tensors, others, ())


def _run(traced: Traced, shape: Shape) -> Cost:
    shapes = [shape]
    owner = [0]  # the tensor whose memory each tensor lies in
    users = {0: {0}}  # memory -> the tensors alive in it
    sizes = {0: math.prod(shape)}  # elements of the memory that is alive
    peak = macs = flops = 0
    rows = []
    for i, step in enumerate(traced.steps):
        try:
            effect = step.rule.effect(step.module, [shapes[t] for t in step.inputs], step.arguments)
        except InputError as error:
            raise InputError(f"{step.name}: {error}") from None
        out, source = i + 1, owner[step.inputs[0]]
        shares = step.rule.memory == "view" or (
            step.rule.memory == "in place" and users[source] <= set(step.last_reads)
        )
        memory = source if shares else out
        shapes.append(effect.shape)
        owner.append(memory)
        users.setdefault(memory, set()).add(out)
        sizes.setdefault(memory, math.prod(effect.shape))
        peak = max(peak, sum(sizes.values()))
        for tensor in step.last_reads:
            held = owner[tensor]
            users[held].discard(tensor)
            if not users[held]:
                del users[held], sizes[held]
        macs += effect.macs
        flops += effect.macs + effect.flops
        rows.append(Row(step.name, step.kind, effect.shape, effect.macs, step.params))
    peak = max(peak, math.prod(shape))
    return Cost(macs, traced.params, FLOAT_BYTES * peak, shapes[traced.result], flops, tuple(rows))


# --- tables over a family's space


def cost_tables(family: Family, resolutions: Sequence[int] | None = None) -> dict[str, Table]:
    """Tables of macs, params and peak_activation_bytes; `resolutions` in place of the space's."""
    units: dict[str, tuple[Reduce, str]] = {
        "macs": ("sum", "MACs"),
        "params": ("sum", "parameters"),
        "peak_activation_bytes": ("max", "bytes"),
    }
    return {
        name: layer_table(family, _value(name), reduce, resolutions, name, unit)
        for name, (reduce, unit) in units.items()
    }


def _value(name: str) -> Callable[[Layer, Shape], float]:
    return lambda layer, shape: float(getattr(layer_cost(layer, shape), name))


def layer_table(
    family: Family,
    value: Callable[[Layer, Shape], float],
    reduce: Reduce = "sum",
    resolutions: Sequence[int] | None = None,
    name: str = "value",
    unit: str = "",
) -> Table:
    """The table of a number that each layer has by itself: `value(layer, input shape)`."""
    space = family.space
    if resolutions is not None:
        space = space.at(tuple(sorted(resolutions)))
    sizes = _Sizes(family)
    join = sum if reduce == "sum" else max

    def block(place: Place) -> float:
        return value(*sizes.block(place))

    def fixed(resolution: int, width: int) -> float:
        return float(join([value(*pair) for pair in sizes.rest(resolution, width)]))

    return Table.build(space, block, fixed, reduce, name, unit)


def unique_layers(
    family: Family, resolutions: Sequence[int] | None = None
) -> list[tuple[Layer, Shape]]:
    """All distinct layers that archs of the family are made of, with the shape that enters."""
    found: dict[tuple[Layer, Shape], None] = {}

    def note(layer: Layer, shape: Shape) -> float:
        found[layer, shape] = None
        return 0.0

    layer_table(family, note, "sum", resolutions)
    return list(found)


class _Sizes:
    """The layers of a family with the shapes that enter them.

    A block's spatial size depends on nothing but the image, the stage and the position, for
    padding keeps the size whatever the kernel.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._entering: dict[tuple[int, int, int], Shape] = {}  # resolution, stage, position

    def block(self, place: Place) -> tuple[Layer, Shape]:
        width_in = place.width_in or self._family.stem_width
        size = self._enters(place.resolution, place.stage, place.position)
        layer = self._family.block(
            place.stage, place.position, place.kernel, place.expand, width_in, place.width
        )
        return layer, (width_in, *size)

    def rest(self, resolution: int, width: int) -> Iterator[tuple[Layer, Shape]]:
        """The layers that are not blocks."""
        yield from self._chain(
            self._family.stem().values(), (self._family.in_channels, resolution, resolution)
        )
        stages = self._family.space.stages
        size = self._enters(resolution, len(stages), 0)
        yield from self._chain(self._family.tail(width).values(), (width, *size))

    @staticmethod
    def _chain(layers: Any, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        for layer in layers:
            yield layer, shape
            shape = layer_cost(layer, shape).output_shape

    def _enters(self, resolution: int, stage: int, position: int) -> Shape:
        """(H, W) that enters a block; one stage beyond the last is the tail."""
        key = (resolution, stage, position)
        if key not in self._entering:
            self._entering[key] = self._leaves(resolution, stage, position - 1)
        return self._entering[key]

    def _leaves(self, resolution: int, stage: int, position: int) -> Shape:
        """(H, W) that leaves a block; one position before the first is what comes before."""
        family = self._family
        if position < 0 and stage == 0:
            shape: Shape = (family.in_channels, resolution, resolution)
            for layer in family.stem().values():
                shape = layer_cost(layer, shape).output_shape
            return shape[1:]
        if position < 0:
            depths = family.space.stages[stage - 1].depth
            sizes = {self._leaves(resolution, stage - 1, depth - 1) for depth in depths}
            if len(sizes) > 1:
                raise InputError(f"{family.name}: the size after stage {stage} depends on depth")
            return sizes.pop()
        choices = family.space.stages[stage]
        first = family.space.stages[stage - 1].width[0] if stage else 0
        width_in = first if position == 0 else choices.width[0]
        place = Place(
            resolution,
            stage,
            position,
            choices.kernel[0],
            choices.expand[0],
            width_in,
            choices.width[0],
        )
        return layer_cost(*self.block(place)).output_shape[1:]
