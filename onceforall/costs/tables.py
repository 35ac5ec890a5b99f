"""Costs over a space: what each layer of a family costs by itself, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onceforall.costs.network import Cost, layer_cost
from onceforall.costs.rules import Shape
from onceforall.errors import InputError, choices
from onceforall.families import Family
from onceforall.families.layers import Layer
from onceforall.space import Arch, Place, Reduce, Table

QUANTITIES: dict[str, tuple[Reduce, str]] = {
    "macs": ("sum", "MACs"),
    "params": ("sum", "parameters"),
    "peak_activation_bytes": ("max", "bytes"),
}

LARGEST = 4096  # pixels; of the resolutions at which a network is counted or run


def cost_tables(family: Family, resolutions: Sequence[int] | None = None) -> dict[str, Table]:
    """Tables of macs, params and peak_activation_bytes; `resolutions` in place of the space's."""
    return {name: cost_table(family, name, resolutions) for name in QUANTITIES}


def cost_table(family: Family, name: str, resolutions: Sequence[int] | None = None) -> Table:
    """The table of one of these.

    Raises:
        InputError: a layer has an operation without a rule, and only its parameters are known.
    """

    def value(layer: Layer, shape: Shape) -> float:
        found = layer_cost(layer, shape) if name == "params" else whole_cost(layer, shape)
        return float(getattr(found, name))

    reduce, unit = QUANTITIES[name]
    return layer_table(family, value, reduce, resolutions, name, unit)


def whole_cost(layer: Layer, shape: Shape) -> Cost:
    """The cost of a layer that is covered.

    Raises:
        InputError: it has an operation without a rule: what is counted is a lower bound.
    """
    found = layer_cost(layer, shape)
    if found.uncovered:
        raise InputError(f"costs: no rule says what {choices(found.uncovered)} costs")
    return found


def layer_table(
    family: Family,
    value: Callable[[Layer, Shape], float],
    reduce: Reduce = "sum",
    resolutions: Sequence[int] | None = None,
    name: str = "value",
    unit: str = "",
) -> Table:
    """The table of a number that each layer has by itself: `value(layer, input shape)`."""
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
            padding than image; or above LARGEST pixels.
    """
    if arch.resolution > LARGEST:
        raise InputError(
            f"resolution: {arch.resolution} px is too large; at most {LARGEST} px are possible"
        )
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

    def __init__(self, family: Family) -> None:
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
