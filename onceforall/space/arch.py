"""A sub-network as a value: `Arch`, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onceforall.errors import InputError
from onceforall.space import stages as staged
from onceforall.space.genes import RESOLUTION, Value, check_text, parse, plain, written
from onceforall.space.stages import Stages, Values


@dataclass(frozen=True, order=True)
class Arch:
    """A family, and the values of the genes that are present, in the order of its space.

    Absent genes are not held, so equal values are the same network.
    """

    family: str
    values: Values

    @classmethod
    def of_stages(cls, family: str, resolution: int, stages: Stages) -> Arch:
        """The arch of these blocks, for an input of so many pixels high and wide.

        Raises:
            InputError: names the stage, the block and the value that no arch can have.
        """
        return cls(family, staged.values_of(resolution, tuple(stages)))

    @cached_property
    def genes(self) -> Mapping[str, Value]:
        """Name -> value."""
        return dict(self.values)

    def __getitem__(self, gene: str) -> Value:
        return self.genes[gene]

    def __reduce__(self) -> tuple[Any, ...]:
        return Arch, (self.family, self.values)

    @property
    def resolution(self) -> int:
        """Height and width of the input image, pixels.

        Raises:
            InputError: the arch has no such gene.
        """
        if RESOLUTION not in self.genes:
            raise InputError(f"{self}: has no resolution")
        return self.genes[RESOLUTION]  # type: ignore[return-value]

    def at(self, resolution: int) -> Arch:
        """The same arch for another input size."""
        if not isinstance(resolution, int) or isinstance(resolution, bool) or resolution < 1:
            raise InputError(f"resolution: {resolution!r} is not a positive whole number")
        values = tuple((n, resolution if n == RESOLUTION else v) for n, v in self.values)
        return Arch(self.family, values)

    # --- as stages of convolutional blocks

    @cached_property
    def _stages(self) -> Stages | None:
        return staged.blocks_of(self.values)

    @property
    def stages(self) -> Stages:
        """The blocks of each stage.

        Raises:
            InputError: the arch is not made of stages.
        """
        if self._stages is None:
            raise InputError(f"{self}: is not made of stages of blocks")
        return self._stages

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages)

    # --- written forms

    def __repr__(self) -> str:
        return f"Arch({str(self)!r})"

    def __str__(self) -> str:
        """`family@resolution/width:kernelxexpand,.../...` with one part a stage, or
        `family@resolution/gene=value,...`, without `@resolution` where there is none; `parse`
        reads both."""
        if self._stages is not None:
            return f"{self.family}@{self.resolution}/" + staged.text_of(self._stages)
        values = self.values
        at = ""
        if len(values) > 1 and values[0][0] == RESOLUTION:
            at, values = f"@{written(values[0][1])}", values[1:]
        return f"{self.family}{at}/" + ",".join(f"{n}={written(v)}" for n, v in values)

    @classmethod
    def parse(cls, text: str) -> Arch:
        """The arch that `str` wrote.

        Raises:
            InputError: where the text is not of that form.
        """
        try:
            head, _, rest = text.strip().partition("/")
            if ":" not in rest or "=" in rest:
                return cls._of_genes(head, rest)
            family, resolution = head.rsplit("@", 1)
            if not family:
                raise ValueError
            return cls.of_stages(family, int(resolution), staged.parse(rest))
        except InputError:
            raise
        except ValueError:
            raise InputError(
                f"{text!r} is not an arch; one looks like mbv3_mini@28/16:3x4,5x2/24:3x4"
                " or my_family@160/depth=9,heads=3"
            ) from None

    @classmethod
    def _of_genes(cls, head: str, rest: str) -> Arch:
        family, _, resolution = head.partition("@")
        values: dict[str, Value] = {RESOLUTION: parse(resolution)} if resolution else {}
        for pair in rest.split(","):
            name, value = pair.split("=")
            if name in values or not name or not value:
                raise ValueError
            values[name] = parse(value)
        check_text(family, "arch: family")
        return cls(family, tuple(values.items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        if self._stages is None:
            return {"family": self.family, "genes": self.genes}
        return {
            "family": self.family,
            "resolution": self.resolution,
            "stages": staged.to_list(self._stages),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Arch:
        """The arch that `to_dict` wrote.

        Raises:
            InputError: names the first field that is missing, unknown or of a wrong type.
        """
        of_genes = isinstance(data, dict) and "genes" in data
        names = ("family", "genes") if of_genes else ("family", "resolution", "stages")
        given = staged.fields(data, names, "arch")
        if not isinstance(given["family"], str):
            raise InputError(f"arch: family: {given['family']!r} is not a text")
        if not of_genes:
            stages = staged.from_list(given["stages"])
            return cls.of_stages(given["family"], given["resolution"], stages)
        if not isinstance(given["genes"], dict) or not given["genes"]:
            raise InputError(f"arch: genes: {given['genes']!r} is not a map of names and values")
        for name in given["genes"]:
            check_text(name, "arch: genes")
        values = tuple((n, plain(v, f"arch: {n}")) for n, v in given["genes"].items())
        return cls(given["family"], values)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Arch:
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"arch: not JSON: {error}") from None
