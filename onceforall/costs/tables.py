"""Costs over a space, as tables: of what each layer of a family costs by itself, or of a family
that is given by `build` alone, of what its networks are found to cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from onceforall import progress
from onceforall.costs.built import Counted, Same, built, check_covered
from onceforall.costs.discovery import discover
from onceforall.costs.network import cost, layer_cost
from onceforall.costs.quantities import PUBLIC, QUANTITIES
from onceforall.costs.result import Cost, Shape
from onceforall.errors import InputError
from onceforall.families import Family, Planned
from onceforall.families.layers import Layer
from onceforall.space import Arch, Place, Reduce, Space, Table

if TYPE_CHECKING:
    from typing_extensions import TypeIs

LARGEST = 4096  # pixels; of the resolutions at which a network is counted or run


def planned(family: Family) -> TypeIs[Planned]:
    """Whether the family is written as layers by place, whose costs are tables as they are."""
    return isinstance(family, Planned)


def cost_tables(
    family: Family, resolutions: Sequence[int] | None = None
) -> dict[str, Table | Counted]:
    """Tables of macs, params and peak_activation_bytes; `resolutions` in place of the space's."""
    return {name: cost_table(family, name, resolutions) for name in PUBLIC}


def cost_table(
    family: Family, name: str, resolutions: Sequence[int] | None = None
) -> Table | Counted:
    """The table of one of QUANTITIES, exact. Of a family that is given by `build` alone it is found
    by counting some of its networks (`discovery`); where that finds none, a function of populations
    in its place, which counts each arch.

    Raises:
        InputError: there are operations that are not covered, and only parameters are known.
    """
    quantity = QUANTITIES[name]
    if not planned(family):
        space = family.space if resolutions is None else family.space.at(sorted(resolutions))
        tables = _discovered(Same(family), space)
        check_covered(name, built(family).uncovered)
        if tables is None:
            return Counted(built(family), space, name, quantity.unit)
        return tables[name]

    def value(layer: Layer, shape: Shape) -> float:
        found = layer_cost(layer, shape) if name == "params" else whole_cost(layer, shape)
        if name in PUBLIC:
            return float(getattr(found, name))
        return float(sum(quantity.of(row) for row in found.rows))

    return layer_table(family, value, quantity.reduce, resolutions, name, quantity.unit)


@lru_cache(maxsize=64)
def _discovered(same: Same, space: Space) -> dict[str, Table] | None:
    tables = discover(built(same.family), space)
    if tables is None:
        progress.say(
            f"{space.family}: what its networks cost is no sum over operations of few choices;"
            " each arch that is asked for is built and counted"
        )
    return tables


def arch_cost(family: Family, arch: Arch) -> Cost:
    """The cost of one arch, whose network is built without weights where that is possible.

    Raises:
        InputError: it cannot be built, or not run on an image of the arch's resolution.
    """
    if not planned(family):
        return built(family).cost(arch)
    with torch.device("meta"):
        network = family.build(arch)
    return cost(network, (family.in_channels, arch.resolution, arch.resolution))


def whole_cost(layer: Layer, shape: Shape) -> Cost:
    """The cost of a layer that is covered.

    Raises:
        InputError: it has an operation that is not: what is counted is a lower bound.
    """
    found = layer_cost(layer, shape)
    check_covered("macs", found.uncovered)
    return found


def layer_table(
    family: Family,
    value: Callable[[Layer, Shape], float],
    reduce: Reduce = "sum",
    resolutions: Sequence[int] | None = None,
    name: str = "value",
    unit: str = "",
) -> Table:
    """The table of a number that each layer has by itself: `value(layer, input shape)`.

    Raises:
        InputError: the family is given by `build` alone, and has no layers by place.
    """
    if not planned(family):
        raise InputError(
            f"{family.name}: its networks are not written as layers by place, so that no layer can"
            " be looked at by itself; whole networks can"
        )
    space = family.space
    if resolutions is not None:
        space = space.at(tuple(sorted(resolutions)))
    sizes = _Sizes(family)
    join = sum if reduce == "sum" else max

    def block(place: Place) -> float:
        return value(*sizes.block(place))

    def fixed(resolution: int, width: int) -> float:
        return float(join([value(*pair) for pair in sizes.rest(resolution, width)]))

    return Table.build(space, block, fixed, reduce, name, unit)


