"""A family from any function that builds a network: `elastic`.

    family = elastic(build, depth=(6, 9, 12), heads=(2, 3), resolution=(160, 192, 224))

`build(depth=9, heads=3)` must return an ordinary `nn.Module`. What is not to be elastic is simply
not a choice. A choice of each block is `per_block((2, 3, 4), 12)`: `build` gets a tuple with an
entry for each block that is present.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from onceforall.errors import InputError, choices
from onceforall.families.base import Family
from onceforall.families.lending import Rules
from onceforall.space import Arch, Space
from onceforall.space.genes import RESOLUTION, Gene, Presence, Value

Build = Callable[..., nn.Module]
DEPTH = "depth"  # the choice that says how many blocks are present, where no other is named
SIZES = ("resolution", "img_size")  # by which of these names build takes the input's size,
CLASSES = ("classes", "num_classes")  # the number of classes
CHANNELS = ("in_channels", "in_chans")  # and the channels of the image
USUAL_CLASSES = 1000  # where build takes their number and none is given
USUAL_SIZE = 224  # pixels, where no resolution is given
REMEMBERED = 64  # families whose networks were looked at, so that made again they are not anew


@dataclass(frozen=True)
class PerBlock:
    """A choice that every block makes for itself; see `per_block`."""

    values: tuple[Value, ...]
    blocks: int
    within: str


def per_block(values: Sequence[Value], blocks: int, within: str = DEPTH) -> PerBlock:
    """A choice of each of so many blocks.

    Block number i (from 1) is present while the choice `within` is at least i; where the family
    has no such choice, always.
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise InputError(f"per_block: blocks: {blocks!r} is not a positive whole number")
    return PerBlock(tuple(values), blocks, within)


@dataclass(frozen=True, eq=False, repr=False)
class Elastic(Family):
    """The networks that a function builds; see `elastic`."""

    make: Build
    space: Space
    in_channels: int
    classes: int
    per_block: frozenset[str]  # the kinds of genes that are choices of each block
    rules: Rules = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)  # settings that say where make is

    def build(self, arch: Arch) -> nn.Module:
        self.space.check(arch, resolution=False)
        given: dict[str, Any] = {}
        for name, value in self.space.in_order(arch).values:
            kind = name.rpartition(".")[2]
            if name == RESOLUTION:
                keyword = _keyword(self.make, SIZES)
                given |= {keyword: value} if keyword else {}
            elif kind in self.per_block:
                given[kind] = (*given.get(kind, ()), value)
            else:
                given[name] = value
        for names, number in ((CLASSES, self.classes), (CHANNELS, self.in_channels)):
            keyword = _keyword(self.make, names)
            given |= {keyword: number} if keyword else {}
        try:
            network = self.make(**given)
        except (TypeError, ValueError, LookupError, AssertionError, AttributeError) as error:
            raise InputError(
                f"{self.name}: build({_written(given)}): {type(error).__name__}: {error}"
            ) from error
        if not isinstance(network, nn.Module):
            raise InputError(f"{self.name}: build returned {type(network).__name__}, no nn.Module")
        return network

    def blank(self, arch: Arch) -> nn.Module:
        try:
            return super().blank(arch)
        except (RuntimeError, NotImplementedError):  # such as .item() where there are no values
            pass
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                return self.build(arch).to("meta")
        except (RuntimeError, NotImplementedError) as error:
            raise InputError(f"{self.name}: {arch}: cannot be built: {error}") from error

    def settings(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_channels,
            "classes": self.classes,
            "resolutions": list(self.space.resolution),
            **self.origin,
        }

    def with_origin(self, origin: Mapping[str, Any]) -> Elastic:
        """The same family with more settings that say how it is made again: for the same settings
        the same object, by which what was found of a family (its costs, say) is found again."""
        if origin == self.origin:
            return self
        twins: dict[str, Elastic] = self.__dict__.setdefault("_twins", {})
        key = repr(sorted(origin.items()))
        if key not in twins:
            twins[key] = replace(self, origin=origin)
            twins[key].__dict__["kernels"] = self.kernels  # the networks are the same
        return twins[key]

    def again(
        self,
        *,
        in_channels: int | None = None,
        classes: int | None = None,
        resolutions: Sequence[int] | None = None,
        dropout: float = 0.0,
        origin: Mapping[str, Any] = MappingProxyType({}),
        name: str | None = None,
    ) -> Elastic:
        """The same networks with other settings, as far as build takes them.

        Raises:
            InputError: build does not take the number of classes or channels.
        """
        wanted = ((CLASSES, classes, self.classes), (CHANNELS, in_channels, self.in_channels))
        for names, number, own in wanted:
            if number not in (None, own) and not _keyword(self.make, names):
                raise InputError(
                    f"{name or self.name}: {names[0]}: its networks have {own}, not {number};"
                    f" let build take {names[0]!r} to have others"
                )
        if dropout:
            raise InputError(f"{name or self.name}: dropout: is build's own; leave it at 0")
        space = self.space if resolutions is None else self.space.at(tuple(resolutions))
        return _checked(
            Elastic(
                make=self.make,
                space=Space(name or space.family, space.genes),
                in_channels=self.in_channels if in_channels is None else in_channels,
                classes=self.classes if classes is None else classes,
                per_block=self.per_block,
                rules=self.rules,
                origin=dict(origin) or self.origin,
            )
        )


_SEEN: dict[tuple[object, ...], Elastic] = {}


