"""Limits as they are typed: `latency=P.npz:20ms`, `macs=200M..300M`; and what they limit.

Knows predictors' files, cost tables and units; nothing of what is maximised within the limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onceforall.cli.objectives import loaded, mean_of
from onceforall.errors import InputError
from onceforall.units import quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceforall.cli.objectives import Origin
    from onceforall.search import Limit, Objective
    from onceforall.space import Space

COSTS = ("macs", "params", "peak_activation_bytes")
POINTS = 8  # budgets of a front that has only its largest one


@dataclass(frozen=True)
class TypedLimit:
    """A limit as it was typed."""

    name: str
    source: Path | None  # of the predictor or table; None: computed
    amount: str


@dataclass(frozen=True)
class Bounds:
    """What a quantity may be, in its unit."""

    name: str
    at_most: float | None
    at_least: float | None
    budgets: tuple[float, ...] | None  # several values; () for none

    def limit(self, value: Objective, unit: str | None) -> Limit:
        from onceforall.search import Limit

        return Limit(self.name, value, self.at_most, self.at_least, unit or "")


def typed_limit(text: str, pareto: bool) -> TypedLimit:
    """Raises InputError where the text is not NAME=VALUE or NAME=P:VALUE."""
    name, equals, rest = text.partition("=")
    name = name.strip()
    where = f"--limit {name}" if equals else "--limit"
    if not equals and not pareto:
        raise InputError(f"--limit: {text!r} is not NAME=VALUE or NAME=P:VALUE")
    source: Path | None = None
    amount = rest
    if name not in COSTS:
        path, colon, amount = rest.rpartition(":")
        if pareto and (not colon or Path(rest).exists()):
            path, amount = rest, ""
        if not path:
            raise InputError(
                f"{where}: {rest!r} names no predictor; write {name}=PREDICTOR:VALUE"
                f" (without one: {', '.join(COSTS)})"
            )
        source = Path(path)
    if not amount.strip() and not pareto:
        raise InputError(f"{where}: no value is given")
    if "," in amount and not pareto:
        raise InputError(f"{where}: several values ({amount}) need --pareto")
    return TypedLimit(name, source, amount)


def in_unit(typed: TypedLimit, unit: str | None) -> Bounds:
    """Raises InputError where the amount is no value, values or range in a unit that fits."""

    def number(text: str) -> float:
        return quantity(f"--limit {typed.name}", text, unit)

    if not typed.amount.strip():
        return Bounds(typed.name, None, None, ())
    if "," in typed.amount:
        several = sorted({number(part) for part in typed.amount.split(",")})
        return Bounds(typed.name, None, None, tuple(several))
    low, dots, high = typed.amount.partition("..")
    if high.startswith("."):
        raise InputError(f"--limit {typed.name}: {typed.amount!r}: a range is written LOW..HIGH")
    if not dots:
        return Bounds(typed.name, number(typed.amount), None, None)
    at_most = number(high) if high.strip() else None
    return Bounds(typed.name, at_most, number(low) if low.strip() else None, None)


def budgets_of(
    bounds: Sequence[Bounds], values: dict[str, tuple[Objective, str | None]]
) -> tuple[dict[str, list[float] | None], list[Limit]]:
    """What a front is drawn over, None for a whole range, and the limits that hold for all.

    Quantities with several values or none are traded; where all have one, the first that has a
    largest value is, from its smallest to it.
    """
    from onceforall.space import Table

    traded = [each for each in bounds if each.budgets is not None]
    if not bounds:
        raise InputError("--pareto: no --limit names a quantity to trade accuracy against")
    if traded:
        budgets = {each.name: list(each.budgets or ()) or None for each in traded}
        fixed = [each for each in bounds if each.budgets is None]
        return budgets, [each.limit(*values[each.name]) for each in fixed]
    first = next((each for each in bounds if each.at_most is not None), None)
    if first is None or first.at_most is None:
        raise InputError("--pareto: no --limit has a largest value")
    value = values[first.name][0]
    low = value.minimum()[0] if isinstance(value, Table) else first.at_most / 2
    low = max(low, first.at_least or low)
    step = (first.at_most - low) / POINTS
    kept = [replace(each, at_most=None) if each is first else each for each in bounds]
    fixed = [each for each in kept if each.at_most is not None or each.at_least is not None]
    return (
        {first.name: [first.at_most - step * i for i in reversed(range(POINTS))]},
        [each.limit(*values[each.name]) for each in fixed],
    )


def quantity_of(typed: TypedLimit, space: Space, origin: Origin) -> tuple[Objective, str | None]:
    """The function or table of a limited quantity, and its unit; None where it is not known."""
    if typed.source is not None:
        predictor = loaded(typed.source, space)
        exact = getattr(predictor, "table", None)
        if exact is not None:
            return exact, predictor.unit or None
        return mean_of(predictor), predictor.unit or None
    from onceforall import costs

    try:
        family = origin.family()
    except InputError as error:
        raise InputError(
            f"--limit {typed.name}: {space.family} has no networks to count it on: {error}"
        ) from None
    made = costs.cost_table(family, typed.name, space.resolution)
    return made.restrict(space), made.unit
