"""Which part of a tensor of the largest network belongs to a smaller one: one table of rules.

A rule is found by the first that applies of: the family's own rules (by the parameter's name), the
module's class attribute `lending`, `NAMED` (by the parameter's name), `TYPED` (by the module's
type). A tensor of the same shape in both networks is lent whole. Where the shapes differ and no
rule applies, the family is refused when it is made: nothing is guessed.

Rules see nothing but tensors and shapes, so they work on the meta device too, and gradients pass
through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from onceforall.errors import InputError


@dataclass(frozen=True)
class Site:
    """Where a tensor is lent to: the parameter or buffer `name` of `module`, of this shape.

    Attributes:
        owner: the largest network's module of the same name.
        smaller: a convolution's kernel at a smaller size, by the family's transforms.
    """

    name: str
    module: nn.Module
    owner: nn.Module
    shape: torch.Size
    smaller: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Rule:
    """How a tensor is cut for a site.

    Attributes:
        cut: (largest network's tensor, site) -> tensor of the site's shape; a ValueError says what
            cannot be cut.
        parts: of how many equal parts its first dimension is made, each of them cut by itself.
    """

    name: str
    cut: Callable[[Tensor, Site], Tensor]
    parts: int = 1


def stacked(parts: int) -> Rule:
    """Leading entries of every dimension; the first is so many equal parts, each cut by itself."""

    def cut(source: Tensor, site: Site) -> Tensor:
        if len(source) % parts or site.shape[0] % parts:
            raise ValueError(f"{len(source)} or {site.shape[0]} rows are not {parts} equal parts")
        apart = source.unflatten(0, (parts, -1))
        return _leading(apart, (parts, site.shape[0] // parts, *site.shape[1:])).flatten(0, 1)

    return Rule(f"{parts} parts", cut, parts)


def _leading(source: Tensor, shape: tuple[int, ...]) -> Tensor:
    for dim, size in enumerate(shape):
        if size > source.shape[dim]:
            raise ValueError(f"dimension {dim} would have to grow")
        if size != source.shape[dim]:
            source = source.narrow(dim, 0, size)
    return source


def _convolution(source: Tensor, site: Site) -> Tensor:
    """Leading channels of the leading groups; then the kernel, down its sizes."""
    assert isinstance(site.owner, _ConvNd)
    assert isinstance(site.module, _ConvNd)
    groups, wanted = site.owner.groups, site.module.groups
    if groups == wanted or source.shape[1] == site.shape[1] == 1:
        source = _grouped(source, site, groups if groups == wanted else 1)
    elif len(source) // groups == site.shape[0] // wanted:  # fewer groups, each of leading channels
        source = _leading(source, (*site.shape[:2], *source.shape[2:]))
    else:
        raise ValueError(f"{groups} groups cannot become {wanted}, each of other channels")
    if source.shape[2:] == site.shape[2:]:
        return source
    if len(set(site.shape[2:])) > 1 or len(set(source.shape[2:])) > 1:
        raise ValueError("only kernels as high as wide have smaller ones")
    return site.smaller(source, site.shape[2])


def _grouped(source: Tensor, site: Site, groups: int) -> Tensor:
    if groups == 1:
        return _leading(source, (*site.shape[:2], *source.shape[2:]))
    apart = source.unflatten(0, (groups, -1))
    shape = (groups, site.shape[0] // groups, site.shape[1], *source.shape[2:])
    return _leading(apart, shape).flatten(0, 1)


def _positions(source: Tensor, site: Site) -> Tensor:
    """(1, N, C): leading channels; N = class and other tokens, which stay, and a square grid of
    positions, which is resized (bicubic, with antialiasing) where an input of another size has
    another grid."""
    source = _leading(source, (*site.shape[:1], source.shape[1], *site.shape[2:]))
    n, wanted = source.shape[1], site.shape[1]
    if n == wanted:
        return source
    side, new = math.isqrt(n), math.isqrt(wanted)
    tokens = n - side * side
    if source.dim() != 3 or wanted - new * new != tokens:
        raise ValueError(f"{n} or {wanted} positions are not a square grid and the same tokens")
    grid = source[:, tokens:].unflatten(1, (side, side)).movedim(3, 1)
    grid = functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    return torch.cat([source[:, :tokens], grid.movedim(1, 3).flatten(1, 2)], dim=1)


def _relative(source: Tensor, site: Site) -> Tensor:
    """(D * D, heads): the centre of the grid of distances, leading heads."""
    side, new = math.isqrt(len(source)), math.isqrt(site.shape[0])
    if side * side != len(source) or new * new != site.shape[0] or (side - new) % 2 or new > side:
        raise ValueError(f"{len(source)} or {site.shape[0]} distances are not a centred square")
    start = (side - new) // 2
    grid = source.unflatten(0, (side, side))[start : start + new, start : start + new]
    return _leading(grid.flatten(0, 1), tuple(site.shape))


leading = Rule("leading", lambda source, site: _leading(source, tuple(site.shape)))
thirds = stacked(3)
convolution = Rule("convolution", _convolution)
positions = Rule("positions", _positions)
relative = Rule("relative positions", _relative)

Rules = Mapping[str, Rule]  # pattern of a parameter's name, as of files -> rule

NAMED: Rules = {
    "*qkv.weight": thirds,
    "*qkv.bias": thirds,
    "*cls_token": leading,
    "*dist_token": leading,
    "*reg_token": leading,
    "*class_token": leading,
    "*mask_token": leading,
    "*gamma": leading,  # LayerScale, of timm
    "*gamma_[12]": leading,
    "*layer_scale*": leading,
    "*pos_embed": positions,
    "*pos_embedding": positions,
    "*relative_position_bias_table": relative,
}

TYPED: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Rules], ...] = (
    (nn.MultiheadAttention, {"in_proj_weight": thirds, "in_proj_bias": thirds, "bias_?": leading}),
    (_ConvNd, {"weight": convolution, "bias": leading}),
    (nn.Linear, {"weight": leading, "bias": leading}),
    (nn.Bilinear, {"weight": leading, "bias": leading}),
    (nn.Embedding, {"weight": leading}),
    (_NormBase, {"*": leading}),  # batch norms of every kind, instance norms; and their statistics
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), {"weight": leading, "bias": leading}),
    (nn.PReLU, {"weight": leading}),
)


def rule_for(name: str, module: nn.Module, own: Rules) -> Rule | None:
    """The rule for a parameter or buffer of a module; None: there is none.

    Args:
        name: from the whole network's root, such as `blocks.0.attn.qkv.weight`.
    """
    last = name.rpartition(".")[2]
    typed = [rules for types, rules in TYPED if isinstance(module, types)]
    of_class: Rules = getattr(module, "lending", {})
    for rules, text in ((own, name), (of_class, last), (NAMED, name), *((r, last) for r in typed)):
        for pattern, rule in rules.items():
            if fnmatchcase(text, pattern):
                return rule
    return None


def lend(source: Tensor, site: Site, rule: Rule | None) -> Tensor:
    """The part of the largest network's tensor that belongs to a site.

    Raises:
        InputError: no rule covers it; names the parameter and both shapes.
    """
    if source.shape == site.shape:
        return source
    both = f"{site.name} is {tuple(source.shape)} in the largest network, {tuple(site.shape)} here"
    if rule is None:
        raise InputError(
            f"{both}, and no rule says which part of it that is: give rules={{{site.name!r}:"
            f" lending.leading}}, or its class {type(site.module).__name__} an attribute `lending`"
        )
    if source.dim() != len(site.shape):
        raise InputError(f"{both}: another number of dimensions")
    try:
        found = rule.cut(source, site)
    except ValueError as error:
        raise InputError(f"{both}: {error} ({rule.name})") from None
    if found.shape != site.shape:
        raise InputError(f"{both}: the rule {rule.name!r} gives {tuple(found.shape)}")
    return found


class Place(NamedTuple):
    """Where a network has a tensor: the parameter or buffer `last` of a module."""

    name: str  # from the network's root
    module: nn.Module
    last: str

    @property
    def tensor(self) -> Tensor:
        """What is there now."""
        own = self.module._parameters.get(self.last)
        return self.module._buffers[self.last] if own is None else own  # type: ignore[return-value]


def places(network: nn.Module, root: str = "") -> list[Place]:
    """Of all parameters and buffers. What is tied has a place for each of its names."""
    found = []
    for path, module in network.named_modules(prefix=root, remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for own in (module._parameters, module._buffers):
            found += [Place(prefix + n, module, n) for n, t in own.items() if t is not None]
    return found


def named_tensors(network: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
    """(name, the module that has it, tensor) of all parameters and buffers, tied ones under each
    of their names."""
    return [(place.name, place.module, place.tensor) for place in places(network)]


def center_crop(kernel: Tensor, size: int) -> Tensor:
    """(out, in, K, ...) -> (out, in, size, ...)

    Raises:
        ValueError: the kernel has no centre of that size.
    """
    start, odd = divmod(kernel.shape[-1] - size, 2)
    if odd or start < 0:
        raise ValueError(f"a kernel of {kernel.shape[-1]} has no centre of {size}")
    for dim in range(2, kernel.dim()):
        kernel = kernel.narrow(dim, start, size)
    return kernel
