"""The cost of any network: `count` runs it once and counts operations as they come.

It is run for one image on the meta device, where tensors have shapes and no values; a network that
needs values (its way depends on them) on the CPU. What does not depend on the image, such as a
mask or a bias made of parameters alone, costs nothing: a delivered network holds it ready. Knows
an `nn.Module`; no family and no arch.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from onceforall.costs import operations, shapes
from onceforall.costs.memory import Event, Lies, alive, with_last
from onceforall.costs.result import FLOAT_BYTES, Cost, Row, Shape
from onceforall.errors import InputError


def count(network: nn.Module, shape: Shape, *, own: bool = False) -> Cost:
    """The cost of a network for one input of `shape`, (C, H, W).

    Args:
        own: the network may be changed: it is put into inference, and no copy is made.

    Raises:
        InputError: it cannot be run on such an input, or gives no tensor with a row for an image.
    """
    title = type(network).__name__
    reason = ""
    for device in ("meta", "cpu"):
        try:
            return _count(_ready(network, device, own), shape, device)
        except (InputError, _NoWeightsError) as error:
            reason = reason or str(error)
            break
        except Exception as error:  # whatever the forward of a foreign network raises
            reason = " ".join(str(error).split()) or type(error).__name__
    raise InputError(f"{title}: cannot be counted on an input of {shape}: {reason}")


class _NoWeightsError(Exception):
    """Nothing can be computed with weights on the meta device."""


def _ready(network: nn.Module, device: str, own: bool) -> nn.Module:
    """The network at inference on a device; a copy, whose weights have no values on the meta
    device and are the network's own on the CPU, unless it may be changed and is there."""
    tensors = list(itertools.chain(network.parameters(), network.buffers()))
    if device != "meta" and any(t.is_meta for t in tensors):
        raise _NoWeightsError("it needs values, and its weights have none")
    if own and all(t.device.type == device for t in tensors):
        return network.eval()
    memo: dict[int, Any] = {}
    for tensor in tensors:
        moved = tensor.detach().to(device)
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=False)
        elif device == "cpu":
            moved = moved.clone()  # a buffer that the network writes into
        memo[id(tensor)] = moved
    return copy.deepcopy(network, memo).eval()


def _count(network: nn.Module, shape: Shape, device: str) -> Cost:
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    image = torch.zeros((1, *shape), device=device, dtype=dtype)
    counter = _Counter(network, image)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _plain_attention(), counter:
            left = network(image)
    finally:
        counter.remove_hooks()
    if not isinstance(left, Tensor):
        raise InputError("it gives more than one tensor, or none")
    result = counter.value_of(left)
    if result is None or not left.dim() or len(left) != 1:
        raise InputError("it gives no tensor with a row for each image")
    return counter.cost(result, tuple(left.shape[1:]))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the one operation that PyTorch puts in the place of a whole attention layer."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Done(NamedTuple):
    """One operation that was counted."""

    place: int  # of its row
    name: str
    macs: int
    flops: int


