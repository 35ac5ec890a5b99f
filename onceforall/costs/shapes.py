"""Networks without values, quickly: `run` and `Unfilled`.

On the meta device PyTorch computes the shapes of many operations in Python, and fills weights that
are not there. But the same operation on the same shapes comes again in every block of a network
and in every arch of a space, and filling has no effect. Knows operations; no networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class _Made(NamedTuple):
    """A tensor that an operation makes anew."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


_MOST = 100_000  # of what is remembered
_WRITTEN, _RUN = "what enters is written into", "to be run each time"
_known: dict[Any, Any] = {}  # operation on shapes -> a _Made, several, or one of these two


def run(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], entered: Sequence[Tensor]
) -> Any:
    """What an operation gives; `entered` are the tensors among the arguments. Where some of them
    have values and others have not, those of the first are left behind."""
    without = [tensor.is_meta for tensor in entered]
    if not any(without):
        return operation(*args, **kwargs)
    if not all(without):
        args, kwargs = pytree.tree_map_only(Tensor, _emptied, (args, kwargs))
        return operation(*args, **kwargs)
    try:
        key = (operation, _signature(args), _signature(tuple(kwargs.items())))
        known = _known.get(key)
    except TypeError:  # an argument that cannot be a key
        known, key = _RUN, None
    if isinstance(known, _Made):
        return known.make()
    if isinstance(known, tuple):
        return tuple(None if made is None else made.make() for made in known)
    if known == _WRITTEN:
        return args[0]
    out = operation(*args, **kwargs)
    if known is None:
        if len(_known) >= _MOST:
            _known.clear()
        _known[key] = _described(out, args, entered, operation)
    return out


def _emptied(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 0 else tensor.to("meta")


def _signature(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return (argument.shape, argument.stride(), argument.dtype)
    if isinstance(argument, list | tuple):
        return tuple([_signature(each) for each in argument])
    return (type(argument), argument)  # 1 and True are one key


def _described(out: Any, args: Sequence[Any], entered: Sequence[Tensor], operation: Any) -> Any:
    if args and out is args[0]:
        return _RUN if torch.Tag.inplace_view in operation.tags else _WRITTEN
    parts = out if isinstance(out, tuple) else (out,)
    held = {tensor.untyped_storage()._cdata for tensor in entered}
    for part in parts:
        if part is None:
            continue
        if not isinstance(part, Tensor) or not part.is_meta:
            return _RUN
        if part.untyped_storage()._cdata in held:
            return _RUN  # a view
    made = tuple(None if p is None else _Made(p.shape, p.stride(), p.dtype) for p in parts)
    return made if isinstance(out, tuple) else made[0]


class Unfilled(TorchDispatchMode):
    """While a network is built on the meta device: its weights are not filled."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        schema = func._schema
        if (
            args
            and isinstance(args[0], Tensor)
            and args[0].is_meta
            and schema.name.endswith("_")
            and schema.is_mutable
            and torch.Tag.inplace_view not in func.tags
        ):
            return args[0]
        return func(*args, **(kwargs or {}))
