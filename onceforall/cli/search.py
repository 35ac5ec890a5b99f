"""The command `search`: the best arch within limits, or a front of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, command, emit
from onceforall.cli.limits import budgets_of, in_unit, quantity_of, typed_limit
from onceforall.cli.objectives import LowerBound, Origin, checker_of, facts_of, loaded
from onceforall.columns import Column, table
from onceforall.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceforall.space import Arch, ResolutionError, Space


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
            autocompletion=completing.families,
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
            " predictor gives them; 0: on the plain mean."
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
    typed = [typed_limit(text, pareto) for text in limit or ()]
    origin, searched = _searched(space, accuracy, resolutions)
    try:
        bound = LowerBound(loaded(accuracy, searched), risk)
        if bound.predictor.unit == "ms":
            raise InputError(f"--accuracy: {accuracy}: predicts ms, of which the most is the worst")
        checker = checker_of(bound, second, searched)
        values = {each.name: quantity_of(each, searched, origin) for each in typed}
        for each in typed:
            unit = values[each.name][1]
            if each.name == "latency" and unit == "%":
                raise InputError(f"--limit latency: {each.source} predicts %, not a time")
    except ResolutionError as error:
        named = [accuracy, second, *(each.source for each in typed)]
        raise InputError(f"{error}; {_offered(searched, error, named)}") from None
    bounds = [in_unit(each, values[each.name][1]) for each in typed]
    started = {"evaluations": evaluations, "seconds": seconds, "seed": seed, "method": method}
    if pareto:
        budgets, limits = budgets_of(bounds, values)
        costs = {name: values[name][0] for name in budgets}
        given = {name: b for name, b in budgets.items() if b is not None}
        with progress.busy("searching"):
            found = room.pareto(
                searched,
                bound.objective,
                costs,
                budgets=given if len(given) == len(budgets) else None,
                limits=limits,
                **started,  # type: ignore[arg-type]
            )
        rows = [facts_of(result, bound, checker) for result in found]
        data: dict[str, Any] = {"front": rows}
    else:
        limits = [each.limit(*values[each.name]) for each in bounds]
        with progress.busy("searching"):
            result = room.search(searched, bound.objective, limits, **started)  # type: ignore[arg-type]
        found = [result]
        rows = [facts_of(found[0], bound, checker)]
        data = dict(rows[0])
        if found[0].certificate is not None:
            data["certificate"] = {
                "bound": found[0].certificate.bound,
                "gap": found[0].certificate.gap,
            }
        data["candidates"] = [facts_of(c, bound, checker) for c in found[0].candidates]
    last = found[-1]
    data |= {
        "space": searched.family,
        "evaluations": last.evaluations,
        "seconds": round(last.seconds, 4),
        "method": last.method,
        "seed": seed,
        "risk": bound.risk,
        "checked_by": None if checker is None else checker.name,
    }
    if out is not None:
        _write(out, searched, origin, [result.arch for result in found], rows)
        data["path"] = str(out)
    units = {each.name: values[each.name][1] or "" for each in typed}
    then = None if out is None or pareto else command("info", out)
    emit(data, as_json, _text(rows, data, bound.predictor.unit, units), then)


def _searched(name: str, accuracy: Path, resolutions: str) -> tuple[Origin, Space]:
    """The space to search: a family's, a run's, or the predictor's own."""
    from onceforall import families, predictors
    from onceforall.costs import check_resolution

    if name and (families.known(name) or Path(name).is_dir()):
        origin = Origin(name, {})
        space = origin.family().space
    else:
        predictor = predictors.load(accuracy)
        space = predictor.space
        origin = Origin(space.family, predictor.settings)
        if name and space.family != name:
            raise InputError(
                f"--space: {name!r} is no family ({', '.join(families.names())}, or"
                f" FILE.py:NAME), no run's folder, and not the space of {accuracy}, which is"
                f" {space.family}"
            )
    if not resolutions:
        return origin, space
    try:
        wanted = tuple(sorted({int(r) for r in resolutions.split(",")}))
    except ValueError:
        raise InputError(f"--resolutions: {resolutions!r} is not a list like 160,192") from None
    if min(wanted) < 1:
        raise InputError(f"--resolutions: {resolutions!r}: {min(wanted)} is not a positive number")
    if families.known(space.family):
        family = origin.family()
        for resolution in wanted:
            check_resolution(family, family.space.smallest().at(resolution))
    return origin, space.at(wanted)


def _offered(space: Space, error: ResolutionError, named: Sequence[Path | None]) -> str:
    """The resolutions at which everything that is named can be asked, ready to be typed."""
    from onceforall.space import ResolutionError

    left = tuple(r for r in space.resolution if r in error.known)
    while left:
        try:
            for path in named:
                if path is not None:
                    loaded(path, space.at(left))
        except ResolutionError as other:
            left = tuple(r for r in left if r in other.known)
        else:
            return f"--resolutions {','.join(map(str, left))} takes those that all have"
    return "no resolution of the space is known to all that is named"


def _write(
    out: Path, space: Space, origin: Origin, archs: list[Arch], rows: list[dict[str, Any]]
) -> None:
    from onceforall import files, interop, records

    if out.suffix == ".json":
        try:
            facts = interop.arch_facts(origin.family(), archs[0])
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


def _text(
    rows: list[dict[str, Any]], data: dict[str, Any], unit: str, units: dict[str, str]
) -> str:
    names = list(rows[0]["limits"]) if rows else []
    more = [key for key in ("uncertainty", "checked") if rows and key in rows[0]]
    lines = [
        [
            str(n),
            f"{row['accuracy']:.4g}",
            *(f"{row[key]:.3g}" for key in more),
            *(_shown(row["limits"][name]) for name in names),
            row["arch"],
        ]
        for n, row in enumerate(rows, 1)
    ]
    columns: list[Column | str] = [
        "#",
        f"accuracy {unit}".strip(),
        *(Column(key, drop=1 + n) for n, key in enumerate(more)),
        *(f"{name} {units.get(name, '')}".strip() for name in names),
        Column("arch", left=True, below=True),
    ]
    text = table(columns, lines)
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


def _shown(value: float) -> str:
    """Counts whole, other numbers to six digits."""
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"
