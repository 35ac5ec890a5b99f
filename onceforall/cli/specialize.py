"""Commands from a supernet to files for devices: `specialize`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, command, emit
from onceforall.cli.networks import Batch, On, Threads
from onceforall.cli.records import MOST
from onceforall.cli.runs import Images, Mean, Prior, RunOrSpace, Std, SupernetWeights, opened
from onceforall.errors import choices
from onceforall.units import quantity


def specialize(
    run: RunOrSpace,
    max_latency: Annotated[
        list[str] | None,
        typer.Option(
            help="A budget such as 8ms, or vela=8ms for one device of several; more than once for"
            " several networks."
        ),
    ] = None,
    max_macs: Annotated[str | None, typer.Option(help="Such as 300M.", show_default=False)] = None,
    max_params: Annotated[str | None, typer.Option(help="Such as 5M.", show_default=False)] = None,
    max_activations: Annotated[
        str | None, typer.Option(help="At their peak, such as 256KiB.", show_default=False)
    ] = None,
    max_file: Annotated[
        str | None, typer.Option(help="The delivered file, such as 2MiB.", show_default=False)
    ] = None,
    max_sram: Annotated[
        str | None,
        typer.Option(help="On a device that tells it (vela), such as 128KiB.", show_default=False),
    ] = None,
    max_flash: Annotated[str | None, typer.Option(help="Likewise.", show_default=False)] = None,
    max_energy: Annotated[
        str | None,
        typer.Option(
            help="Of a run, such as 3mJ, where the processor's counters can be read (RAPL).",
            show_default=False,
        ),
    ] = None,
    weights: SupernetWeights = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="One of `onceforall devices`, or a YAML file that describes one; more than once"
            " for several. onnxruntime-cpu where left out.",
            show_default=False,
            autocompletion=completing.devices,
        ),
    ] = None,
    threads: Threads = 1,
    batch: Batch = 1,
    precisions: Annotated[
        str,
        typer.Option(
            "--precisions",
            "--precision",
            help="Such as fp32,int8: of several, the best measured is picked for each budget.",
            autocompletion=completing.precisions,
        ),
    ] = "fp32",
    samples: Annotated[
        int,
        typer.Option(
            min=10, max=MOST, help="Score and latency records the predictors are fitted on."
        ),
    ] = 100,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Validation images an arch is scored on; all where left out."),
    ] = None,
    risk: Annotated[
        float,
        typer.Option(min=0, help="Standard deviations taken off predicted scores in search."),
    ] = 1.0,
    prior: Prior = None,
    data: Images = None,
    mean: Mean = None,
    std: Std = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder; RUN/specialized where left out, with a folder a device."),
    ] = None,
    on: On = None,
    seed: Annotated[int, typer.Option(min=0, help="Of search and of the choice of records.")] = 0,
    as_json: Json = False,
) -> None:
    """Finds, extracts, verifies and exports the best sub-network for each device and budget.

    Records that are missing are made first and kept in the run's folder (of --weights, in --out);
    what was measured of the same supernet on this machine is not measured again. A call that was
    interrupted is gone on with by calling again. The file that is delivered is the one that was
    timed and scored on the test set.

    Example: onceforall specialize runs/mine --max-latency 0.05ms --max-latency 0.08ms
    """
    from onceforall.pipeline import budgets_of, picked, specialize_all, targets_of
    from onceforall.report.terminal import network_tables

    asked = [part.strip() for part in precisions.split(",")]
    targets = targets_of(device or ["onnxruntime-cpu"], asked, threads, batch)
    limits = {
        "max_macs": max_macs,
        "max_params": max_params,
        "max_activations": max_activations,
        "max_file": max_file,
        "max_sram": max_sram,
        "max_flash": max_flash,
        "max_energy": max_energy,
    }
    wanted = budgets_of(targets, max_latency or [], limits, _option)
    its = opened(run, weights, data, out, (mean, std))
    given: dict[str, Any] = {"samples": samples, "images": images, "risk": risk, "prior": prior}
    cards = specialize_all(its, wanted, out, seed=seed, on=on, **given)
    rows = [
        {**card.to_dict(), "picked": best} for card, best in zip(cards, picked(cards), strict=True)
    ]
    emit(
        {"networks": rows, "device": choices(str(t) for t in targets)},
        as_json,
        network_tables(rows, its.task.metric),
        command("report", its.folder),
    )


def _option(name: str) -> str:
    """As an argument is typed: max_macs -> --max-macs."""
    return "--" + name.replace("_", "-")


def demo(
    out: Annotated[
        Path | None, typer.Option(help="The folder; a new one in runs/ where left out.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="fashion-mnist or digits; the first that can be had, if left out."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Latency such as 0.05ms, more than once; else chosen for this machine."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Runs the whole job on Fashion-MNIST in minutes: train once, then a network for each budget.

    Example: onceforall demo
    """
    from onceforall.pipeline import demonstration as whole
    from onceforall.report.terminal import network_table
    from onceforall.supernet import CLASSIFICATION

    budgets = [quantity("--budget", text, "ms") for text in budget] if budget else None
    result = whole.demo(
        out or _fresh(), [b for b in budgets if b is not None] if budgets else None, data
    )
    text = [network_table(result["networks"], CLASSIFICATION.metric, "--json, or demo.json"), ""]
    if result["plot"]:
        text.append(f"plot: {result['plot']}")
    text.append(f"everything: {result['run']} (in {result['seconds']:.0f} s)")
    text.append(f"to look at, in a browser: {result['report']}")
    emit(result, as_json, "\n".join(text))


def _fresh() -> Path:
    """runs/demo, or the first of runs/demo-2, runs/demo-3, ... that is not there."""
    path, n = Path("runs/demo"), 1
    while path.exists():
        n += 1
        path = Path(f"runs/demo-{n}")
    return path
