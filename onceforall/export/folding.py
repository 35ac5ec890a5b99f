"""Fewer operations that compute the same, for files to be written from.

Batch norm goes into the convolution before it, and so does all of a hard sigmoid but the
clipping: `x / 6 + 1/2` is a convolution with other weights. Knows modules and their order,
nothing of files.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onceforall.families.layers import SameConv2d


class Tracer(fx.Tracer):
    """Keeps our own convolution whole, which depends on its input's size."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SameConv2d) or super().is_leaf_module(m, module_qualified_name)


class UnitClip(nn.Module):
    """Clips to 0 and 1; any shape. The 1 is the next number above it: exported programs leave out
    what is the default, and ExecuTorch's passes miss it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, 0.0, 1.0 + torch.finfo(torch.float32).eps)


def folded(network: nn.Module) -> nn.Module:
    """What `network` computes in evaluation mode; `network` itself where it cannot be traced."""
    try:
        traced = fx.GraphModule(network, Tracer().trace(network))
    except Exception:  # whatever the forward of a foreign network raises
        return network
    for node in list(traced.graph.nodes):
        conv, module = _conv_before(traced, node), _module(traced, node)
        if conv is None:
            continue
        place = node.args[0]
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            traced.set_submodule(str(place.target), nn.utils.fuse_conv_bn_eval(conv, module))
            node.replace_all_uses_with(place)
            traced.graph.erase_node(node)
        elif isinstance(module, nn.Hardsigmoid):
            traced.set_submodule(str(place.target), _scaled(conv))
            traced.set_submodule(str(node.target), UnitClip())
    traced.recompile()
    return traced.eval()


def without_ceilings(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Has average pools round their output's size down where that is the same for images of
    `shape` (C, H, W): some runtimes do not round up, others count what it adds."""

    def settle(pool: nn.AvgPool2d, given: tuple[Tensor, ...]) -> None:
        down = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding)
        if pool.ceil_mode and down(given[0]).shape == nn.AvgPool2d.forward(pool, given[0]).shape:
            pool.ceil_mode = False

    pools = [m for m in network.modules() if isinstance(m, nn.AvgPool2d) and m.ceil_mode]
    if pools:
        hooks = [pool.register_forward_pre_hook(settle) for pool in pools]
        network(torch.zeros((1, *shape)))
        for hook in hooks:
            hook.remove()


def _conv_before(traced: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """The convolution that this module alone reads; None: there is none, or one that is called
    more than once."""
    place = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(place, fx.Node) or len(place.users) > 1:
        return None
    conv = _module(traced, place)
    called = sum(other.target in (place.target, node.target) for other in traced.graph.nodes)
    return conv if isinstance(conv, nn.Conv2d) and called == 2 else None


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _scaled(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv(x) / 6 + 1/2`."""
    new = copy.deepcopy(conv)
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    new.weight = nn.Parameter(conv.weight.detach() / 6)
    new.bias = nn.Parameter(bias.detach() / 6 + 0.5)
    return new
