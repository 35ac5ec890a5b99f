"""The cost of one network.

Of a network that is made of operations with a rule (`rules`), such as our layers, the graph is
traced once and each shape costs a little arithmetic. Any other network is run on tensors without
values, and its operations are counted as they come (`dispatch`); both give the same numbers. Knows
an `nn.Module` and the shape of an image; no family and no arch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from onceforall.costs import dispatch
from onceforall.costs.memory import Event, alive, with_last
from onceforall.costs.result import FLOAT_BYTES, Cost, Row, Shape
from onceforall.costs.rules import FUNCTIONS, MODULES, Rule, UncoveredError
from onceforall.errors import InputError
from onceforall.families.layers import Layer, owning


def cost(network: nn.Module, shape: Shape) -> Cost:
    """The cost of a network for one input of `shape`, (C, H, W). The network is not changed.

    Raises:
        InputError: the shape does not fit, or the network does not go from one tensor to one.
    """
    traced = _trace(network)
    found = None if traced is None else _run(traced, tuple(shape))
    return dispatch.count(network, tuple(shape)) if found is None else found


@lru_cache(maxsize=65536)
def layer_cost(layer: Layer, shape: Shape) -> Cost:
    """The cost of a layer; each layer is traced once, each input shape counted once."""
    traced = _trace_layer(layer)
    found = None if traced is None else _run(traced, shape)
    if found is None:
        with torch.device("meta"):
            found = dispatch.count(layer.build(), shape)
    return found


class Step(NamedTuple):
    """One operation with its rule; `inputs` are the values whose shapes the rule is called with."""

    name: str
    kind: str
    effect: Callable[..., Any]  # (shape, ...) -> Effect
    inputs: tuple[int, ...]
    params: int


class Traced(NamedTuple):
    steps: tuple[Step, ...]
    events: tuple[Event, ...]  # one a step; value i + 1 is what step i gives
    result: int  # the value that leaves
    params: int


class _NoRuleError(Exception):
    """The network has an operation without a rule."""


class _Tracer(fx.Tracer):
    """Keeps modules with a rule whole; stops at the first operation without one."""

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if kind in ("call_method", "get_attr"):
            raise _NoRuleError
        if kind == "call_function" and target not in FUNCTIONS:
            raise _NoRuleError
        return super().create_node(kind, target, *args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in MODULES:
            return True
        if super().is_leaf_module(m, module_qualified_name):
            raise _NoRuleError
        return False


@lru_cache(maxsize=4096)
def _trace_layer(layer: Layer) -> Traced | None:
    with torch.device("meta"):
        return _trace(layer.build())


def _trace(network: nn.Module) -> Traced | None:
    """The operations of a network at inference; None where one has no rule, or it cannot be
    traced."""
    params = sum(p.numel() for p in network.parameters())
    if type(network) in MODULES:
        network = nn.Sequential(network)
    try:
        network = owning(network).eval()
        nodes = list(_Tracer().trace(network).nodes)
        values: dict[fx.Node, int] = {}
        steps: list[Step] = []
        events: list[Event] = []
        result = None
        for node in nodes:
            if node.op == "placeholder" and not values:
                values[node] = 0
            elif node.op == "output":
                result = values[node.args[0]]  # type: ignore[index]
            else:
                step, rule = _step(network, node, values)
                steps.append(step)
                values[node] = len(steps)
                events.append(Event(step.inputs, (len(steps),), rule.lies))
    except Exception:  # whatever tracing the forward of a foreign network raises
        return None
    if result is None:
        return None
    return Traced(tuple(steps), tuple(with_last(events, result)), result, params)


def _step(network: nn.Module, node: fx.Node, values: dict[fx.Node, int]) -> tuple[Step, Rule]:
    """Raises _NoRuleError, or KeyError where something beside the network's values enters."""
    if node.kwargs or not node.args:
        raise _NoRuleError
    inputs = tuple(values[arg] for arg in node.args)  # type: ignore[index]
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        rule, kind = MODULES[type(module)], type(module).__name__
        params = sum(p.numel() for p in module.parameters())

        def effect(*shapes: Shape) -> Any:
            return rule.effect(module, *shapes)

        return Step(str(node.target), kind, effect, inputs, params), rule
    rule = FUNCTIONS[node.target]
    return Step(node.name, node.target.__name__, rule.effect, inputs, 0), rule  # type: ignore


def _run(traced: Traced, shape: Shape) -> Cost | None:
    """None where a rule does not know how an operation is used."""
    shapes: list[Shape] = [shape]
    macs = flops = 0
    effects = []
    for step in traced.steps:
        try:
            effect = step.effect(*(shapes[value] for value in step.inputs))
        except UncoveredError:
            return None
        except InputError as error:
            raise InputError(f"{step.name}: {error}") from None
        shapes.append(effect.shape)
        effects.append(effect)
        macs += effect.macs
        flops += effect.macs + effect.flops
    sizes = [FLOAT_BYTES * math.prod(s) for s in shapes]
    held = alive(traced.events, sizes)
    rows = _rows(traced.steps, effects, held)
    peak = max(sizes[0], *held) if held else sizes[0]
    return Cost(macs, traced.params, peak, shapes[traced.result], flops, rows)


def _rows(steps: Sequence[Step], effects: Sequence[Any], held: Sequence[int]) -> tuple[Row, ...]:
    return tuple(
        Row(step.name, step.kind, effect.shape, effect.macs, step.params, effect.depthwise, bytes_)
        for step, effect, bytes_ in zip(steps, effects, held, strict=True)
    )
