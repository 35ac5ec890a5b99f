"""Batch norm with its activation, and what lies between two of them, as one operation each: in
training on the CPU, where PyTorch reads and writes memory for every step of it.

    norm_act:         act(norm(x)), and a shortcut added
    norm_act_between: a depthwise convolution of act(norm(x)), then norm, act, squeeze-excite

Both compute what the modules of a block compute, in the same precision with other roundings, and
their gradients are written by hand; of the activations only the convolutions' outputs are kept.
`usable` says whether they may stand in for modules: only where nobody can see the difference.
This file knows modules' tensors and settings, not blocks, and nothing of supernets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from onceforall.families import kernels

ACTS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}
KERNELS = (3, 5, 7)  # of depthwise convolutions
LAST = torch.channels_last


def usable(x: Tensor, *modules: nn.Module | None) -> bool:
    """Whether the operations here may compute what these modules compute of `x`: batch norms of
    the batch's statistics, in float32 or float64 on the CPU, with no hooks, modes, transforms or
    tracing that would have to know of each module's or operation's part."""
    if torch.compiler.is_compiling():  # first: the compiler cannot follow the other questions
        return False
    if type(x) not in (Tensor, nn.Parameter) or torch.is_autocast_enabled("cpu"):
        return False  # torch.fx traces with what is no tensor
    if not (x.device.type == "cpu" and x.dtype in kernels.SUFFIX and x.dim() == 4):
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or _has_any_global_hook():
        return False
    if torch._C._get_tracing_state() is not None:
        return False
    return all(m is None or _plain(m, x.dtype) for m in modules) and kernels.available()


def code(act: nn.Module | None) -> int | None:
    """An activation as the kernels take it; None: they have no such."""
    return 0 if act is None else ACTS.get(type(act))


def covers(conv: nn.Conv2d) -> bool:
    """Whether `norm_act_between` has this convolution; it is padded by half its kernel, or as
    SAME."""
    size, stride = conv.kernel_size, conv.stride
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and size[0] == size[1]
        and size[0] in KERNELS
        and stride[0] == stride[1]
        and conv.dilation == (1, 1)
        and conv.bias is None
        and conv.padding in ((0, 0), (size[0] // 2, size[0] // 2))
    )


def rows(x: Tensor) -> int:
    """Values of each channel of (N, C, H, W)."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def _plain(module: nn.Module, dtype: torch.dtype) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    if any(hooks) or module._backward_pre_hooks or not module.training:
        return False
    if isinstance(module, nn.BatchNorm2d):
        if type(module) is not nn.BatchNorm2d or module.weight is None or module.bias is None:
            return False
        if module.track_running_stats and module.momentum is None:
            return False
    own = module._parameters.values()
    return all(p is None or (p.dtype == dtype and p.device.type == "cpu") for p in own)


def norm_act(
    x: Tensor, norm: nn.BatchNorm2d, act: int = 0, shortcut: Tensor | None = None
) -> Tensor:
    """(N, C, H, W) -> the same: `act` of the norm of `x`, then the shortcut added."""
    out, mean, var = _NormAct.apply(x, norm.weight, norm.bias, shortcut, act, norm.eps)
    _follow(norm, mean, var, rows(x))
    return out


class Gate(NamedTuple):
    """The two 1x1 convolutions of a squeeze-excite: ReLU between them, hard sigmoid after."""

    reduce: nn.Conv2d
    expand: nn.Conv2d


