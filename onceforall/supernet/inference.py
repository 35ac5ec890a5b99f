"""Which channels of a network can change places, for a network that does not say so.

Dimensions of tensors that change with a choice are candidates. Which of them hold the same
channels is inferred by perturbing one channel where it is written and looking where the change
arrives alone: single entries of a later input are channels, blocks of entries are whole heads.
A later input in which everything changes lies behind a layer that mixes. What was inferred is
then proved on a network with random weights, in double precision: permuting all of a group must
leave the output unchanged but for the last bits, and permuting a part of it must not. A group that
fails is not sorted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from onceforall.families import Family, lending
from onceforall.families.survey import Shapes, changed, shapes_of
from onceforall.space import Arch
from onceforall.space.genes import RESOLUTION, Value

UNCHANGED = 1e-9  # largest difference of a proof, as a share of the output's size
CHANGED = 1e-6  # least difference when a part of a group is permuted alone


@dataclass(frozen=True)
class Axis:
    """Channels lie along this dimension of a tensor, in so many equal parts one after another."""

    tensor: str
    dim: int
    parts: int = 1


@dataclass(frozen=True)
class Group:
    """Axes of the same pieces. `readers` are those of weights that read them."""

    axes: tuple[Axis, ...]
    readers: tuple[Axis, ...]
    pieces: int


@dataclass(frozen=True)
class Found:
    """What may be sorted, and sentences on what may not."""

    groups: tuple[Group, ...]
    unsorted: tuple[str, ...]


def pieces_of(tensor: Tensor, axis: Axis, pieces: int) -> Tensor:
    """(pieces,) the L1 norm of the entries of each."""
    apart = tensor.movedim(axis.dim, 0).reshape(axis.parts, pieces, -1)
    return apart.abs().sum((0, 2))


def permute(tensor: Tensor, axis: Axis, order: Tensor) -> None:
    """Puts the pieces along an axis into another order, in place."""
    moved = tensor.movedim(axis.dim, 0)
    apart = moved.unflatten(0, (axis.parts, len(order), -1))
    tensor.copy_(apart[:, order].flatten(0, 2).movedim(0, axis.dim))


def sizes(family: Family, group: Group, formed: Mapping[str, int]) -> set[int]:
    """How many pieces of a group the networks have that are made of the largest choices, so many
    of each kind as are in use."""
    space = family.space
    axis = group.axes[0]

    def size(**values: Value) -> int | None:
        shape = _shapes(family, changed(space, **values)).get(axis.tensor)
        return None if shape is None else shape[axis.dim]

    whole = size()
    assert whole is not None  # the largest network has every axis
    kinds = {g.kind: g.values[-formed.get(g.kind, 1) :] for g in space.genes}
    resizing = {  # only these are combined: a space may have many kinds
        kind: values
        for kind, values in kinds.items()
        if kind != RESOLUTION and any(size(**{kind: v}) not in (whole, None) for v in values)
    }
    unit = whole // group.pieces
    found = set()
    for values in itertools.product(*resizing.values()):
        here = size(**dict(zip(resizing, values, strict=True)))
        if here is not None:  # otherwise absent at that depth
            pieces, rest = divmod(here, unit)
            found |= {pieces, pieces + 1} if rest else {pieces}  # one in part is its own band
    return found


@lru_cache(maxsize=256)
def _shapes(family: Family, arch: Arch) -> Shapes:
    return shapes_of(family.blank(arch))


@lru_cache(maxsize=16)
def infer(family: Family) -> Found:
    """The groups of a family's largest network, each proved."""
    axes = _changing(family)
    if not axes:
        return Found((), ())
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.default_generator.manual_seed(0)
        size = family.space.resolution[0]
        largest = family.space.largest().at(size)
        network = family.build(largest).double().eval()
        _randomise(network)
        x = torch.randn((4, family.in_channels, size, size), dtype=torch.float64)
        with _batch_statistics(network):
            links = _links(network, axes, x)
        groups, unsorted = [], []
        for group, trouble in _joined(network, axes, links):
            trouble = trouble or _disproved(network, group, x)
            if trouble:
                first = group.axes[0]
                unsorted.append(
                    f"the channels of {first.tensor} (dimension {first.dim}, with"
                    f" {len(group.axes) - 1} more tensors) are not sorted: {trouble}"
                )
            else:
                groups.append(group)
    return Found(tuple(groups), tuple(unsorted))


# --- candidates


def _changing(family: Family) -> list[Axis]:
    """The dimensions of parameters and buffers that a choice changes; not those of kernels."""
    space = family.space
    largest = family.blank(space.largest())
    tensors = {name: (module, t) for name, module, t in lending.named_tensors(largest)}
    kinds = {g.kind: g.values for g in space.genes if g.name != RESOLUTION}
    found: dict[Axis, None] = {}
    for kind, values in kinds.items():
        for value in values[:-1]:
            small = shapes_of(family.blank(changed(space, **{kind: value})))
            for name, (module, tensor) in tensors.items():
                for dim, size in enumerate(small.get(name, ())):
                    spatial = isinstance(module, _ConvNd) and dim > 1
                    if size == tensor.shape[dim] or spatial:
                        continue
                    rule = lending.rule_for(name, module, family.rules)
                    parts = rule.parts if rule is not None and dim == 0 else 1
                    found[Axis(name, dim, parts)] = None
    return list(found)


