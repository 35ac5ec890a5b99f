"""The command `search`: the best arch within limits, or a front of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.common import Json, emit, table
from onceforall.cli.units import quantity
from onceforall.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onceforall.families import Family
    from onceforall.predictors import Predictor
    from onceforall.search import Candidate, Limit, Objective, Result
    from onceforall.space import Arch, ResolutionError, Space

COSTS = ("macs", "params", "peak_activation_bytes")
SECOND = "a linear model of the same records"
POINTS = 8  # budgets of a front that has only its largest one


def search(
    accuracy: Annotated[
        Path,
        typer.Option(
            metavar="P",
            help="What to maximise: a predictor's file (as `fit` writes it, or a published one).",
            show_default=False,
        ),
    ],
    space: Annotated[
        str,
        typer.Option(
            metavar="S",
            help="The family to search (one of ours, or my_net.py:family in a file of yours), or a"
            " training run's folder; the predictor's own where nothing is given.",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=[P:]VALUE",
            help="A limit; may be given more than once. macs, params and peak_activation_bytes"
            " are computed, any other quantity needs a predictor or a table P. VALUE is a largest"
            " value (300M, 20ms, 1.5MiB) or a range (18ms..20ms, 18ms..). With --pareto, several"
            " values (15ms,20ms,25ms) are budgets of a front.",
            show_default=False,
        ),
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="A front over budgets in place of one arch.")
    ] = False,
    resolutions: Annotated[
        str, typer.Option(metavar="R,...", help="Only these resolutions.", show_default=False)
    ] = "",
    risk: Annotated[
        float,
        typer.Option(
            help="Search on the predicted mean minus this many standard deviations, where the"
            " predictor knows them; 0: on the plain mean."
        ),
    ] = 1.0,
    second: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="P",
            help="An independent accuracy predictor that judges what was found; without one, a"
            " model of another kind fitted on the same records does.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto, guided, evolution, exact; nsga2 with --pareto.")
    ] = "auto",
    evaluations: Annotated[
        int | None, typer.Option(help="Archs to predict the accuracy of.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this time.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .json for an arch, .csv for archs with their values.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Finds the arch with the best predicted accuracy within limits.

    Example: onceforall search --space ofa_mbv3_w1.0 --accuracy accuracy.npz
    --limit latency=latency.npz:20ms --limit macs=300M
    """
    from onceforall import files, progress
    from onceforall import search as room
    from onceforall.space import ResolutionError

    if not 0 <= risk < float("inf"):
        raise InputError(f"--risk: {risk} is not zero or a positive number")
    if out is not None:
        files.refuse_existing(out)
        if out.suffix not in ((".csv",) if pareto else (".json", ".csv")):
            wanted = ".csv" if pareto else ".json or .csv"
            raise InputError(f"--out: {out}: a name that ends in {wanted} was expected")
    typed = [_typed(text, pareto) for text in limit or ()]
    of, searched = _searched(space, accuracy, resolutions)
    try:
        judge = _Judge(_loaded(accuracy, searched), risk)
        checker = _checker(judge, second, searched)
        values = {wish.name: _value(wish, searched, of) for wish in typed}
    except ResolutionError as error:
        named = [accuracy, second, *(wish.source for wish in typed)]
        raise InputError(f"{error}; {_offered(searched, error, named)}") from None
    wishes = [_wish(wish, values[wish.name][1]) for wish in typed]
    started = {"evaluations": evaluations, "seconds": seconds, "seed": seed, "method": method}
    if pareto:
        budgets, limits = _budgets(wishes, values)
        costs = {name: values[name][0] for name in budgets}
        given = {name: b for name, b in budgets.items() if b is not None}
        with progress.busy("searching"):
            found = room.pareto(
                searched,
                judge.objective,
                costs,
                budgets=given if len(given) == len(budgets) else None,
                limits=limits,
                **started,  # type: ignore[arg-type]
            )
        rows = [_facts(result, judge, checker) for result in found]
        data: dict[str, Any] = {"front": rows}
    else:
        limits = [wish.limit(*values[wish.name]) for wish in wishes]
        with progress.busy("searching"):
            result = room.search(searched, judge.objective, limits, **started)  # type: ignore[arg-type]
        found = [result]
        rows = [_facts(found[0], judge, checker)]
        data = dict(rows[0])
        if found[0].certificate is not None:
            data["certificate"] = {
                "bound": found[0].certificate.bound,
                "gap": found[0].certificate.gap,
            }
        data["candidates"] = [_facts(c, judge, checker) for c in found[0].candidates]
    last = found[-1]
    data |= {
        "space": searched.family,
        "evaluations": last.evaluations,
        "seconds": round(last.seconds, 4),
        "method": last.method,
        "seed": seed,
        "risk": judge.risk,
        "checked_by": None if checker is None else checker.name,
    }
    if out is not None:
        _write(out, searched, of, [result.arch for result in found], rows)
        data["path"] = str(out)
    emit(data, as_json, _text(rows, data))


# --- limits


@dataclass(frozen=True)
class _Typed:
    """A limit as it was typed."""

    name: str
    source: Path | None  # of the predictor or table; None: computed
    amount: str