def elastic(
    build: Build,
    *,
    name: str | None = None,
    in_channels: int | None = None,
    classes: int | None = None,
    rules: Rules | None = None,
    **elastic_choices: Sequence[Value] | PerBlock,
) -> Elastic:
    """The family of all networks that `build` makes of these choices.

    `resolution` is the input's size in pixels (224 where it is no choice), which build is given
    only where it takes a keyword `resolution` or `img_size`; likewise `classes` or `num_classes`,
    `in_channels` or `in_chans`.

    Args:
        name: of the family; build's own where None.
        in_channels: of the images; build's own default, or 3, where None.
        classes: outputs; build's own default, or what the largest network gives, where None.
        rules: how parameters are lent that `lending`'s table does not cover, by name's pattern.

    Raises:
        InputError: the networks do not fit into one supernet: names the gene, the parameter and
            both shapes.
    """
    name = name or getattr(build, "__name__", None) or type(build).__name__
    genes = _genes(name, elastic_choices)
    usual = _default(build, CLASSES) or USUAL_CLASSES
    family = Elastic(
        make=build,
        space=Space(name, tuple(genes)),
        in_channels=in_channels or _default(build, CHANNELS) or 3,
        classes=classes or (usual if _keyword(build, CLASSES) else 0),
        per_block=frozenset(k for k, v in elastic_choices.items() if isinstance(v, PerBlock)),
        rules=dict(rules or {}),
    )
    return _checked(family, given=classes)


def _genes(name: str, given: Mapping[str, Sequence[Value] | PerBlock]) -> list[Gene]:
    """Genes of the choices: resolution first, then shared ones, then those of each block."""
    if not set(given) - {RESOLUTION}:  # nothing but the input's size would be elastic
        raise InputError(f"{name}: no choice is given; such as depth=(6, 9, 12)")
    shared = {k: v for k, v in given.items() if not isinstance(v, PerBlock)}
    for key, values in shared.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            raise InputError(f"{name}: {key}: {values!r} is not a list of choices")
    first = {RESOLUTION: shared.pop(RESOLUTION, (USUAL_SIZE,))}
    genes = [Gene(key, tuple(values)) for key, values in {**first, **shared}.items()]
    for key, choice in given.items():
        if not isinstance(choice, PerBlock):
            continue
        if choice.within not in shared and choice.within != DEPTH:
            raise InputError(
                f"{name}: {key}: within {choice.within!r}: there is no such choice; there are"
                f" {choices(shared)}"
            )
        depths = shared.get(choice.within)
        if depths is not None and max(depths) != choice.blocks:  # type: ignore[type-var]
            raise InputError(
                f"{name}: {key}: is of {choice.blocks} blocks, and {choice.within} goes up to"
                f" {max(depths)}"  # type: ignore[type-var]
            )
        place = "" if choice.within == DEPTH else f"{choice.within}."
        for i in range(1, choice.blocks + 1):
            present = (Presence(choice.within, i),) if depths is not None else ()
            genes.append(Gene(f"{place}block{i}.{key}", choice.values, present))
    return genes


def _checked(family: Elastic, given: int | None = None) -> Elastic:
    """The family, with the number of classes that its networks have; its networks fit together."""
    key = (
        *(family.make, family.space, family.in_channels, family.classes, family.per_block),
        tuple(family.rules.items()),
    )
    try:
        seen = _SEEN.get(key)
    except TypeError:  # a build that cannot be a key
        return _looked_at(family, given)
    if seen is None or given not in (None, seen.classes):
        seen = _looked_at(family, given)
        if len(_SEEN) >= REMEMBERED:
            _SEEN.clear()
        _SEEN[key] = seen
    return seen.with_origin(family.origin)


def _looked_at(family: Elastic, given: int | None) -> Elastic:
    """`_checked`, by building some of its networks."""
    largest = family.space.largest()
    found = outputs(family, largest)
    if given is not None and found != given:
        raise InputError(f"{family.name}: classes: {given}, and its networks have {found} outputs")
    if found != family.classes:
        family = replace(family, classes=found)
    family.kernels  # noqa: B018  looks at the networks, and refuses what does not fit together
    return family


def outputs(family: Family, arch: Arch) -> int:
    """How many outputs the network of an arch has, by running it on shapes.

    Raises:
        InputError: it does not run, or gives something else than (N, classes) or, of places,
            (N, classes, ...).
    """
    size = int(arch.genes.get(RESOLUTION, 224))
    shape = (2, family.in_channels, size, size)
    network = family.blank(arch).eval()
    try:
        with torch.no_grad():
            found = network(torch.empty(shape, device="meta"))
    except Exception as error:  # whatever the network's own forward raises
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{arch}: does not run on images {shape}: {text}") from error
    if not isinstance(found, torch.Tensor) or found.dim() < 2:
        what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(f"{family.name}: its networks give {what}, not (images, classes, ...)")
    return int(found.shape[1])


def _written(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in given.items())


def _keyword(build: Build, names: Sequence[str]) -> str | None:
    """Which of these keywords a function takes by name."""
    try:
        taken = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return next((n for n in names if n in taken and taken[n].kind in kinds), None)


def _default(build: Build, names: Sequence[str]) -> int | None:
    """A function's own default for a keyword of one of these names."""
    keyword = _keyword(build, names)
    default = inspect.signature(build).parameters[keyword].default if keyword else None
    return default if isinstance(default, int) else None