def _randomise(network: nn.Module) -> None:
    """Weights among which none is 0 or equal to another, so that nothing hides in them."""
    for name, module, tensor in lending.named_tensors(network):
        if not tensor.is_floating_point():
            continue
        last = name.rpartition(".")[2]
        if last == "running_var" or (last in ("weight", "gamma") and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() > 1 and last in module._parameters:
            tensor.normal_().div_(max(1, tensor[0].numel()) ** 0.5)
        else:
            tensor.normal_().mul_(0.1)


# --- what reaches what


@dataclass(frozen=True)
class _Link:
    """Entry `index` of an axis is written; those of a later input that change with it lie between
    `first` and `last`."""

    writer: Axis
    index: int  # within a part
    reader: Axis
    first: int
    last: int
    size: int  # of the reader's axis

    def holds(self, pieces: int, written: int) -> bool:
        """Whether the writer's entry, one of `written`, and all that change are of one piece."""
        own = self.index * pieces // written
        return self.first * pieces // self.size == own == self.last * pieces // self.size


def _reads(axis: Axis, module: nn.Module) -> bool:
    """Whether an axis is of a weight that mixes the input's channels along it."""
    if isinstance(module, _ConvNd):
        transposed = getattr(module, "transposed", False)
        return axis.tensor.endswith("weight") and axis.dim == (0 if transposed else 1)
    if isinstance(module, nn.Linear | nn.Bilinear):
        return axis.dim == 1
    return isinstance(module, nn.MultiheadAttention) and axis.dim == 1


def _watched(network: nn.Module, axes: list[Axis]) -> dict[nn.Module, Axis]:
    """The axis along which each module's input has its channels: of the weight that reads it, or
    of weights that treat every channel by itself."""
    modules = dict(network.named_modules())
    found: dict[nn.Module, Axis] = {}
    for axis in axes:
        module = modules[axis.tensor.rpartition(".")[0]]
        grouped = isinstance(module, _ConvNd) and module.groups > 1
        depthwise = grouped and module.groups == module.in_channels
        mixes = isinstance(module, _ConvNd | nn.Linear | nn.MultiheadAttention | nn.Embedding)
        known = (_reads(axis, module) and not grouped) or depthwise or not mixes
        if known and module is not network:
            found.setdefault(module, axis)
    return found


@dataclass(frozen=True)
class _Writer:
    """An axis whose entry `index` is perturbed: in the tensor, or in the module's output."""

    axis: Axis
    module: nn.Module
    tensor: Tensor
    index: int

    @contextmanager
    def in_weights(self, part: int) -> Iterator[None]:
        size = self.tensor.shape[self.axis.dim] // self.axis.parts
        entry = self.tensor.select(self.axis.dim, part * size + self.index)
        kept = entry.clone()
        entry.add_(torch.randn_like(entry))
        yield
        entry.copy_(kept)

    @contextmanager
    def in_output(self) -> Iterator[None]:
        def perturb(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            entry = output.clone().select(1 if isinstance(module, _ConvNd) else -1, self.index)
            base = entry._base
            assert base is not None
            entry.add_(torch.randn_like(entry))
            return base

        hook = self.module.register_forward_hook(perturb)
        yield
        hook.remove()


def _links(network: nn.Module, axes: list[Axis], x: Tensor) -> list[_Link]:
    """Links between axes, found in the network as it is, and once more with every layer that mixes
    silent: then what runs beside it, such as the stream of residuals, arrives unmixed."""
    tensors = {name: tensor for name, _, tensor in lending.named_tensors(network)}
    watched = _watched(network, axes)
    inputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            inputs[module] = given[0].clone()

    hooks = [module.register_forward_pre_hook(note) for module in watched]
    links: list[_Link] = []

    def look(writer: _Writer, before: Mapping[nn.Module, Tensor], silent: bool = False) -> None:
        network(x)
        for module, axis in watched.items():
            if axis == writer.axis or module not in before:
                continue
            size = tensors[axis.tensor].shape[axis.dim] // axis.parts
            link = _link(writer, axis, size, before[module], inputs[module], silent)
            if link is not None:
                links.append(link)

    writers = _writers(network, axes, tensors)
    network(x)
    before = dict(inputs)
    for writer in writers:
        for part in range(writer.axis.parts):
            with writer.in_weights(part):
                look(writer, before)
    with _silent(network):
        network(x)
        before = dict(inputs)
        for writer in writers:
            mixes = isinstance(writer.module, _ConvNd | nn.Linear)
            if writer.axis.parts == 1:
                with writer.in_output() if mixes else writer.in_weights(0):
                    look(writer, before, silent=True)
    for hook in hooks:
        hook.remove()
    return links


@contextmanager
def _silent(network: nn.Module) -> Iterator[None]:
    """The network with all weights of its mixing layers 0."""
    mixing = [m for m in network.modules() if isinstance(m, _ConvNd | nn.Linear)]
    weights = [p for m in mixing for p in m.parameters(recurse=False)]
    kept = [p.clone() for p in weights]
    for p in weights:
        p.zero_()
    yield
    for p, before in zip(weights, kept, strict=True):
        p.copy_(before)


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """The network with every batch norm normalising by its batch: so no channel is 0 everywhere
    behind the activation, from which nothing could be read, and one that changes at all changes
    everywhere. Running statistics stay as they are."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    tracking = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.train()
        norm.track_running_stats = False
    yield
    for norm, before in zip(norms, tracking, strict=True):
        norm.eval()
        norm.track_running_stats = before


def _writers(network: nn.Module, axes: list[Axis], tensors: Mapping[str, Tensor]) -> list[_Writer]:
    """Axes that channels are written along; of a module's weight and bias the first."""
    modules = dict(network.named_modules())
    found: dict[object, _Writer] = {}
    for axis in axes:
        module = modules[axis.tensor.rpartition(".")[0]]
        if not _reads(axis, module):
            by_module = module is not network and axis.dim == 0
            size = tensors[axis.tensor].shape[axis.dim] // axis.parts
            writer = _Writer(axis, module, tensors[axis.tensor], size // 2)
            found.setdefault(module if by_module else axis, writer)
    return list(found.values())


def _link(
    writer: _Writer, reader: Axis, size: int, before: Tensor, now: Tensor, silent: bool
) -> _Link | None:
    """The link of two axes, if the perturbation arrives in some channels of the input alone.
    Entries that an activation keeps at 0 say nothing, unless layers that mix are silent."""
    best: _Link | None = None
    least = size
    for dim in range(1, before.dim()):
        if before.shape[dim] != size:
            continue
        others = [d for d in range(before.dim()) if d != dim]
        changed = before != now
        changes = _any(changed, others)
        at = torch.nonzero(changes).flatten()
        places = changed.any(dim=dim, keepdim=True)  # elsewhere nothing says what is reached
        alive = size if silent else int((changes | _any((before != 0) & places, others)).sum())
        if 0 < len(at) < min(least, alive):
            least = len(at)
            best = _Link(writer.axis, writer.index, reader, int(at[0]), int(at[-1]), size)
    return best


def _any(mask: Tensor, dims: list[int]) -> Tensor:
    for dim in sorted(dims, reverse=True):
        mask = mask.any(dim=dim)
    return mask


# --- groups


def _joined(network: nn.Module, axes: list[Axis], links: list[_Link]) -> list[tuple[Group, str]]:
    """Axes that are linked, with the number of pieces, and what is wrong with them, if anything."""
    modules = dict(network.named_modules())
    tensors = {name: tensor for name, _, tensor in lending.named_tensors(network)}
    parent = {axis: axis for axis in axes}

    def root(axis: Axis) -> Axis:
        while parent[axis] != axis:
            axis = parent[axis]
        return axis

    def join(a: Axis, b: Axis) -> None:
        parent[root(b)] = root(a)

    first: dict[nn.Module, Axis] = {}
    for axis in axes:  # a module's weight, bias and statistics lie along the same channels
        module = modules[axis.tensor.rpartition(".")[0]]
        if module is not network and axis.dim == 0 and not _reads(axis, module):
            join(first.setdefault(module, axis), axis)
    for link in links:
        join(link.writer, link.reader)
    members: dict[Axis, list[Axis]] = {}
    for axis in axes:
        members.setdefault(root(axis), []).append(axis)
    found = []
    for top, group in members.items():
        mine = [link for link in links if root(link.writer) == top]
        lengths = {a: tensors[a.tensor].shape[a.dim] // a.parts for a in group}
        common = math.gcd(*lengths.values(), *(link.size for link in mine))
        pieces = next(
            n
            for n in range(common, 0, -1)
            if common % n == 0 and all(link.holds(n, lengths[link.writer]) for link in mine)
        )
        trouble = "" if mine else "nothing that reads them was found"
        readers = tuple(a for a in group if _reads(a, modules[a.tensor.rpartition(".")[0]]))
        found.append((Group(tuple(group), readers, pieces), trouble))
    return found


def _disproved(network: nn.Module, group: Group, x: Tensor) -> str:
    """Why the pieces of a group may not change places; empty: they may."""
    if group.pieces < 2:
        return "they reach what reads them in another order"
    tensors = {name: tensor for name, _, tensor in lending.named_tensors(network)}
    before = network(x)
    scale = float(before.abs().max())
    order = torch.randperm(group.pieces)
    while torch.equal(order, torch.arange(group.pieces)):
        order = torch.randperm(group.pieces)

    def moved(axes: tuple[Axis, ...]) -> float:
        for axis in axes:
            permute(tensors[axis.tensor], axis, order)
        difference = float((network(x) - before).abs().max()) / scale
        for axis in axes:
            permute(tensors[axis.tensor], axis, torch.argsort(order))
        return difference

    if (difference := moved(group.axes)) > UNCHANGED:
        return f"changing their places changed the output by {difference:.1e} of it"
    if moved(group.axes[:1]) < CHANGED:
        return "the output does not depend on them, so that nothing is proved"
    return ""
