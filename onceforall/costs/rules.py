"""What an operation of our layers costs, by arithmetic on shapes: a rule for each.

A space has thousands of layers, each at dozens of sizes; running them, even without values, would
take minutes where this takes a second. Shapes are without the batch. It knows no graph and no
network; `dispatch` counts all that has no rule, and what has one to the same numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from onceforall.costs.memory import Lies
from onceforall.costs.result import Shape
from onceforall.errors import InputError
from onceforall.families.layers import SameConv2d


class UncoveredError(Exception):
    """An operation used in a way that its rule does not know."""


class Effect(NamedTuple):
    """What one operation does: the shape that leaves and what it costs."""

    shape: Shape
    macs: int = 0
    flops: int = 0  # beside the MACs
    depthwise: bool = False  # a convolution each of whose filters sees one channel of several


class Rule(NamedTuple):
    """`effect(...)` is called with shapes, a module's with the module first."""

    effect: Callable[..., Effect]
    lies: Lies = "own"  # its output


def _same(module: nn.Module, input: Shape) -> Effect:
    return Effect(input)


def _relu(module: nn.Module, input: Shape) -> Effect:
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


def _adaptive_pool(module: nn.AdaptiveAvgPool2d, input: Shape) -> Effect:
    channels, *size = _image(input)
    pair = zip(_pair(module.output_size), size, strict=True)
    out = tuple(n if wanted is None else wanted for wanted, n in pair)
    return Effect((channels, *out), flops=math.prod(input))


def _flatten(module: nn.Flatten, input: Shape) -> Effect:
    rank = len(input) + 1  # with the batch
    start, end = (d + rank if d < 0 else d for d in (module.start_dim, module.end_dim))
    if not 0 < start <= end < rank:
        raise UncoveredError  # images run into each other, or it makes no sense
    return Effect((*input[: start - 1], math.prod(input[start - 1 : end]), *input[end:]))


def _pairwise(a: Shape, b: Shape) -> Effect:
    """Of two tensors."""
    if len(a) != len(b) or any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        raise InputError(f"{a} and {b} do not fit together")
    return Effect(tuple(max(m, n) for m, n in zip(a, b, strict=True)))


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise InputError(f"(C, H, W) expected, {shape} given")
    return shape


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


IN_PLACE, RELU, VIEW = Rule(_same, "in place"), Rule(_relu, "in place"), Rule(_same, "view")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: Rule(_conv),
    SameConv2d: Rule(_conv),
    nn.Linear: Rule(_linear),
    nn.BatchNorm2d: Rule(_norm, "in place"),
    nn.ReLU: RELU,
    nn.ReLU6: RELU,
    nn.Hardswish: IN_PLACE,
    nn.Hardsigmoid: IN_PLACE,
    nn.Identity: VIEW,
    nn.Dropout: VIEW,  # at inference
    nn.AdaptiveAvgPool2d: Rule(_adaptive_pool),
    nn.AvgPool2d: Rule(_pool),
    nn.MaxPool2d: Rule(_pool),
    nn.Flatten: Rule(_flatten, "view"),
}
FUNCTIONS: dict[Any, Rule] = {operator.add: Rule(_pairwise), operator.mul: Rule(_pairwise)}
