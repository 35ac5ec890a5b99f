"""Commands from a supernet to files for devices: `specialize`, `demo`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.common import Json, emit, table
from onceforall.cli.networks import Batch, Device, On, Precision, Threads
from onceforall.cli.records import MOST
from onceforall.cli.units import quantity
from onceforall.errors import InputError

if TYPE_CHECKING:
    from onceforall.pipeline import Limits
    from onceforall.supernet import Metric


def specialize(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")],
    max_latency: Annotated[
        list[str] | None,
        typer.Option(help="A budget such as 8ms; give it more than once for several networks."),
    ] = None,
    max_macs: Annotated[str | None, typer.Option(help="Such as 300M.", show_default=False)] = None,
    max_params: Annotated[str | None, typer.Option(help="Such as 5M.", show_default=False)] = None,
    max_activations: Annotated[
        str | None, typer.Option(help="At their peak, such as 256KiB.", show_default=False)
    ] = None,
    device: Device = "onnxruntime-cpu",
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Precision = "fp32",
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
    data: Annotated[
        str | None, typer.Option(help="Another data set than the run's.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; RUN/specialized/DEVICE where left out.")
    ] = None,
    on: On = None,
    seed: Annotated[int, typer.Option(min=0, help="Of search and of the choice of records.")] = 0,
    as_json: Json = False,
) -> None:
    """Finds, extracts, verifies and exports the best sub-network for each budget.

    Records that are missing are made first and kept in the run's folder; those that are there must
    be of the run's supernet, this machine and its runtime.

    Example: onceforall specialize runs/mine --max-latency 0.05ms --max-latency 0.08ms
    """
    from onceforall.devices import Target
    from onceforall.pipeline import gather_evidence, open_run, refuse_impossible
    from onceforall.pipeline import specialize as make

    target = Target(device, threads, batch, precision)
    wanted = list(_limits(max_latency or [], max_macs, max_params, max_activations))
    folder = out or run / "specialized" / str(target)
    for limits in wanted:
        if (folder / str(limits)).exists():
            raise InputError(f"{folder / str(limits)}: exists already; name another --out")
    opened = open_run(run, data)
    for limits in wanted:
        refuse_impossible(opened.supernet.family, limits)
    evidence = gather_evidence(
        opened,
        opened.data(),
        target,
        score_samples=samples,
        latency_samples=samples,
        images=images,
        risk=risk,
        seed=seed,
        on=on,
    )
    cards = [make(evidence, limits, folder / str(limits), seed=seed) for limits in wanted]
    rows = [card.to_dict() for card in cards]
    shown = network_table(rows, evidence.metric)
    emit({"networks": rows, "device": str(target)}, as_json, shown)


def _limits(
    latencies: list[str], macs: str | None, params: str | None, activations: str | None
) -> Iterable[Limits]:
    from onceforall.pipeline import Limits

    rest = {
        "macs": quantity("--max-macs", macs, "MACs"),
        "params": quantity("--max-params", params, "parameters"),
        "peak_activation_bytes": quantity("--max-activations", activations, "bytes"),
    }
    if not latencies:
        yield Limits(**rest)
    for latency in latencies:
        yield Limits(latency_ms=quantity("--max-latency", latency, "ms"), **rest)


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
    from onceforall.supernet import CLASSIFICATION

    budgets = [quantity("--budget", text, "ms") for text in budget] if budget else None
    result = whole.demo(
        out or _fresh(), [b for b in budgets if b is not None] if budgets else None, data
    )
    text = [network_table(result["networks"], CLASSIFICATION.metric), ""]
    if result["plot"]:
        text.append(f"plot: {result['plot']}")
    text.append(f"everything: {result['run']} (in {result['seconds']:.0f} s)")
    emit(result, as_json, "\n".join(text))


def _fresh() -> Path:
    """runs/demo, or the first of runs/demo-2, runs/demo-3, ... that is not there."""
    path, n = Path("runs/demo"), 1
    while path.exists():
        n += 1
        path = Path(f"runs/demo-{n}")
    return path


def network_table(rows: list[dict[str, Any]], metric: Metric) -> str:
    """Predicted beside measured, a row a network."""
    headers = [
        "budget",
        "params",
        "MACs",
        f"{metric.label} predicted",
        "validation",
        "test",
        "ms predicted",
        "measured",
        "file",
        "arch",
    ]
    shown = [
        [
            row["name"],
            f"{row['params'] / 1000:.1f}k",
            f"{'at least ' if row['uncovered'] else ''}{row['macs'] / 1e6:.2f}M",
            _plain(row[f"{metric.name}_predicted"], metric),
            _plain(row[f"{metric.name}_validation"], metric),
            _plain(row[f"{metric.name}_test"], metric),
            f"{row['latency_predicted_ms']:.4f}",
            f"{row['latency_measured_ms']:.4f}",
            f"{row['folder']}/network.onnx",
            row["arch"].partition("@")[2],
        ]
        for row in rows
    ]
    return table(headers, shown)


def _plain(value: float, metric: Metric) -> str:
    return f"{value:.2f}" if metric.unit == "%" else f"{value:.4g}"
