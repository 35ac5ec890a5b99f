"""Commands about predictors: `fit accuracy`, `fit latency`, `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, command, emit
from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from onceforall.predictors import Predictor
    from onceforall.records import Labels
    from onceforall.space import Space

fit = typer.Typer(
    name="fit",
    help="Fits a predictor of accuracy or latency on records, and says its held-out error.\n\n"
    "Example: onceforall fit accuracy accuracy.csv --out accuracy.npz",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Records = Annotated[
    Path,
    typer.Argument(
        metavar="RECORDS",
        help="CSV (kernel_sizes,expand_ratios,depths,resolution or arch, then one column a metric)"
        " or JSONL of records.",
        show_default=False,
    ),
]
SpaceName = Annotated[
    str,
    typer.Option(
        "--space",
        metavar="S",
        help="The archs' family (my_net.py:family in a file of yours), or the folder of a run.",
        autocompletion=completing.families,
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="P", help="The predictor's file to write.")]
Metric = Annotated[str, typer.Option("--metric", metavar="COLUMN", help="The column to predict.")]
Device = Annotated[
    str,
    typer.Option(
        help="Only records of this device (in a CSV, column 'device').",
        show_default=False,
        autocompletion=completing.devices,
    ),
]
TestFraction = Annotated[
    float,
    typer.Option(
        help="Share of the records that the error is measured on; below 200 records five folds"
        " are used instead."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the choice of held-out records.")]


@fit.command()
def accuracy(
    records: Records,
    space: SpaceName,
    out: Out,
    metric: Metric = "top1",
    covariates: Annotated[
        str,
        typer.Option(
            metavar="COLUMN,...",
            help="Columns that hold the circumstances of a measurement, such as the part of the"
            " images; 'auto': columns of few different values; 'none'.",
        ),
    ] = "auto",
    device: Device = "",
    prior: Annotated[
        Path | None,
        typer.Option(help="Another predictor; its output is one more feature.", show_default=False),
    ] = None,
    test_fraction: TestFraction = 0.2,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fits an accuracy predictor.

    Example: onceforall fit accuracy records.csv --space ofa_mbv3_w1.0 --out accuracy.npz
    """
    from onceforall import files, predictors, progress

    _check(test_fraction)
    files.refuse_existing(out)
    labels = _labels(records, _space(space), metric, device, positive=False)
    percent = metric.startswith("top")
    if percent:
        _check_share(records, labels)
    if covariates == "auto":
        used = predictors.likely_covariates(labels)
    elif covariates == "none":
        used = ()
    else:
        used = tuple(covariates.split(","))
    hint = None
    if prior is not None:
        hint = predictors.load_prior(prior, labels.at_own_resolutions().space)
    with progress.busy(f"fitting {len(labels):,} records"):
        predictor = predictors.fit_accuracy(
            labels,
            used,
            prior=hint,
            unit="%" if percent and labels.values.max() > 1 else "",
            test_fraction=test_fraction,
            seed=seed,
        )
    predictor.settings = _settings(space)
    limit = ("--limit", "latency=latency.npz:...")
    then = command("search", "--space", space, "--accuracy", out, *limit)
    _finish(predictor, out, labels, as_json, then, covariates=list(used))