def norm_act_between(
    x: Tensor,  # (N, C, H, W)
    before: nn.BatchNorm2d | None,  # None: x is taken as it is
    conv: nn.Conv2d,
    after: nn.BatchNorm2d,
    act: int,  # of both norms
    gate: Gate | None,
    padding: tuple[int, int, int, int],  # top, bottom, left, right
) -> Tensor:
    """(N, C, H, W) -> (N, C, H', W')"""
    pre: tuple[Tensor | None, Tensor | None, float]
    pre = (None, None, 0.0) if before is None else (before.weight, before.bias, before.eps)
    gates: tuple[Tensor | None, ...] = (None,) * 4
    if gate is not None:
        gates = (gate.reduce.weight, gate.reduce.bias, gate.expand.weight, gate.expand.bias)
    out, mean, var, pre_mean, pre_var = _Between.apply(
        x,
        *pre,
        conv.weight,
        after.weight,
        after.bias,
        after.eps,
        *gates,
        act,
        conv.stride[0],
        padding,
    )
    if before is not None:
        _follow(before, pre_mean, pre_var, rows(x))
    _follow(after, mean, var, rows(out))
    return out


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, rows: int) -> None:
    """Moves a norm's running statistics, as it does itself in training."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (rows / (rows - 1)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


class _Norm(NamedTuple):
    """A norm of the batch, as the kernels take it; each (C,)."""

    mean: Tensor
    rstd: Tensor  # 1 / standard deviation
    weight: Tensor
    bias: Tensor


def _rows(x: Tensor) -> tuple[int, int]:
    return rows(x), x.shape[1]


def _norm_of(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[_Norm, Tensor, Tensor]:
    """A norm of the values of `x`, and their mean and variance."""
    mean, var, rstd = x.new_empty((3, x.shape[1]))
    kernels.call("moments", x.dtype, x, *_rows(x), eps, mean, var, rstd)
    return _Norm(mean, rstd, weight.contiguous(), bias.contiguous()), mean, var


def _by_norm(norm: _Norm, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by a norm's weight and bias, of what `backward_sums` gives: (2, C)."""
    return sums[1] * norm.rstd, sums[0]


def _applied(x: Tensor, norm: _Norm, act: int, other: Tensor | None, gate: Tensor | None) -> Tensor:
    out = torch.empty_like(x, memory_format=LAST)
    pixels = x.shape[2] * x.shape[3]
    kernels.call("apply", x.dtype, x, other, gate, pixels, *_rows(x), *norm, act, out)
    return out


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        act: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=LAST)
        norm, mean, var = _norm_of(x, weight, bias, eps)
        other = None if shortcut is None else shortcut.contiguous(memory_format=LAST)
        out = _applied(x, norm, act, other, None)
        ctx.save_for_backward(x, *norm)
        ctx.act = act
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if g is None:
            return (None,) * 6
        x, *tensors = ctx.saved_tensors
        norm = _Norm(*tensors)
        own = g.contiguous(memory_format=LAST)
        sums = x.new_empty((2, x.shape[1]))
        kernels.call("backward_sums", x.dtype, own, x, *_rows(x), *norm, ctx.act, sums)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(own, x, norm, ctx.act, sums)
        shortcut = g if ctx.needs_input_grad[3] else None
        return dx, *_by_norm(norm, sums), shortcut, None, None


def _input_gradient(
    g: Tensor, x: Tensor, norm: _Norm, act: int, sums: Tensor, out: Tensor | None = None
) -> Tensor:
    out = torch.empty_like(x, memory_format=LAST) if out is None else out
    kernels.call("backward_input", x.dtype, g, x, *_rows(x), *norm, act, sums[0], sums[1], out)
    return out