@dataclass(frozen=True)
class _Wish:
    """A limit in the unit of its quantity."""

    name: str
    at_most: float | None
    at_least: float | None
    budgets: tuple[float, ...] | None  # several values; () for none

    def limit(self, value: Objective, unit: str | None) -> Limit:
        from onceforall.search import Limit

        return Limit(self.name, value, self.at_most, self.at_least, unit or "")


def _typed(text: str, pareto: bool) -> _Typed:
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
    return _Typed(name, source, amount)


def _wish(typed: _Typed, unit: str | None) -> _Wish:
    """Raises InputError where the amount is no value, values or range in a unit that fits."""

    def number(text: str) -> float:
        return quantity(f"--limit {typed.name}", text, unit)

    if not typed.amount.strip():
        return _Wish(typed.name, None, None, ())
    if "," in typed.amount:
        several = sorted({number(part) for part in typed.amount.split(",")})
        return _Wish(typed.name, None, None, tuple(several))
    low, dots, high = typed.amount.partition("..")
    if high.startswith("."):
        raise InputError(f"--limit {typed.name}: {typed.amount!r}: a range is written LOW..HIGH")
    if not dots:
        return _Wish(typed.name, number(typed.amount), None, None)
    at_most = number(high) if high.strip() else None
    return _Wish(typed.name, at_most, number(low) if low.strip() else None, None)


def _budgets(
    wishes: Sequence[_Wish], values: dict[str, tuple[Objective, str | None]]
) -> tuple[dict[str, list[float] | None], list[Limit]]:
    """What a front is drawn over, None for a whole range, and the limits that hold for all.

    Quantities with several values or none are traded; where all have one, the first that has a
    largest value is, from its smallest to it.
    """
    from onceforall.space import Table

    traded = [wish for wish in wishes if wish.budgets is not None]
    if not wishes:
        raise InputError("--pareto: no --limit names a quantity to trade accuracy against")
    if traded:
        budgets = {wish.name: list(wish.budgets or ()) or None for wish in traded}
        fixed = [wish for wish in wishes if wish.budgets is None]
        return budgets, [wish.limit(*values[wish.name]) for wish in fixed]
    first = next((wish for wish in wishes if wish.at_most is not None), None)
    if first is None or first.at_most is None:
        raise InputError("--pareto: no --limit has a largest value")
    value = values[first.name][0]
    low = value.minimum()[0] if isinstance(value, Table) else first.at_most / 2
    low = max(low, first.at_least or low)
    step = (first.at_most - low) / POINTS
    kept = [replace(wish, at_most=None) if wish is first else wish for wish in wishes]
    fixed = [wish for wish in kept if wish.at_most is not None or wish.at_least is not None]
    return (
        {first.name: [first.at_most - step * i for i in reversed(range(POINTS))]},
        [wish.limit(*values[wish.name]) for wish in fixed],
    )


# --- predictors


class _Judge:
    """An accuracy predictor as an objective: mean minus risk standard deviations."""

    def __init__(self, predictor: Predictor, risk: float) -> None:
        import numpy as np

        self.predictor, self._np = predictor, np
        self.exact = getattr(predictor, "table", None)
        probe = predictor.predict(predictor.space.encode([predictor.space.largest()]))
        self.risk = risk if probe.std is not None else 0.0

    @property
    def objective(self) -> Objective:
        return self.exact if self.exact is not None else self._lower

    def _lower(self, population: Any) -> Any:
        found = self.predictor.predict(population)
        if found.std is None or self.risk == 0:
            return self._np.asarray(found.mean, float)
        return found.mean - self.risk * found.std

    def facts(self, arch: Arch) -> dict[str, Any]:
        found = self.predictor.predict(self.predictor.space.encode([arch]))
        facts: dict[str, Any] = {"accuracy": float(found.mean[0])}
        if found.std is not None:
            facts["uncertainty"] = float(found.std[0])
        facts["extrapolates"] = bool(found.extrapolates[0])
        return facts


@dataclass(frozen=True)
class _Checker:
    """Who judges what was found, beside the predictor that was searched on."""

    name: str
    space: Space
    accuracy: Callable[[Any], Any]  # of a population

    def __call__(self, arch: Arch) -> float:
        return float(self.accuracy(self.space.encode([arch]))[0])


def _checker(judge: _Judge, second: Path | None, space: Space) -> _Checker | None:
    """The predictor that is named; else a second opinion, where the first one has its records."""
    from onceforall.predictors import Accuracy, SecondOpinion

    if second is not None:
        return _Checker(str(second), space, _mean_of(_loaded(second, space)))
    if isinstance(judge.predictor, Accuracy):
        return _Checker(SECOND, space, SecondOpinion(judge.predictor))
    return None


def _loaded(path: Path, space: Space) -> Predictor:
    from onceforall import predictors

    return predictors.load(path, space)


@dataclass(frozen=True)
class _Origin:
    """Where the searched archs come from: their family is made when it is asked for, because a
    predictor can be of a family that is not here."""

    name: str
    settings: Mapping[str, Any]

    def family(self) -> Family:
        from onceforall.cli.nets import family_named

        if not self.settings:
            return family_named(self.name)
        from onceforall.families.settings import made_again

        return made_again(self.name, self.settings, "--accuracy")


