"""One choice of a space: `Gene`, and when it is there: `Presence`. Knows no archs.

A population is an integer array of shape (n, genes): one row an arch, one column a gene, each
entry an index into that gene's values. Genes that are absent are 0, so that two rows are equal
exactly when their archs are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError, choices

GENE = np.int16  # what an entry of a population is,
MOST_CHOICES = np.iinfo(GENE).max  # so that a gene has at most so many choices
Population = NDArray[GENE]  # (n, genes), see the top of this file

Value = int | float | str
RESOLUTION = "resolution"  # the gene whose value is the input image's size; the first, if any
_BREAKS_TEXT = re.compile(r"[\s,=/@]")  # what `Arch` writes between names and values


@dataclass(frozen=True)
class Presence:
    """A condition: the value of another gene, such as a depth, is at least `least`."""

    gene: str
    least: float


@dataclass(frozen=True)
class Gene:
    """A choice that every arch makes, or those in which it is present.

    Attributes:
        name: such as `heads` or `stage1.block2.kernel`.
        values: numbers, ascending, or texts. 6.0 and 6 are one value.
        present: conditions that must all hold; none: always there. A single one needs no tuple.
    """

    name: str
    values: tuple[Value, ...]
    present: tuple[Presence, ...] = ()

    def __post_init__(self) -> None:
        check_text(self.name, "gene")
        values = tuple(plain(v, f"gene {self.name}") for v in self.values)
        object.__setattr__(self, "values", values)
        present = self.present
        present = (present,) if isinstance(present, Presence) else tuple(present)
        object.__setattr__(self, "present", present)
        texts = {isinstance(v, str) for v in values}
        if not values or len(texts) > 1 or len(set(values)) < len(values):
            raise InputError(
                f"gene {self.name}: {self.values} is not a list of different choices,"
                " all numbers or all texts"
            )
        if not self.is_text and list(values) != sorted(values):  # type: ignore[type-var]
            raise InputError(f"gene {self.name}: {self.values} is not ascending")
        if len(values) > MOST_CHOICES:
            raise InputError(
                f"gene {self.name}: {len(values)} choices; at most {MOST_CHOICES} are possible"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        row: dict[str, Any] = {"name": self.name, "values": list(self.values)}
        if self.present:
            row["present"] = [[p.gene, p.least] for p in self.present]
        return row

    @classmethod
    def from_dict(cls, row: Any) -> Gene:
        """The gene that `to_dict` wrote; raises as `Space.from_dict`."""
        present = tuple(Presence(gene, least) for gene, least in row.get("present", ()))
        return cls(row["name"], tuple(row["values"]), present)

    @property
    def kind(self) -> str:
        """The last part of its name: all genes of a kind are opened and restricted together."""
        return self.name.rpartition(".")[2]

    @property
    def place(self) -> str:
        """Its name without the kind: genes of one place act together; empty: of no place."""
        return self.name.rpartition(".")[0]

    @property
    def is_text(self) -> bool:
        return isinstance(self.values[0], str)

    @property
    def spoken(self) -> str:
        """Its name for people: `stage 1 block 2: kernel`."""
        place = re.sub(r"(\D)(\d+)$", r"\1 \2", self.place.replace(".", "\n"), flags=re.M)
        place = place.replace("\n", " ")
        return f"{place}: {self.kind}" if place else self.kind

    def index(self, value: Value) -> int:
        """Where a value is among the choices; -1: nowhere."""
        return self.values.index(value) if value in self.values else -1


def plain(value: object, where: str) -> Value:
    """A number, whole where it can be, or a text that an arch's text can hold.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        check_text(value, where)
        if _is_number(value):
            raise InputError(f"{where}: the text {value!r} reads as a number; give the number")
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is not a finite number or a text")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_text(text: str, where: str) -> None:
    """Refuses what would not read back from an arch's text."""
    if not isinstance(text, str) or not text or _BREAKS_TEXT.search(text) or not text.isprintable():
        raise InputError(
            f"{where}: {text!r} is not a text without spaces, commas and the signs = / @"
        )


def parse(text: str) -> Value:
    """The value that `written` wrote."""
    if not _is_number(text):
        return text
    return plain(int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text), "arch")


def written(value: Value) -> str:
    """A value in an arch's text."""
    return value if isinstance(value, str) else repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Condition = tuple[int, int]  # a gene's column, and the least index of its values


def closures(family: str, genes: Sequence[Gene]) -> tuple[tuple[Condition, ...], ...]:
    """For each gene all that must hold for it to be there, its controlling genes' own included.

    Raises:
        InputError: a condition on a gene that is not there before it, or that has no numbers.
    """
    columns: dict[str, int] = {}
    found: list[tuple[Condition, ...]] = []
    for column, gene in enumerate(genes):
        least: dict[int, int] = {}
        for condition in gene.present:
            control = columns.get(condition.gene)
            if control is None or genes[control].is_text:
                raise InputError(
                    f"space {family}: gene {gene.name} is present by {condition.gene!r};"
                    f" the numbers before it are"
                    f" {choices([n for n, c in columns.items() if not genes[c].is_text])}"
                )
            values = genes[control].values
            first = sum(v < condition.least for v in values)  # type: ignore[operator]
            if first == len(values):
                raise InputError(
                    f"space {family}: gene {gene.name} is never there: {condition.gene} reaches"
                    f" {values[-1]}, not {condition.least}"
                )
            for c, at in (*found[control], (control, first)):
                least[c] = max(least.get(c, 0), at)
        found.append(tuple(sorted((c, at) for c, at in least.items() if at > 0)))
        columns[gene.name] = column
    return tuple(found)


def normal(family: str, genes: tuple[Gene, ...]) -> tuple[Gene, ...]:
    """The genes without conditions that always hold: of these, those of the gene they name."""
    closures(family, genes)  # refuses what makes no sense
    known: dict[str, Gene] = {}
    for gene in genes:
        present: dict[Presence, None] = {}
        for condition in gene.present:
            control = known[condition.gene]
            always = condition.least <= control.values[0]  # type: ignore[operator]
            present.update(dict.fromkeys(control.present if always else (condition,)))
        changed = tuple(present) != gene.present
        known[gene.name] = replace(gene, present=tuple(present)) if changed else gene
    return tuple(known.values())
