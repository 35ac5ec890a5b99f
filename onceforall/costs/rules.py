"""What an operation costs: a rule for each kind of module, function and method.

A rule is called as the operation is, with the shape of an image's tensor (without the batch)
in the place of each tensor, so that arguments find their place by position or by name as they
do in PyTorch; dimensions are counted with the batch, as there. It knows no graph and no network.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from onceforall.errors import InputError
from onceforall.families.layers import SameConv2d

Shape = tuple[int, ...]  # without the batch: (C, H, W) or (features,)


class UncoveredError(Exception):
    """An operation used in a way that its rule does not know."""


class Effect(NamedTuple):
    """What one operation does: the shape that leaves and what it costs."""

    shape: Shape
    macs: int = 0
    flops: int = 0  # beside the MACs, see `costs`
    depthwise: bool = False  # a convolution each of whose filters sees one channel of several


class Rule(NamedTuple):
    """`effect(...)` is called as the operation, a module's with the module first; None: nothing is
    computed, tensors are only moved or cut, and PyTorch says what leaves."""

    effect: Callable[..., Effect] | None
    memory: str = "own"  # its output: "own", "in place" or a "view" of its input

    def takes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the rule has these arguments."""
        if self.effect is None:
            return True
        try:
            inspect.signature(self.effect).bind(*args, **kwargs)
        except TypeError:
            return False
        return True


def _same(input: Shape, *settings: Any, **named: Any) -> Effect:
    return Effect(input)


def _relu(input: Shape, inplace: bool = False) -> Effect:
    return Effect(input, flops=math.prod(input))


def _norm(module: Any, input: Shape) -> Effect:
    if not input or input[0] != module.num_features:
        raise InputError(f"{module.num_features} channels expected, {input} given")
    return Effect(input, flops=(2 if module.affine else 1) * math.prod(input))


