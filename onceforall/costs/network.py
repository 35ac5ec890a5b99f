"""The cost of one network: it is traced, and the rule of each operation asked in turn.

Where there is no rule PyTorch itself is run, on the meta device, which computes shapes and no
values. Knows an `nn.Module` and the shape of an image; no family and no arch.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from onceforall.costs.rules import FUNCTIONS, METHODS, MODULES, Rule, Shape, UncoveredError
from onceforall.errors import InputError, choices
from onceforall.families.layers import Layer

FLOAT_BYTES = 4
BATCH = 3  # images that PyTorch is shown: the first dimension of what leaves then tells its batch


class Row(NamedTuple):
    """One operation of a network."""

    name: str
    kind: str
    output_shape: Shape
    macs: int
    params: int
    depthwise: bool = False


@dataclass(frozen=True)
class Cost:
    """What a network costs for one input; units are at the top of `costs`.

    Attributes:
        uncovered: operations without a rule. Where there are any, `macs`, `flops` and
            `peak_activation_bytes` are lower bounds.
    """

    macs: int
    params: int
    peak_activation_bytes: int
    output_shape: Shape
    flops: int  # MMRazor's convention
    rows: tuple[Row, ...]
    uncovered: tuple[str, ...] = ()


def cost(network: nn.Module, shape: Shape) -> Cost:
    """The cost of a network for one input of `shape`, (C, H, W).

    Raises:
        InputError: the shape does not fit, or the network does not go from one tensor to one.
    """
    return _run(_trace(network), tuple(shape))


@lru_cache(maxsize=65536)
def layer_cost(layer: Layer, shape: Shape) -> Cost:
    """The cost of a layer; each layer is traced once, each input shape counted once."""
    return _run(_trace_layer(layer), shape)


# --- a traced network


@dataclass(frozen=True)
class Ref:
    """A value: 0 is the network's input, i + 1 what step i gave."""

    index: int


class Step(NamedTuple):
    """One operation, ready to be counted."""

    name: str
    kind: str
    rule: Rule | None
    call: Callable[..., Any]
    args: tuple[Any, ...]  # `Ref`s in the place of values
    kwargs: dict[str, Any]
    params: int
    inputs: tuple[int, ...]  # the values that enter
    last_reads: tuple[int, ...] = ()  # values that no later step reads

    @property
    def title(self) -> str:
        return self.kind if self.name == self.kind else f"{self.name} ({self.kind})"


class Traced(NamedTuple):
    steps: tuple[Step, ...]
    result: int  # the value that leaves
    params: int


class _Leaves(fx.Tracer):
    """Keeps modules with a rule, and those that cannot be looked into, whole."""

    def __init__(self, opaque: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self._opaque = set(opaque)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            type(m) in MODULES
            or m in self._opaque
            or super().is_leaf_module(m, module_qualified_name)
        )


@lru_cache(maxsize=4096)
def _trace_layer(layer: Layer) -> Traced:
    with torch.device("meta"):
        return _trace(layer.build())


def _trace(network: nn.Module) -> Traced:
    title = type(network).__name__
    network, nodes = _graph(network)
    known: dict[fx.Node, Any] = {}  # a Ref, or what does not come from the input
    found: list[Step] = []
    result = 0
    for node in nodes:
        if node.op == "placeholder":
            if not known:
                known[node] = Ref(0)
            elif node.args:
                known[node] = node.args[0]  # what is not given has its default
            else:
                raise InputError(f"{title}: takes more than one input")
        elif node.op == "get_attr":
            path, _, last = str(node.target).rpartition(".")
            known[node] = getattr(network.get_submodule(path), last)
        elif node.op == "output":
            left = known.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
            if not isinstance(left, Ref):
                raise InputError(f"{title}: gives more than one tensor, or none")
            result = left.index
        else:
            found.append(_step(network, node, known))
            known[node] = Ref(len(found))
    last_read = {t: i for i, step in enumerate(found) for t in step.inputs} | {result: len(found)}
    steps = tuple(
        step._replace(last_reads=tuple(t for t, at in last_read.items() if at == i))
        for i, step in enumerate(found)
    )
    return Traced(steps, result, sum(p.numel() for p in network.parameters()))