def unique_layers(
    family: Family, resolutions: Sequence[int] | None = None
) -> list[tuple[Layer, Shape]]:
    """All distinct layers that archs of the family are made of, with the shape that enters."""
    found: dict[tuple[Layer, Shape], None] = {}

    def note(layer: Layer, shape: Shape) -> float:
        found[layer, shape] = None
        return 0.0

    layer_table(family, note, "sum", resolutions)
    return list(found)


def check_resolution(family: Family, arch: Arch) -> None:
    """Refuses an arch at a resolution at which its numbers mean nothing.

    Raises:
        InputError: below the total stride of the layers before the pooling, where there is more
            padding than image, or of a family that is given by `build` alone, at which its
            network cannot be run; or above LARGEST pixels.
    """
    if arch.resolution > LARGEST:
        raise InputError(
            f"resolution: {arch.resolution} px is too large; at most {LARGEST} px are possible"
        )
    if not planned(family):
        arch_cost(family, arch)
        return
    tail = family.tail(arch.stages[-1][-1].width)
    shape: Shape = (family.in_channels, LARGEST, LARGEST)
    for name, layer in family.plan(arch).items():
        if name in tail:
            break
        shape = layer_cost(layer, shape).output_shape
    stride = LARGEST // min(shape[1:])
    if arch.resolution < stride:
        raise InputError(
            f"resolution: {arch.resolution} px is too small for {family.name},"
            f" which divides the size of an image by {stride}; at least {stride} px are needed"
        )


class _Sizes:
    """The layers of a family with the shapes that enter them.

    A block's spatial size depends on nothing but the image, the stage and the position, for
    padding keeps the size whatever the kernel.
    """

    def __init__(self, family: Planned) -> None:
        self._family = family
        self._entering: dict[tuple[int, int, int], Shape] = {}  # resolution, stage, position

    def block(self, place: Place) -> tuple[Layer, Shape]:
        width_in = place.width_in or self._family.stem_width
        size = self._enters(place.resolution, place.stage, place.position)
        layer = self._family.block(
            place.stage, place.position, place.kernel, place.expand, width_in, place.width
        )
        return layer, (width_in, *size)

    def rest(self, resolution: int, width: int) -> Iterator[tuple[Layer, Shape]]:
        """The layers that are not blocks."""
        yield from self._chain(
            self._family.stem().values(), (self._family.in_channels, resolution, resolution)
        )
        stages = self._family.space.stages
        size = self._enters(resolution, len(stages), 0)
        yield from self._chain(self._family.tail(width).values(), (width, *size))

    @staticmethod
    def _chain(layers: Any, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        for layer in layers:
            yield layer, shape
            shape = layer_cost(layer, shape).output_shape

    def _enters(self, resolution: int, stage: int, position: int) -> Shape:
        """(H, W) that enters a block; one stage beyond the last is the tail."""
        key = (resolution, stage, position)
        if key not in self._entering:
            self._entering[key] = self._leaves(resolution, stage, position - 1)
        return self._entering[key]

    def _leaves(self, resolution: int, stage: int, position: int) -> Shape:
        """(H, W) that leaves a block; one position before the first is what comes before."""
        family = self._family
        if position < 0 and stage == 0:
            shape: Shape = (family.in_channels, resolution, resolution)
            for layer in family.stem().values():
                shape = layer_cost(layer, shape).output_shape
            return shape[1:]
        if position < 0:
            depths = family.space.stages[stage - 1].depth
            sizes = {self._leaves(resolution, stage - 1, depth - 1) for depth in depths}
            if len(sizes) > 1:
                raise InputError(f"{family.name}: the size after stage {stage} depends on depth")
            return sizes.pop()
        choices = family.space.stages[stage]
        first = family.space.stages[stage - 1].width[0] if stage else 0
        width_in = first if position == 0 else choices.width[0]
        place = Place(
            resolution,
            stage,
            position,
            choices.kernel[0],
            choices.expand[0],
            width_in,
            choices.width[0],
        )
        return layer_cost(*self.block(place)).output_shape[1:]