def _conv(module: nn.Conv2d, input: Shape) -> Effect:
    channels, *size = input if len(input) == 3 else (None,)
    if channels != module.in_channels:
        raise InputError(f"({module.in_channels}, H, W) expected, {input} given")
    if module.padding == "same":
        out = size
    elif isinstance(module, SameConv2d):
        out = [-(-n // module.stride[i]) for i, n in enumerate(size)]
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
    return Effect(
        (module.out_channels, *out),
        macs,
        outputs if module.bias is not None else 0,
        depthwise=1 < module.groups == module.in_channels,
    )


def _linear(module: nn.Linear, input: Shape) -> Effect:
    if not input or input[-1] != module.in_features:
        given = input[-1] if input else 0
        raise InputError(f"{module.in_features} features expected, {given} given")
    out = (*input[:-1], module.out_features)
    bias = math.prod(out) if module.bias is not None else 0
    return Effect(out, math.prod(out) * module.in_features, bias)


def _pool(module: Any, input: Shape) -> Effect:
    if getattr(module, "return_indices", False):
        raise UncoveredError
    channels, *size = _image(input)
    kernel, stride, padding = (
        _pair(v) for v in (module.kernel_size, module.stride, module.padding)
    )
    dilation = _pair(getattr(module, "dilation", 1))
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
    return Effect((channels, *out), flops=math.prod(input))


def _adaptive_pool(input: Shape, output_size: Any) -> Effect:
    channels, *size = _image(input)
    pair = zip(_pair(output_size), size, strict=True)
    out = tuple(n if wanted is None else wanted for wanted, n in pair)
    return Effect((channels, *out), flops=math.prod(input))


def _mean(
    input: Shape,
    dim: Any = None,
    keepdim: bool = False,
    *,
    axis: Any = None,  # numpy's names, which PyTorch knows too
    keepdims: bool = False,
    dtype: Any = None,
) -> Effect:
    """Counted as a pooling."""
    dim, keepdim = axis if dim is None else dim, keepdim or keepdims
    over = _dimensions(dim, input) if dim is not None else set(range(len(input) + 1))
    if 0 in over or not over:
        raise UncoveredError  # images are averaged
    kept = [(1 if i in over else n) for i, n in enumerate(input, 1) if keepdim or i not in over]
    return Effect(tuple(kept), flops=math.prod(input))


def _flatten(input: Shape, start_dim: int = 0, end_dim: int = -1) -> Effect:
    (start,), (end,) = _dimensions(start_dim, input), _dimensions(end_dim, input)
    if start > end:
        raise InputError(f"dimensions {start_dim} to {end_dim} of {input} cannot be flattened")
    if start == 0 < end:
        raise UncoveredError  # images run into each other
    if end == 0:
        return Effect(input)
    return Effect((*input[: start - 1], math.prod(input[start - 1 : end]), *input[end:]))


def _pairwise(
    input: Any, other: Any, *, alpha: float = 1, rounding_mode: str | None = None
) -> Effect:
    """Of two tensors, or a tensor and a number; parameters come as tensors, not as shapes."""
    shapes = [value for value in (input, other) if isinstance(value, tuple)]
    constants = [value for value in (input, other) if isinstance(value, torch.Tensor)]
    if constants:
        return Effect(_broadcast(shapes[0], constants[0]))
    if len(shapes) == 1:
        return Effect(shapes[0])  # with a number
    a, b = shapes
    if len(a) != len(b) or any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        raise InputError(f"{a} and {b} do not fit together")
    return Effect(tuple(max(m, n) for m, n in zip(a, b, strict=True)))


def _broadcast(shape: Shape, constant: torch.Tensor) -> Shape:
    if constant.dim() > len(shape) and constant.shape[0] != 1:
        raise UncoveredError  # a value of its own for each image
    try:
        return tuple(torch.broadcast_shapes((1, *shape), constant.shape))[1:]
    except RuntimeError:
        raise InputError(f"{shape} and {tuple(constant.shape)} do not fit together") from None


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise InputError(f"(C, H, W) expected, {shape} given")
    return shape


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _dimensions(given: Any, shape: Shape) -> set[int]:
    """Dimensions of (N, *shape), counted from the front."""
    rank = len(shape) + 1
    found = {d + rank if d < 0 else d for d in (given if isinstance(given, Sequence) else [given])}
    if not all(0 <= d < rank for d in found):
        raise InputError(f"{(shape)} with its batch has {rank} dimensions, not {given}")
    return found


def _of_module(effect: Callable[..., Effect], *settings: str) -> Callable[..., Effect]:
    """The rule of a module, which is that of the function with these settings of the module."""

    def of(module: nn.Module, input: Shape) -> Effect:
        return effect(input, *(getattr(module, name) for name in settings))

    return of


IN_PLACE, RELU = Rule(_same, "in place"), Rule(_relu, "in place")
PAIRWISE, VIEW, MOVED = Rule(_pairwise), Rule(_same, "view"), Rule(None)
FLATTEN, MEAN = Rule(_flatten, "view"), Rule(_mean)

_SAME_IN_PLACE = Rule(_of_module(_same), "in place")
_SAME_VIEW = Rule(_of_module(_same), "view")
_RELU = Rule(_of_module(_relu), "in place")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: Rule(_conv),
    SameConv2d: Rule(_conv),
    nn.Linear: Rule(_linear),
    nn.BatchNorm1d: Rule(_norm, "in place"),
    nn.BatchNorm2d: Rule(_norm, "in place"),
    nn.ReLU: _RELU,
    nn.ReLU6: _RELU,
    nn.Hardswish: _SAME_IN_PLACE,
    nn.Hardsigmoid: _SAME_IN_PLACE,
    nn.Sigmoid: _SAME_IN_PLACE,
    nn.SiLU: _SAME_IN_PLACE,
    nn.GELU: _SAME_IN_PLACE,
    nn.Identity: _SAME_VIEW,
    nn.Dropout: _SAME_VIEW,  # at inference
    nn.AdaptiveAvgPool2d: Rule(_of_module(_adaptive_pool, "output_size")),
    nn.AvgPool2d: Rule(_pool),
    nn.MaxPool2d: Rule(_pool),
    nn.Flatten: Rule(_of_module(_flatten, "start_dim", "end_dim"), "view"),
}
FUNCTIONS: dict[Callable[..., Any], Rule] = {
    operator.add: PAIRWISE,
    operator.iadd: PAIRWISE,
    operator.sub: PAIRWISE,
    operator.mul: PAIRWISE,
    operator.imul: PAIRWISE,
    operator.truediv: PAIRWISE,
    torch.add: PAIRWISE,
    torch.sub: PAIRWISE,
    torch.mul: PAIRWISE,
    torch.div: PAIRWISE,
    torch.relu: RELU,
    F.relu: RELU,
    F.relu6: RELU,
    F.hardswish: IN_PLACE,
    F.hardsigmoid: IN_PLACE,
    F.silu: IN_PLACE,
    F.gelu: IN_PLACE,
    torch.sigmoid: IN_PLACE,
    F.dropout: VIEW,  # at inference
    F.adaptive_avg_pool2d: Rule(_adaptive_pool),
    torch.flatten: FLATTEN,
    torch.mean: MEAN,
    torch.cat: MOVED,
    torch.stack: MOVED,
    torch.chunk: MOVED,
    torch.split: MOVED,
    torch.reshape: MOVED,
    torch.permute: MOVED,
    torch.transpose: MOVED,
    torch.squeeze: MOVED,
    torch.unsqueeze: MOVED,
    operator.getitem: MOVED,
    getattr: MOVED,
}
METHODS: dict[str, Rule] = {
    "add": PAIRWISE,
    "sub": PAIRWISE,
    "mul": PAIRWISE,
    "div": PAIRWISE,
    "relu": RELU,
    "sigmoid": IN_PLACE,
    "flatten": FLATTEN,
    "mean": MEAN,
    "contiguous": VIEW,
    "view": MOVED,
    "reshape": MOVED,
    "permute": MOVED,
    "transpose": MOVED,
    "squeeze": MOVED,
    "unsqueeze": MOVED,
    "chunk": MOVED,
    "split": MOVED,
    "expand": MOVED,
    "size": MOVED,
    "dim": MOVED,
}