def _graph(network: nn.Module) -> tuple[nn.Module, list[fx.Node]]:
    """The operations of a network. What cannot be traced, such as a module whose way depends on
    the values in a tensor, is one operation; a network that is one is put into a sequence."""
    if type(network) in MODULES:
        network = nn.Sequential(network)
    try:
        return network, list(_Leaves().trace(network).nodes)
    except Exception:  # whatever the forward of a foreign network raises
        opaque = list(_untraceable(network))
    if network in opaque:
        network = nn.Sequential(OrderedDict({type(network).__name__: network}))
    return network, list(_Leaves(opaque).trace(network).nodes)


def _untraceable(network: nn.Module) -> Iterator[nn.Module]:
    """The smallest parts of a sequence, or of a sequence in it, that cannot be traced."""
    try:
        _Leaves().trace(network)
    except Exception:
        if type(network) is not nn.Sequential:
            yield network
            return
        for child in network:
            yield from _untraceable(child)


def _step(network: nn.Module, node: fx.Node, known: Mapping[fx.Node, Any]) -> Step:
    args = fx.node.map_arg(node.args, known.__getitem__)
    kwargs = dict(fx.node.map_arg(node.kwargs, known.__getitem__))
    call: Callable[..., Any]
    name, params = node.name, 0
    if node.op == "call_module":
        call = network.get_submodule(str(node.target))
        name, kind, rule = str(node.target), type(call).__name__, MODULES.get(type(call))
        params = sum(p.numel() for p in call.parameters())
    elif node.op == "call_function":
        call = node.target  # type: ignore[assignment]
        kind, rule = getattr(call, "__name__", str(call)), FUNCTIONS.get(call)
    else:
        kind = str(node.target)
        call, rule = _method(kind), METHODS.get(kind)
    if rule is not None and not rule.takes(_given(call, args), kwargs):
        rule = None
    inputs: list[int] = []
    for part in (args, tuple(kwargs.values())):
        _filled(part, lambda ref: inputs.append(ref.index))
    return Step(name, kind, rule, call, args, kwargs, params, tuple(inputs))


def _method(name: str) -> Callable[..., Any]:
    return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)


