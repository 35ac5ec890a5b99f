"""Commands from a supernet to files for devices: `specialize`, `demo`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.common import Json, emit, table
from onceforall.cli.nets import numbers
from onceforall.cli.networks import Batch, On, Threads
from onceforall.cli.records import MOST
from onceforall.cli.units import quantity
from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from onceforall.devices import Target
    from onceforall.pipeline import Limits, Run
    from onceforall.supernet import Metric


def specialize(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|S",
            help="The folder of a training run; or a family, with --weights and --data.",
            show_default=False,
        ),
    ],
    max_latency: Annotated[
        list[str] | None,
        typer.Option(help="A budget such as 8ms; give it more than once for several networks."),
    ] = None,
    max_macs: Annotated[str | None, typer.Option(help="Such as 300M.", show_default=False)] = None,
    max_params: Annotated[str | None, typer.Option(help="Such as 5M.", show_default=False)] = None,
    max_activations: Annotated[
        str | None, typer.Option(help="At their peak, such as 256KiB.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="W",
            help="Of a supernet that was trained elsewhere, in any format.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="One of `onceforall devices`, or a YAML file that describes one; more than once"
            " for several. onnxruntime-cpu where left out.",
            show_default=False,
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
    data: Annotated[
        str | None,
        typer.Option(
            help="Another data set than the run's; with --weights, to calibrate and score on.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="With --weights: how pixels are normalised; else ImageNet's.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
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
    those that are there must be of the same supernet, this machine and its runtime. The file that
    is delivered is the one that was timed and scored on the test set.

    Example: onceforall specialize runs/mine --max-latency 0.05ms --max-latency 0.08ms
    """
    from onceforall.pipeline import gather_evidence, refuse_impossible
    from onceforall.pipeline import specialize as make

    targets = _targets(device or ["onnxruntime-cpu"], precisions, threads, batch)
    wanted = list(_limits(max_latency or [], max_macs, max_params, max_activations))
    opened = _opened(run, weights, data, out, (mean, std))
    base = out or opened.folder / "specialized"
    alone = out is not None and weights is None and len(targets) == 1
    folders = {target: base if alone else base / str(target) for target in targets}
    for folder in folders.values():
        for limits in wanted:
            if (folder / str(limits)).exists():
                raise InputError(f"{folder / str(limits)}: exists already; name another --out")
    for limits in wanted:
        refuse_impossible(opened.supernet.family, limits)
    found = opened.data()
    rows: list[dict[str, Any]] = []
    for target, folder in folders.items():
        evidence = gather_evidence(
            opened,
            found,
            target,
            score_samples=samples,
            latency_samples=samples,
            images=images,
            risk=risk,
            seed=seed,
            on=on,
        )
        rows += [
            make(evidence, limits, folder / str(limits), seed=seed).to_dict() for limits in wanted
        ]
    _pick(rows, opened.task.metric)
    text = _by_device(rows, opened.task.metric)
    emit({"networks": rows, "device": choices(str(t) for t in targets)}, as_json, text)


def _targets(devices: list[str], precisions: str, threads: int, batch: int) -> list[Target]:
    """Every device in every precision that it has of those asked for.

    Raises:
        InputError: a device that has none of them, or that cannot be used here.
    """
    from onceforall.devices import Target, device_named

    asked = [part.strip() for part in precisions.split(",")]
    targets = []
    for name in dict.fromkeys(devices):
        known = device_named(name)
        having = [p for p in dict.fromkeys(asked) if p in known.precisions]
        if not having:
            raise InputError(
                f"--precisions: {known.name} has {choices(known.precisions)}, not {precisions!r}"
            )
        missing = known.missing()
        if missing:
            raise InputError(f"--device: {known.name} cannot be used here: {missing}")
        targets += [Target(name, threads, batch, precision) for precision in having]
    return targets


def _opened(
    run: str,
    weights: Path | None,
    data: str | None,
    out: Path | None,
    pixels: tuple[str | None, str | None],
) -> Run:
    """A training run, or the supernet of a family with weights of anybody's."""
    from onceforall.data import Source
    from onceforall.interop import zoo
    from onceforall.pipeline import open_run, run_of
    from onceforall.supernet import SuperNet

    if weights is None:
        if pixels != (None, None):
            raise InputError("--mean and --std go with --weights; a run knows its own")
        return open_run(Path(run), data)
    if data is None or out is None:
        raise InputError("--weights needs --data, images to calibrate and score on, and --out")
    supernet = zoo.load(run, weights)
    if not isinstance(supernet, SuperNet):
        raise InputError(f"{run}: is one network, not a supernet; name a family")
    mean, std = numbers("--mean", pixels[0]), numbers("--std", pixels[1])
    if (mean is None) != (std is None):
        raise InputError("--mean and --std go together")
    source = Source(data, channels=supernet.family.in_channels, mean=mean, std=std)
    return run_of(supernet, data, out, source)


def _pick(rows: list[dict[str, Any]], metric: Metric) -> None:
    """Marks, of one budget on one device in several precisions, the network that was measured to be
    the best: on validation images, the test is for none to choose by."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        device = row["device"].removesuffix(f"-{row['runs_in']}")
        groups.setdefault((device, row["name"]), []).append(row)
    for group in groups.values():
        best = max(group, key=lambda row: row[f"{metric.name}_validation"])
        for row in group:
            row["picked"] = row is best


def _by_device(rows: list[dict[str, Any]], metric: Metric) -> str:
    """A table a device."""
    names = list(dict.fromkeys(row["device"] for row in rows))
    parts = []
    for name in names:
        own = [row for row in rows if row["device"] == name]
        parts.append((f"{name}\n" if len(names) > 1 else "") + network_table(own, metric))
    beaten = [f"{r['folder']}/{r['file']}" for r in rows if not r["picked"]]
    if beaten:
        parts.append("better in another precision: " + choices(beaten))
    return "\n\n".join(parts)


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
    text.append(f"to look at, in a browser: {result['report']}")
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
            f"{row['folder']}/{row['file']}",
            row["arch"].partition("@")[2],
        ]
        for row in rows
    ]
    return table(headers, shown)


def _plain(value: float, metric: Metric) -> str:
    return f"{value:.2f}" if metric.unit == "%" else f"{value:.4g}"
