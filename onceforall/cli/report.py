"""The command `report`: a run as one page to look into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.common import Json, emit


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a training run, finished or not, or --out of `specialize`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file; where left out RUN/report.html, the one before it replaced.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="First time the operations of each delivered network on its device, once; kept as"
            " profile.json beside its card.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Writes a run as one HTML file that a browser opens, with nothing loaded from elsewhere.

    In it: accuracy against measured latency with a slider for the budget, each network beside its
    neighbours, what it costs where, how far the predictors can be trusted, the training, all
    records.

    Example: onceforall report runs/mine
    """
    from onceforall.files import refuse_existing
    from onceforall.report import gather, profile_delivered, write_explorer

    path = out or run / "report.html"
    if run.is_dir():  # else gathering says so
        refuse_existing(path, overwrite=out is None)
    if profile:
        profile_delivered(run)
    data = gather(run)
    size = write_explorer(data, path, overwrite=out is None)
    emit(
        {"path": str(path), "bytes": size, "networks": len(data["networks"])},
        as_json,
        f"{path}: {size:,} bytes, {len(data['networks'])} networks; open it in a browser",
    )