class _Between(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        pre_weight: Tensor | None,
        pre_bias: Tensor | None,
        pre_eps: float,
        weight: Tensor,  # (C, 1, K, K)
        post_weight: Tensor,
        post_bias: Tensor,
        post_eps: float,
        reduce_weight: Tensor | None,  # (mid, C, 1, 1)
        reduce_bias: Tensor | None,
        expand_weight: Tensor | None,  # (C, mid, 1, 1)
        expand_bias: Tensor | None,
        act: int,
        stride: int,
        padding: tuple[int, int, int, int],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        x = x.contiguous(memory_format=LAST)
        n, c, h, w = x.shape
        top, bottom, left, right = padding
        k = weight.shape[-1]
        out_h, out_w = (h + top + bottom - k) // stride + 1, (w + left + right - k) // stride + 1
        shape = (n, c, h, w, k, stride, top, left, out_h, out_w)
        pre: _Norm | None = None
        pre_mean = pre_var = None
        if pre_weight is not None and pre_bias is not None:
            pre, pre_mean, pre_var = _norm_of(x, pre_weight, pre_bias, pre_eps)
        taps = weight.reshape(c, k * k).t().contiguous()
        y = torch.empty((n, c, out_h, out_w), dtype=x.dtype, memory_format=LAST)
        mean, var, rstd = x.new_empty((3, c))
        kernels.call("convolve", x.dtype, shape, x, pre, act, taps, y, post_eps, mean, var, rstd)
        post = _Norm(mean, rstd, post_weight.contiguous(), post_bias.contiguous())
        gate = None
        inner: list[Tensor] = []
        if reduce_weight is not None and expand_weight is not None:
            pooled = x.new_empty((n, c))
            kernels.call("pool", x.dtype, y, n, out_h * out_w, c, *post, act, pooled)
            reduce, expand = reduce_weight.flatten(1), expand_weight.flatten(1)
            hidden = torch.addmm(reduce_bias, pooled, reduce.t()).relu_()  # type: ignore[arg-type]
            opened = torch.addmm(expand_bias, hidden, expand.t())  # type: ignore[arg-type]
            gate = nn.functional.hardsigmoid(opened)
            inner = [pooled, hidden, opened, gate, reduce, expand]
        out = _applied(y, post, act, None, gate)
        ctx.save_for_backward(x, y, taps, *post, *(pre or (None,) * 4), *inner)
        ctx.shape, ctx.act, ctx.weight = shape, act, weight.shape
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, var)
        if pre_mean is not None and pre_var is not None:
            ctx.mark_non_differentiable(pre_mean, pre_var)
        return out, mean, var, pre_mean, pre_var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if g is None:
            return (None,) * 15
        x, y, taps, *rest = ctx.saved_tensors
        post, inner = _Norm(*rest[:4]), rest[8:]
        pre = None if rest[4] is None else _Norm(*rest[4:8])
        n, c = x.shape[:2]
        g = g.contiguous(memory_format=LAST)
        sums = x.new_empty((2, c))
        gate = lift = None
        gates: tuple[Tensor | None, ...] = (None,) * 4
        if inner:
            pixels = y.shape[2] * y.shape[3]
            found = x.new_empty((5, n, c))
            kernels.call("gate_sums", x.dtype, g, y, n, pixels, c, *post, ctx.act, found)
            gate = inner[3]
            *gates_, pooled = _gate_gradients(found[4], *inner)
            gates = tuple(gates_)
            lift = pooled / pixels
            sums[0] = (gate * found[0] + lift * found[1]).sum(0)
            sums[1] = (gate * found[2] + lift * found[3]).sum(0)
        else:
            kernels.call("backward_sums", x.dtype, g, y, *_rows(y), *post, ctx.act, sums)
        dx, dw = torch.empty_like(x, memory_format=LAST), torch.empty_like(taps)
        own = x.new_empty((2, c))
        kernels.call(
            "convolve_backward", x.dtype, ctx.shape, g, gate, lift, y, post, sums[0], sums[1], x,
            pre, ctx.act, taps, dx, dw, own[0], own[1],
        )  # fmt: skip
        before: tuple[Tensor | None, Tensor | None] = (None, None)
        if pre is not None:
            before = _by_norm(pre, own)
            dx = _input_gradient(dx, x, pre, 0, own, dx)
        weight = dw.t().reshape(ctx.weight)
        after = _by_norm(post, sums)
        return (dx, *before, None, weight, *after, None, *gates, None, None, None)


def _gate_gradients(
    g: Tensor,  # (N, C), by the gate
    pooled: Tensor,
    hidden: Tensor,
    opened: Tensor,
    gate: Tensor,
    reduce: Tensor,
    expand: Tensor,
) -> tuple[Tensor, ...]:
    """By the four tensors of a squeeze-excite's convolutions, and by the means it starts from."""
    g = g * ((opened > -3) & (opened < 3)) / 6
    inner = (g @ expand) * (hidden > 0)
    by_reduce, by_expand = inner.t() @ pooled, g.t() @ hidden
    return (
        by_reduce[:, :, None, None],
        inner.sum(0),
        by_expand[:, :, None, None],
        g.sum(0),
        inner @ reduce,
    )
