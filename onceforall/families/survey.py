"""What a family's networks have in common, found by building some of them without weights.

A supernet can hold a family only if every smaller network is a part of the largest. That
is checked once, when the family is made, on networks with one choice changed at a time and on
some drawn at random; what is wrong is one line that names the gene, the parameter and both
shapes. The same networks show which kernel sizes a convolution has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from onceforall.errors import InputError
from onceforall.families import lending
from onceforall.space import Arch, Space
from onceforall.space.genes import RESOLUTION, Gene

if TYPE_CHECKING:
    from onceforall.families.base import Family

DRAWN = 4  # random archs that are looked at beside those with one choice changed
TRIED = 3  # genes of a kind that are changed by themselves: the first, one between, the last

Shapes = Mapping[str, tuple[int, ...]]
Kernels = dict[str, tuple[int, ...]]  # convolution's weight -> its sizes, ascending


def survey(family: Family) -> Kernels:
    """The kernel sizes of each convolution that has several.

    Raises:
        InputError: the family cannot be held by one supernet; names gene, parameter and shapes.
    """
    space = family.space
    largest = family.blank(space.largest())
    shapes = shapes_of(largest)
    _refuse_random(family, shapes)
    _refuse_plain_tensors(family, largest)
    found: dict[str, set[int]] = {}
    for where, network in _variants(family, shapes):
        found_here = _check(family, where, largest, network)
        for name, size in found_here.items():
            found.setdefault(name, set()).add(size)
    _refuse_changed_buffers(family, largest)
    kernels = {}
    for name, sizes in found.items():
        top = shapes[name][-1]
        if sizes != {top}:
            kernels[name] = tuple(sorted(sizes | {top}))
    return kernels


def shapes_of(network: nn.Module) -> Shapes:
    return {name: tuple(t.shape) for name, _, t in lending.named_tensors(network)}


def changed(space: Space, **values: object) -> Arch:
    """The largest arch with other values of genes, by name or by kind."""
    row = space.encode([space.largest()])
    for column, gene in enumerate(space.genes):
        for name in (gene.kind, gene.name):
            if name in values:
                row[0, column] = gene.index(values[name])  # type: ignore[arg-type]
    return space.decode(space.canonical(row))[0]


def _variants(family: Family, largest: Shapes) -> Iterator[tuple[str, nn.Module]]:
    """Networks other than the largest, each with what it is called in errors."""
    space = family.space
    known: dict[tuple[tuple[str, tuple[int, ...] | None], ...], str] = {}
    for gene in _tried(space):
        by_kind = sum(g.kind == gene.kind for g in space.genes) > TRIED
        before: Shapes = largest
        for value in reversed(gene.values[:-1]):
            where = f"{gene.spoken} {value}"
            network = family.blank(changed(space, **{gene.name: value}))
            shapes = shapes_of(network)
            if gene.name != RESOLUTION:
                _refuse_ignored(family, gene, value, shapes, before)
                twin = known.setdefault(_difference(largest, shapes), where)
                if twin != where:
                    raise InputError(
                        f"{family.name}: {twin} and {where} make the same network, in which"
                        f" {_first_change(largest, shapes)}"
                    )
            before = shapes
            yield where, network
        if by_kind:
            for value in gene.values[:-1]:
                arch = changed(space, **{gene.kind: value})
                yield f"every {gene.kind} {value}", family.blank(arch)
    rng = np.random.default_rng(0)
    drawn = space.decode(space.sample(rng, DRAWN))
    for arch in [space.smallest(), *drawn]:
        yield str(arch), family.blank(arch)


def _tried(space: Space) -> list[Gene]:
    """Every gene of a kind of few genes, three of a kind of many."""
    kinds: dict[str, list[Gene]] = {}
    for gene in space.genes:
        kinds.setdefault(gene.kind, []).append(gene)
    tried: list[Gene] = []
    for genes in kinds.values():
        few = len(genes) <= TRIED
        tried += genes if few else [genes[0], genes[len(genes) // 2], genes[-1]]
    return tried


def _difference(largest: Shapes, shapes: Shapes) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
    names = [n for n in largest if largest[n] != shapes.get(n)]
    return tuple((n, shapes.get(n)) for n in names)


def _first_change(largest: Shapes, shapes: Shapes) -> str:
    for name, shape in largest.items():
        if name not in shapes:
            return f"{name} {shape} is missing"
        if shapes[name] != shape:
            return f"{name} is {shapes[name]} instead of {shape}"
    return "nothing is smaller"


def _refuse_ignored(
    family: Family, gene: Gene, value: object, shapes: Shapes, before: Shapes
) -> None:
    """A value that makes the network that the next larger one makes, or none that is smaller."""
    if shapes == before:
        larger = gene.values[gene.index(value) + 1]  # type: ignore[arg-type]
        raise InputError(
            f"{family.name}: {gene.spoken}: the network of {value} has the parameters of the"
            f" network of {larger}, of the same shapes: build does not use this choice"
        )


def _check(family: Family, where: str, largest: nn.Module, network: nn.Module) -> dict[str, int]:
    """That every tensor of a smaller network can be lent; the kernel sizes found in it."""
    owned = {name: (module, t) for name, module, t in lending.named_tensors(largest)}
    found: dict[str, int] = {}

    def note(name: str, kernel: Tensor, size: int) -> Tensor:
        found[name] = size
        return lending.center_crop(kernel, size)

    for name, module, tensor in lending.named_tensors(network):
        if name not in owned:
            raise InputError(
                f"{family.name}: {where}: {name} {tuple(tensor.shape)} is not in the largest"
                " network, which must have all that a smaller one has"
            )
        owner, source = owned[name]
        grown = next((d for d in _dims(tensor, source) if tensor.shape[d] > source.shape[d]), None)
        if grown is not None:
            raise InputError(
                f"{family.name}: {where}: makes {name} larger: {tuple(tensor.shape)}, in the"
                f" largest network {tuple(source.shape)}; values ascend with the network's size"
            )
        if computed_buffer(name, module) and tensor.shape != source.shape:
            raise InputError(
                f"{family.name}: {where}: the buffer {name} is {tuple(tensor.shape)}, in the"
                f" largest network {tuple(source.shape)}: buffers of changing size cannot be"
                " lent; compute it in forward"
            )
        site = lending.Site(name, module, owner, tensor.shape, lambda k, s, n=name: note(n, k, s))  # type: ignore[misc]
        try:
            lending.lend(source, site, lending.rule_for(name, module, family.rules))
        except InputError as error:
            raise InputError(f"{family.name}: {where}: {error}") from None
        if isinstance(module, _ConvNd) and name.endswith("weight"):
            found[name] = tensor.shape[-1]
    return found


def computed_buffer(name: str, module: nn.Module) -> bool:
    """Whether it is a buffer that build computes; running statistics are no such."""
    return name.rpartition(".")[2] in module._buffers and not isinstance(module, _NormBase)


def _dims(a: Tensor, b: Tensor) -> range:
    return range(a.dim() if a.dim() == b.dim() else 0)


def _refuse_random(family: Family, shapes: Shapes) -> None:
    again = shapes_of(family.blank(family.space.largest()))
    if again != shapes:
        raise InputError(
            f"{family.name}: two builds of the largest network differ:"
            f" {_first_change(shapes, again)}; what build makes must depend on its choices alone"
        )


def _refuse_plain_tensors(family: Family, network: nn.Module) -> None:
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                raise InputError(
                    f"{family.name}: {path or 'the network'} keeps the tensor {name!r}"
                    f" {tuple(value.shape)} as a plain attribute; register it as a buffer"
                )


def _refuse_changed_buffers(family: Family, largest: nn.Module) -> None:
    """Buffers that build computes must be the same in all networks: they are lent whole."""
    found = lending.named_tensors(largest)
    computed = [name for name, module, _ in found if computed_buffer(name, module)]
    if not computed:
        return
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        ends = [family.build(a) for a in (family.space.largest(), family.space.smallest())]
    whole, small = (dict(network.named_buffers()) for network in ends)
    for name in computed:
        if name in small and not torch.equal(whole[name], small[name]):
            raise InputError(
                f"{family.name}: the buffer {name} {tuple(small[name].shape)} has other values in"
                " the smallest network than in the largest, so it cannot be lent; compute it in"
                " forward"
            )