def _given(call: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a rule is called with by position: a module's has the module first."""
    return (call, *args) if isinstance(call, nn.Module) else args


def _filled(tree: Any, value: Callable[[Ref], Any]) -> Any:
    """Arguments with a value in the place of each `Ref`."""
    return fx.node.map_aggregate(tree, lambda leaf: value(leaf) if isinstance(leaf, Ref) else leaf)


# --- counting


@dataclass(frozen=True)
class Flow:
    """A tensor of the image: its shape, without the batch."""

    shape: Shape


@dataclass(frozen=True)
class Fixed:
    """What does not come from the image, such as a part of a parameter."""

    value: Any


def _run(traced: Traced, shape: Shape) -> Cost:
    values: list[Any] = [Flow(shape)]
    owner = [0]  # the value whose memory each value lies in
    users = {0: {0}}  # memory -> the values alive in it
    sizes = {0: math.prod(shape)}  # elements of the memory that is alive
    peak = macs = flops = 0
    rows = []
    uncovered = []
    for i, step in enumerate(traced.steps):
        done = _counted(step, values)
        entered = [t for t in step.inputs if _tensors(values[t])]
        shares = False
        if entered:
            source = owner[entered[0]]
            in_place = done.memory == "in place" and users[source] <= set(step.last_reads)
            shares = in_place or done.memory == "view"
        out = i + 1
        memory = source if shares else out
        values.append(done.value)
        owner.append(memory)
        users.setdefault(memory, set()).add(out)
        sizes.setdefault(memory, _elements(done.value))
        peak = max(peak, sum(sizes.values()))
        for value in step.last_reads:
            held = owner[value]
            users[held].discard(value)
            if not users[held]:
                del users[held], sizes[held]
        macs += done.macs
        flops += done.macs + done.flops
        for tensor in _tensors(done.value)[:1]:
            leaves = tuple(tensor.shape)
            rows.append(Row(step.name, step.kind, leaves, done.macs, step.params, done.depthwise))
        if not done.covered:
            uncovered.append(step.title)
    peak = max(peak, math.prod(shape))
    left = values[traced.result]
    if not isinstance(left, Flow):
        raise InputError("the network gives no tensor with a row for each image")
    return Cost(
        macs, traced.params, FLOAT_BYTES * peak, left.shape, flops, tuple(rows), tuple(uncovered)
    )


class _Done(NamedTuple):
    """What a step gave and cost, for one image."""

    value: Any  # a Flow, a Fixed, or what else comes from the image: a number, a tuple of tensors
    memory: str
    macs: int = 0
    flops: int = 0
    depthwise: bool = False
    covered: bool = True


def _counted(step: Step, values: Sequence[Any]) -> _Done:
    """By its rule; by running it where that does not do.

    Raises:
        InputError: the operation does not take what enters.
    """
    entered = [tensor for t in step.inputs for tensor in _tensors(values[t])]
    if not entered:
        done = _by_torch(step, values)
        return done._replace(value=Fixed(done.value), macs=0)
    if step.rule is None:
        return _by_torch(step, values)._replace(covered=False)
    if step.rule.effect is None:
        return _by_torch(step, values)._replace(macs=0)
    if not all(isinstance(tensor, Flow) for tensor in entered):
        return _by_torch(step, values)._replace(covered=False)
    args, kwargs = _filled((step.args, step.kwargs), lambda ref: _plain(values[ref.index]))
    try:
        effect = step.rule.effect(*_given(step.call, args), **kwargs)
    except UncoveredError:
        return _by_torch(step, values)._replace(covered=False)
    except InputError as error:
        raise InputError(f"{step.name}: {error}") from None
    return _Done(Flow(effect.shape), step.rule.memory, *effect[1:])


def _plain(value: Any) -> Any:
    """As a rule sees it."""
    if isinstance(value, Flow):
        return value.shape
    return value.value if isinstance(value, Fixed) else value


def _tensors(value: Any) -> list[Flow | Tensor]:
    """The tensors of the image in a value."""
    found: list[Flow | Tensor] = []
    fx.node.map_aggregate(
        value, lambda leaf: found.append(leaf) if isinstance(leaf, Flow | Tensor) else None
    )
    return found


def _elements(value: Any) -> int:
    """Of all tensors of the image in a value, for one image."""
    return sum(
        math.prod(tensor.shape) // (1 if isinstance(tensor, Flow) else BATCH)
        for tensor in _tensors(value)
    )


def _by_torch(step: Step, values: Sequence[Any]) -> _Done:
    """Runs a step for a few images: on the meta device, or on the CPU what cannot be run there.
    Convolutions and matrix products in it are counted."""
    reason = ""
    for device in ("meta", "cpu"):
        try:
            return _run_on(device, step, values)
        except _NoWeightsError:
            break
        except Exception as error:  # whatever a foreign operation raises
            reason = " ".join(str(error).split())
    shapes = [tuple(tensor.shape) for t in step.inputs for tensor in _tensors(values[t])]
    raise InputError(f"{step.title}: does not take {choices(shapes)}: {reason}")


class _NoWeightsError(Exception):
    """Nothing can be computed with weights on the meta device."""


def _run_on(device: str, step: Step, values: Sequence[Any]) -> _Done:
    from torch.utils.flop_counter import FlopCounterMode

    def placed(leaf: Any) -> Any:
        if isinstance(leaf, Flow):
            return torch.zeros((BATCH, *leaf.shape), device=device)
        if not isinstance(leaf, Tensor) or leaf.device.type == device:
            return leaf
        if leaf.is_meta:  # left by a step before, or a weight
            return torch.zeros_like(leaf, device=device)
        return leaf.detach().to(device)

    call = step.call
    if isinstance(call, nn.Module):
        if device != "meta" and any(p.is_meta for p in call.parameters()):
            raise _NoWeightsError
        call = copy.deepcopy(call).to(device).eval()
    inner = {t: fx.node.map_aggregate(_unfixed(values[t]), placed) for t in step.inputs}
    args, kwargs = _filled((step.args, step.kwargs), lambda ref: inner[ref.index])
    args, kwargs = fx.node.map_aggregate((args, kwargs), placed)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        left = call(*args, **kwargs)
    entered = [tensor for value in inner.values() for tensor in _tensors(value)]
    given = [tensor for tensor in _tensors(left) if isinstance(tensor, Tensor)]
    shared = all(x._is_view() or any(x is y for y in entered) for x in given)
    return _Done(
        fx.node.map_aggregate(left, _leaving),
        "view" if shared else "own",
        counter.get_total_flops() // (2 * BATCH),
    )


def _unfixed(value: Any) -> Any:
    return value.value if isinstance(value, Fixed) else value


def _leaving(leaf: Any) -> Any:
    """A tensor with a row for each image as its shape alone."""
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.dim() and len(leaf) == BATCH:
        return Flow(tuple(leaf.shape[1:]))
    return leaf.detach().to("meta")
