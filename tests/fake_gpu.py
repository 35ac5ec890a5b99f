"""A GPU that is not there, for tests: tensors of the device "cuda" that have shapes, strides and
places, and no numbers (PyTorch's `FakeTensorMode`).

Operations on tensors of two devices fail as they do on a GPU; what makes the host wait for it is
noted; what PyTorch's fused optimisers ask of their tensors is looked at. A backward pass asks the
driver, so in its place every parameter that the graph reaches is given a gradient.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
GPU = torch.device("cuda:0")
MEMORY = 80 * 2**30


class Watch(TorchDispatchMode):
    """What the host waited for, by line of our code."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = next((a for a in args if isinstance(a, Tensor)), None)
        if first is not None:
            self._look(func, first, args, kwargs)
        if func is aten._local_scalar_dense.default:  # .item(), bool()
            return True if first is not None and first.dtype == torch.bool else 1
        if func is aten.nonzero.default and first is not None:  # its length depends on numbers
            return torch.zeros((len(first) // 2, first.dim()), dtype=torch.long)
        if "_fused_" in func._schema.name:
            _check_fused(args, kwargs)
            if "sgd" in func._schema.name:
                return None
        return func(*args, **kwargs)

    def _look(self, func: Any, first: Tensor, args: tuple[Any, ...], kwargs: Any) -> None:
        there = first.is_cuda
        waits = func in (aten._local_scalar_dense.default, aten.nonzero.default) and there
        if func is aten._to_copy.default and (to := kwargs.get("device")) is not None:
            moved = torch.device(to).type != first.device.type
            waits = moved and not kwargs.get("non_blocking")
        elif func is aten.copy_.default:
            waits = args[1].is_cuda != there and not any(args[2:])
        if waits:
            ours = [f for f in traceback.extract_stack() if "/onceforall/" in f.filename]
            line = ours[-1] if ours else None
            self.waits[f"{func} at {line and line.filename}:{line and line.lineno}"] += 1


def _check_fused(args: tuple[Any, ...], kwargs: Any) -> None:
    """As PyTorch's kernels do: parameters, gradients and states of each lie alike."""
    lists = [x for x in args if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
    parameters = lists[0]
    alike = [x for x in lists if x[0].shape == parameters[0].shape]
    for tensors in zip(*alike, strict=True):
        wide = [[s for s, n in zip(t.stride(), t.shape, strict=True) if n != 1] for t in tensors]
        assert all(strides == wide[0] for strides in wide), [t.stride() for t in tensors]
        assert {t.device for t in tensors} == {parameters[0].device}
    for name in ("found_inf", "grad_scale"):
        value = kwargs.get(name)
        assert value is None or value.device == parameters[0].device, name


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """While the block runs, tensors may be on GPU."""
    cuda: dict[str, Any] = {
        "current_device": lambda: 0,
        "manual_seed": lambda seed: None,
        "synchronize": lambda device=None: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=MEMORY),
    }
    watch = Watch()
    with monkeypatch.context() as patch:
        for name, value in cuda.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(Tensor, "pin_memory", lambda self, *_: self)
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(nn.Module, "_apply", _apply)
        with FakeTensorMode(allow_non_fake_inputs=True), watch:
            yield watch


def _backward(self: Tensor, *_: Any, **__: Any) -> None:
    seen: set[Any] = set()
    left: list[Any] = [self.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        if (parameter := getattr(node, "variable", None)) is not None:
            with torch.no_grad():
                found = torch.empty_like(parameter)
                parameter.grad = found if parameter.grad is None else parameter.grad.add_(found)


def _apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` without exchanging tensors' insides, which fake ones do not allow."""
    for child in self.children():
        child._apply(change)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = change(parameter.detach())
            if moved.device == parameter.device:
                parameter.data = moved
            else:
                self._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = change(buffer)
    return self