def _searched(name: str, accuracy: Path, resolutions: str) -> tuple[_Origin, Space]:
    """The space to search: a family's, a run's, or the predictor's own."""
    from onceforall import families, predictors
    from onceforall.costs import check_resolution

    if name and (families.known(name) or Path(name).is_dir()):
        of = _Origin(name, {})
        space = of.family().space
    else:
        predictor = predictors.load(accuracy)
        space = predictor.space
        of = _Origin(space.family, predictor.settings)
        if name and space.family != name:
            raise InputError(
                f"--space: {name!r} is no family ({', '.join(families.names())}, or"
                f" FILE.py:NAME), no run's folder, and not the space of {accuracy}, which is"
                f" {space.family}"
            )
    if not resolutions:
        return of, space
    try:
        wanted = tuple(sorted({int(r) for r in resolutions.split(",")}))
    except ValueError:
        raise InputError(f"--resolutions: {resolutions!r} is not a list like 160,192") from None
    if min(wanted) < 1:
        raise InputError(f"--resolutions: {resolutions!r}: {min(wanted)} is not a positive number")
    if families.known(space.family):
        family = of.family()
        for resolution in wanted:
            check_resolution(family, family.space.smallest().at(resolution))
    return of, space.at(wanted)


def _offered(space: Space, error: ResolutionError, named: Sequence[Path | None]) -> str:
    """The resolutions at which everything that is named can be asked, ready to be typed."""
    from onceforall.space import ResolutionError

    left = tuple(r for r in space.resolution if r in error.known)
    while left:
        try:
            for path in named:
                if path is not None:
                    _loaded(path, space.at(left))
        except ResolutionError as other:
            left = tuple(r for r in left if r in other.known)
        else:
            return f"--resolutions {','.join(map(str, left))} takes those that all have"
    return "no resolution of the space is known to all that is named"


def _value(wish: _Typed, space: Space, of: _Origin) -> tuple[Objective, str | None]:
    """The function or table of a limited quantity, and its unit; None where it is not known."""
    if wish.source is not None:
        predictor = _loaded(wish.source, space)
        exact = getattr(predictor, "table", None)
        if exact is not None:
            return exact, predictor.unit or None
        return _mean_of(predictor), predictor.unit or None
    from onceforall import costs

    try:
        family = of.family()
    except InputError as error:
        raise InputError(
            f"--limit {wish.name}: {space.family} has no networks to count it on: {error}"
        ) from None
    made = costs.cost_table(family, wish.name, space.resolution)
    return made.restrict(space), made.unit


def _mean_of(predictor: Predictor) -> Callable[[Any], Any]:
    return lambda population: predictor.predict(population).mean


# --- results


def _facts(found: Result | Candidate, judge: _Judge, checker: _Checker | None) -> dict[str, Any]:
    facts = {
        "arch": str(found.arch),
        "resolution": found.arch.resolution,
        **judge.facts(found.arch),
        "limits": found.limits,
    }
    if checker is not None:
        facts["checked"] = checker(found.arch)
    return facts


def _write(
    out: Path, space: Space, of: _Origin, archs: list[Arch], rows: list[dict[str, Any]]
) -> None:
    from onceforall import files, interop, records

    if out.suffix == ".json":
        try:
            facts = interop.arch_facts(of.family(), archs[0])
        except InputError:  # no family of that name is here
            facts = archs[0].to_dict()
        files.write_json(out, facts)
        return
    columns: dict[str, list[Any]] = {}
    for key in ("accuracy", "uncertainty", "checked"):
        if all(key in row for row in rows):
            columns[key] = [row[key] for row in rows]
    for name in rows[0]["limits"] if rows else ():
        columns[name] = [row["limits"][name] for row in rows]
    records.write_csv(out, space, space.encode(archs), columns)


def _text(rows: list[dict[str, Any]], data: dict[str, Any]) -> str:
    names = list(rows[0]["limits"]) if rows else []
    told = [key for key in ("uncertainty", "checked") if rows and key in rows[0]]
    lines = [
        [
            row["arch"],
            f"{row['accuracy']:.4g}",
            *(f"{row[key]:.3g}" for key in told),
            *(f"{row['limits'][name]:,.6g}" for name in names),
        ]
        for row in rows
    ]
    text = table(["arch", "accuracy", *told, *names], lines)
    text += f"\n{data['evaluations']:,} archs evaluated in {data['seconds']:.2f} s"
    text += f" ({data['method']}, seed {data['seed']})"
    if "certificate" in data:
        gap = data["certificate"]["gap"]
        text += "\nproven: no arch within the limits is better"
        text += "" if gap <= 1e-6 else f" by more than {gap:.3g}"
    if data["checked_by"] is not None:
        text += f"\nchecked: what {data['checked_by']} says of the accuracy"
    if any(row["extrapolates"] for row in rows):
        text += "\nsome lie outside the range of the predictor's records: measure before relying"
    return text