@fit.command()
def latency(
    records: Records,
    space: SpaceName,
    out: Out,
    metric: Metric = "latency_ms",
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:COLUMN,...]",
            help="Records of other devices, for when this one has few; without columns, all that"
            " hold latencies (but --metric itself, in the same file). May be given more than once.",
            show_default=False,
        ),
    ] = None,
    device: Device = "",
    test_fraction: TestFraction = 0.2,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fits a latency predictor.

    The rows are taken to be in measuring order: where the device drifted over the session, this
    is found and corrected.

    Example: onceforall fit latency ten.csv --space ofa_mbv3_w1.0 --metric 2080ti_1
    --source all.csv:titan_rtx_1,titan_rtx_32 --out latency.npz
    """
    from onceforall import files, predictors, progress

    _check(test_fraction)
    files.refuse_existing(out)
    known = _space(space)
    labels = _labels(records, known, metric, device, positive=True)
    sources = [s for text in source or () for s in _sources(text, known, records, metric, device)]
    with progress.busy(f"fitting {len(labels):,} records and {len(sources)} other devices"):
        predictor = predictors.fit_latency(labels, sources, test_fraction=test_fraction, seed=seed)
    predictor.settings = _settings(space)
    drift = predictor.drift
    search = ("search", "--space", space, "--accuracy", "accuracy.npz")
    _finish(
        predictor,
        out,
        labels,
        as_json,
        command(*search, "--limit", f"latency={out}:..."),
        sources=[s.metric for s in sources],
        drift_percent=None if drift is None else round(100 * drift.size, 3),
    )


def predict(
    predictor: Annotated[
        Path, typer.Argument(metavar="P", help="A predictor's file, as `fit` writes it.")
    ],
    archs: Annotated[
        Path,
        typer.Argument(
            metavar="ARCHS", help="CSV of archs; columns of the predictor's covariates are used."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="CSV", help="The file to write.")],
    as_json: Json = False,
) -> None:
    """Predicts a value for every arch of a file: columns `prediction`, `uncertainty` (standard
    deviation) and `extrapolates` (1 where the arch is outside the range of the training archs).

    Example: onceforall predict accuracy.npz archs.csv --out predicted.csv
    """
    from time import perf_counter

    from onceforall import files, predictors, progress
    from onceforall import records as room

    files.refuse_existing(out)
    loaded = predictors.load(predictor)
    sheet = room.read_archs(archs, loaded.space)
    new = ("prediction", "uncertainty", "extrapolates")
    taken = [name for name in new if name in sheet.columns]
    if taken:
        raise InputError(f"{archs}: has a column {taken[0]!r} already; rename it")
    model = loaded.on(sheet.space)
    given = {name: sheet.columns[name] for name in model.covariate_names if name in sheet.columns}
    foreign = {
        name: sorted(set(given[name].tolist()) - {"", *levels})
        for name, levels in model.covariate_levels.items()
        if name in given
    }
    model.predict(sheet.population[:1], **{k: v[:1] for k, v in given.items()})  # tables are made
    start = perf_counter()
    with progress.busy(f"predicting {len(sheet.population):,} archs"):
        found = model.predict(sheet.population, **given)
    seconds = perf_counter() - start
    columns: dict[str, Any] = {**sheet.archs, **sheet.columns, "prediction": found.mean}
    if found.std is not None:
        columns["uncertainty"] = found.std
    columns["extrapolates"] = found.extrapolates.astype(int)
    room.write_columns(out, columns)
    beyond = int(found.extrapolates.sum())
    emit(
        {
            "path": str(out),
            "n": len(sheet.population),
            "seconds": round(seconds, 4),
            "extrapolates": beyond,
            "covariates": list(given),
            "unknown_levels": {name: levels for name, levels in foreign.items() if levels},
        },
        as_json,
        f"{len(sheet.population):,} predictions of {model.metric} in {seconds:.2f} s: {out}"
        + (f"\n{beyond:,} archs lie outside the range of the training archs" if beyond else "")
        + "".join(
            f"\n{name} {choices(levels)}: in no training record; the average is predicted"
            for name, levels in foreign.items()
            if levels
        ),
    )


def _check_share(path: Path, labels: Labels) -> None:
    """Refuses an accuracy that is no share, of 100 or of 1."""
    for value in labels.values:
        if not 0 <= value <= 100:
            raise InputError(f"{path}: {labels.metric}: {value:g} is not between 0 and 100 (%)")


def _check(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise InputError(f"--test-fraction: {test_fraction} is not between 0 and 1")


def _settings(name: str) -> dict[str, Any]:
    """Of the family, where they are not its own."""
    from onceforall.cli.nets import family_named
    from onceforall.families.settings import changed

    return changed(family_named(name))


def _space(name: str) -> Space:
    from onceforall.cli.nets import family_named

    return family_named(name).space


def _labels(path: Path, space: Space, metric: str, device: str, *, positive: bool) -> Labels:
    from onceforall import records as room

    labels = room.read_labels(path, space, metric, positive=positive, device=device)
    parts = room.by_device(labels)
    if len(parts) > 1:
        names = choices(part.columns["device"][0] for part in parts)
        raise InputError(f"{path}: has records of {names}; name one with --device")
    return labels


def _sources(text: str, space: Space, records: Path, metric: str, device: str) -> list[Labels]:
    """The labels of a `--source`: FILE or FILE:COLUMN,COLUMN. Those of `metric` (on `device`) in
    `records` are what is fitted, and no source of it."""
    from onceforall import records as room

    path, names = Path(text), None
    if not path.exists() and ":" in text:
        file, listed = text.rsplit(":", 1)
        path, names = Path(file), listed.split(",")
    same = path.exists() and records.exists() and path.samefile(records)
    own = {metric, f"{metric}@{device}"} if same else set()
    if own & set(names or ()):
        raise InputError(f"--source {text}: {metric} is what is fitted; name other devices'")
    if names is None:
        sheet = room.read_archs(path, space)
        names = [n for n in sheet.latencies() if n not in own]
        if not names:
            raise InputError(f"--source {text}: no column of it holds latencies of other devices")
    found = []
    for name in names:
        labels = room.read_labels(path, space, name, positive=True)
        found += room.by_device(labels)
    return found


def _finish(
    predictor: Predictor, out: Path, labels: Labels, as_json: bool, then: str, **more: Any
) -> None:
    """Writes the predictor, and says its held-out error and what comes next."""
    from onceforall import progress

    report = predictor.report
    assert report is not None
    predictor.save(out)
    for warning in labels.warnings:
        progress.say(f"warning: {warning}")
    unit = predictor.unit
    text = [
        f"{predictor.metric}: {out}, fitted on {len(labels):,} records",
        f"held-out error ({report.n_test:,} records, {report.n_train:,} in training):",
        f"  rmse {report.rmse:.4g} {unit}, mape {report.mape:.2f}%,"
        f" Kendall tau {report.kendall_tau:.3f}, Spearman {report.spearman:.3f}",
        f"  90% intervals hold {100 * report.coverage90:.0f}%",
    ]
    text += [f"{name}: {value}" for name, value in more.items() if value]
    data = {
        "path": str(out),
        "metric": predictor.metric,
        "unit": unit,
        "n": len(labels),
        **report.to_dict(),
        **more,
        "warnings": [*labels.warnings, *predictor.notes],
    }
    emit(data, as_json, "\n".join(text), then)