class _Counter(TorchDispatchMode):
    """Counts the operations of a network while it runs.

    A value is what an operation computed from the image; it is known by the storage that holds it,
    which is not kept alive.
    """

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self._values = WeakIdKeyDictionary()  # storage -> value
        self._sizes = [_bytes(image)]
        self._values[image.untyped_storage()] = 0
        self._events: list[Event] = []
        self._done: list[_Done] = []
        self._rows: list[Row] = []
        self._uncovered: dict[str, None] = {}
        self._counted: set[int] = set()  # parameters that a row has
        self._open: list[tuple[str, nn.Module, int | None]] = []  # modules at work, with their row
        self._network = network
        self._hooks = [
            hook
            for name, module in network.named_modules()
            for hook in (
                module.register_forward_pre_hook(self._enter(name)),
                module.register_forward_hook(self._leave, always_call=True),
            )
        ]

    def remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def value_of(self, tensor: Tensor) -> int | None:
        """None: it does not depend on the image."""
        found: int | None = self._values.get(tensor.untyped_storage())
        return found

    def cost(self, result: int, output_shape: Shape) -> Cost:
        """Of all that came."""
        events = _padded_as_read(self._events, [done.name for done in self._done])
        rows = list(self._rows)
        held = alive(_without_unread(with_last(events, result)), self._sizes)
        for done, size in zip(self._done, held, strict=True):
            row = rows[done.place]
            rows[done.place] = row._replace(alive_bytes=max(row.alive_bytes, size))
        return Cost(
            sum(done.macs for done in self._done),
            sum(p.numel() for p in self._network.parameters()),
            max(self._sizes[0], *held) if held else self._sizes[0],
            output_shape,
            sum(done.macs + done.flops for done in self._done),
            (*rows, *self._others()),
            tuple(self._uncovered),
        )

    # --- modules at work

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._open.append((name, module, None))

        return enter

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self._open.pop()

    def _row(self, operation: Any, out: Tensor, macs: int, depthwise: bool) -> int:
        """The place of the operation's row: that of the module at work where it has no parts."""
        name, module, place = self._open[-1] if self._open else ("", self._network, None)
        shape = tuple(out.shape[1:] if out.dim() and len(out) == 1 else out.shape)
        if place is not None:
            row = self._rows[place]
            self._rows[place] = row._replace(
                output_shape=shape, macs=row.macs + macs, depthwise=row.depthwise or depthwise
            )
            return place
        kind = operations.name_of(operation)
        params = 0
        if next(module.children(), None) is None:
            kind = type(module).__name__
            name = name or kind
            new = [p for p in module.parameters() if id(p) not in self._counted]
            self._counted |= {id(p) for p in new}
            params = sum(p.numel() for p in new)
            self._open[-1:] = [(name, module, len(self._rows))]
        else:
            name = f"{name}.{kind}" if name else kind
        self._rows.append(Row(name, kind, shape, macs, params, depthwise))
        return len(self._rows) - 1

    # --- operations

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if operations.is_made_of_others(func):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        entered = _tensors(args, *kwargs.values())
        before = [self.value_of(tensor) for tensor in entered]
        out = shapes.run(func, args, kwargs, entered)
        reads = tuple(dict.fromkeys(value for value in before if value is not None))
        if reads:
            self._note(func, args, kwargs, out, entered, reads, _tensors(out))
        return out

    def _note(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        out: Any,
        entered: list[Tensor],
        reads: tuple[int, ...],
        given: list[Tensor],
    ) -> None:
        """Counts an operation on what comes from the image."""
        if not operations.is_known(func):
            self._uncovered[self._title(func)] = None
        if not given:
            return
        gives, lies = self._placed(func, entered, given)
        macs = operations.macs_of(func, args, kwargs, out)
        if not gives and operations.is_view(func):
            if next(self._open[-1][1].children(), None) is None:
                self._row(func, given[0], 0, False)
            return
        flops = operations.flops_beside(func, args, out)
        place = self._row(func, given[0], macs, operations.is_depthwise(func, args))
        self._events.append(Event(reads, gives, lies))
        self._done.append(_Done(place, operations.name_of(func), macs, flops))

    def _title(self, func: Any) -> str:
        name = operations.spoken(func)
        path = self._open[-1][0] if self._open else ""
        return f"{path} ({name})" if path else name

    def _placed(
        self, func: Any, entered: list[Tensor], given: list[Tensor]
    ) -> tuple[tuple[int, ...], Lies]:
        """The values that are new, and where they lie. What is written in place is no new value,
        unless it is made of two tensors: it costs what it costs in a place of its own."""
        held = {tensor.untyped_storage()._cdata for tensor in entered}
        alone = operations.writes_in_place(func)
        gives = []
        for tensor in given:
            storage = tensor.untyped_storage()
            if storage._cdata in held:
                written = operations.is_elementwise(func) and not alone
                whole = tensor.numel() * tensor.element_size() == storage.nbytes()
                if storage in self._values and not (written and whole):
                    continue
            self._values[storage] = len(self._sizes)
            gives.append(len(self._sizes))
            self._sizes.append(_bytes(tensor))
        return tuple(gives), "in place" if alone else "own"

    def _others(self) -> Iterator[Row]:
        """Rows of the parameters that belong to no module that has a row."""
        for name, parameter in self._network.named_parameters():
            if id(parameter) not in self._counted:
                yield Row(name, "Parameter", tuple(parameter.shape), 0, parameter.numel())


def _tensors(*values: Any) -> list[Tensor]:
    """Those in values, and in lists of values."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
    return found


def _padded_as_read(events: list[Event], names: list[str]) -> list[Event]:
    """A padding that only convolutions and poolings read owns nothing: they pad as they read."""
    readers: dict[int, set[str]] = {}
    for event, name in zip(events, names, strict=True):
        for value in event.reads:
            readers.setdefault(value, set()).add(name)
    return [
        event._replace(lies="view")
        if name in operations.PADDINGS and readers.get(event.gives[0], {name}) <= operations.PADS
        else event
        for event, name in zip(events, names, strict=True)
    ]


def _without_unread(events: list[Event]) -> list[Event]:
    """Of what an operation gives, only what is read again, or the first: norms and poolings also
    give what only training reads."""
    found = []
    for event in events:
        read = tuple(v for v in event.gives if v not in event.last)
        gone = set(event.gives) - set(read or event.gives[:1])
        last = tuple(v for v in event.last if v not in gone)
        found.append(event._replace(gives=read or event.gives[:1], last=last))
    return found


def _bytes(tensor: Tensor) -> int:
    """Of the memory it lies in; of any floating-point number 4."""
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    return elements * (FLOAT_BYTES if tensor.is_floating_point() else tensor.element_size())
