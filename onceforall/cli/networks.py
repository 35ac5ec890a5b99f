"""Commands about one network: `info`, `evaluate`, `measure`, `export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.common import Json, emit, table
from onceforall.cli.nets import (
    Net,
    Weights,
    as_weighted,
    describe,
    facts_of,
    labelled,
    numbers,
    weighted,
)
from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from onceforall.data import Images, Normalisation
    from onceforall.interop import StaticNetwork
    from onceforall.supernet import Score

Resolution = Annotated[
    int | None,
    typer.Option(min=1, help="In place of the network's own, pixels.", show_default=False),
]
Threads = Annotated[int, typer.Option(min=1, help="Of the device's runtime.")]
Device = Annotated[
    str, typer.Option(help="onnxruntime-cpu, torch-cpu, torch-cuda, or one of a plug-in.")
]
Batch = Annotated[int, typer.Option(min=1, help="Images a run.")]
On = Annotated[
    str | None,
    typer.Option(
        help="What networks are calibrated and scored on: cuda or cpu; the GPU where there is one,"
        " if left out.",
        show_default=False,
    ),
]
Precision = Annotated[str, typer.Option(help="fp32, and on torch devices bf16 or fp16.")]


def _described(net: str, resolution: int | None, weights: Path | None = None) -> StaticNetwork:
    """The network a person named, at a resolution that it can be counted and run at; of the classes
    and channels that a checkpoint of its weights is of."""
    from onceforall.costs import check_resolution

    network = as_weighted(describe(net, resolution), weights)
    check_resolution(network.family, network.arch)
    return network


def info(
    net: Net,
    macs: Annotated[
        str, typer.Option(help="How to count: 'ours' (multiply-adds) or 'mmrazor' (its FLOPs).")
    ] = "ours",
    resolution: Resolution = None,
    as_json: Json = False,
) -> None:
    """Shows an arch, its layers and what it costs.

    Example: onceforall info ofa_mbv3_w1.0:largest
    """
    from onceforall import costs

    if macs not in ("ours", "mmrazor"):
        raise InputError(f"--macs: {macs!r} is not 'ours' or 'mmrazor'")
    network = _described(net, resolution)
    size = network.arch.resolution
    cost = costs.arch_cost(network.family, network.arch)
    counted = cost.flops if macs == "mmrazor" else cost.macs
    data: dict[str, Any] = {
        "arch": str(network.arch),
        "family": network.arch.family,
        "resolution": size,
        "params": cost.params,
        "macs": counted,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "uncovered": list(cost.uncovered),
        "classes": cost.output_shape[0],
    }
    layers = _by_layer(cost.rows)
    rows = [[r["name"], r["output"], f"{r['macs']:,}", f"{r['params']:,}"] for r in layers]
    least = "at least " if cost.uncovered else ""
    shown = f"{least}{counted / 1e6:.2f}M at {size} px"
    theirs = f"FLOPs       {shown} (MMRazor's convention)"
    text = [
        table(["layer", "output", "MACs", "params"], rows),
        "",
        f"arch        {network.arch}",
        f"params      {cost.params / 1e6:.2f}M",
        theirs if macs == "mmrazor" else f"MACs        {shown}",
        f"activations {least}{cost.peak_activation_bytes / 2**20:.2f} MiB at their peak",
    ]
    if cost.uncovered:
        text.append(f"not covered {choices(cost.uncovered)}: no rule says what these cost")
    emit({**data, "layers": layers}, as_json, "\n".join(text))


def _by_layer(rows: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Sums over the parts of each layer of a network: of each top module, and of each one in a
    numbered list of them."""
    layers: dict[str, dict[str, Any]] = {}
    for row in rows:
        first, *inner = row.name.split(".")
        name = f"{first}.{inner[0]}" if inner and inner[0].isdigit() else first
        between = name not in layers and not inner and row.name.startswith(row.kind)
        if layers and between:  # an operation between layers belongs to the one before
            name = next(reversed(layers))
        new = name not in layers
        entry = layers.setdefault(name, {"name": name, "macs": 0, "params": 0})
        if new or not (between or row.kind == "Parameter"):
            entry["output"] = "x".join(str(n) for n in row.output_shape)
        entry["macs"] += row.macs
        entry["params"] += row.params
    return list(layers.values())


def evaluate(
    net: Net,
    data: Annotated[
        str,
        typer.Option(
            metavar="D",
            help="fashion-mnist, digits, cifar10, or a folder: of class folders (all its images are"
            " used), or with train and val or test folders.",
            show_default=False,
        ),
    ],
    weights: Weights = None,
    split: Annotated[
        str, typer.Option(help="test, validation or train, where the data has splits.")
    ] = "test",
    resolution: Resolution = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Per channel, of pixels 0 to 1; else the checkpoint's, or ImageNet's."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    calibrate: Annotated[
        int,
        typer.Option(min=0, help="Images to measure batch-norm statistics on first; 0: do not."),
    ] = 0,
    calibrate_data: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Where these images come from: a data set or a folder, labelled or not. Else from"
            " the training images; where D has none, they are drawn from D and not scored.",
            show_default=False,
        ),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="Of these statistics: pooled, or batch-mean as the authors'.")
    ] = "pooled",
    batch: Batch = 100,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read image files.")] = 2,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many images.", show_default=False)
    ] = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images that may be unreadable.")
    ] = 0.01,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, or my_task.py:NAME in a file of yours; else the checkpoint's.",
            show_default=False,
        ),
    ] = None,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Measures the accuracy of a network, or another task's metric.

    Example: onceforall evaluate network.safetensors --data fashion-mnist
    """
    from onceforall import supernet

    if calibrate_data is not None and not calibrate:
        raise InputError(
            f"--calibrate-data: {calibrate_data} needs --calibrate, a number of images"
        )
    if estimator not in supernet.ESTIMATORS:
        raise InputError(f"--estimator: {estimator!r}; there are {choices(supernet.ESTIMATORS)}")
    place = supernet.torch_device(on)
    network = _described(net, resolution, weights)
    metric = supernet.tasks.get(task or _task_of(net, weights)).metric
    module = weighted(net, network, weights).to(place)
    size = network.arch.resolution
    normalisation = _normalisation(mean, std, facts_of(net, weights))
    channels = network.family.in_channels
    images, unlabelled, classes = labelled(
        data, split, channels, normalisation, workers, calibrate, calibrate_data, max_unreadable
    )
    if len(classes) != network.family.classes:
        raise InputError(
            f"--data: {data} has {len(classes)} classes, the network {network.family.classes}"
        )
    if calibrate and unlabelled is not None:
        batches = supernet.unlabelled_batches(unlabelled, size, calibrate, module)
        supernet.calibrate(module, batches, estimator)
    found = supernet.score(
        module, size, images, metric, limit=limit, batch=batch, progress="evaluating"
    )
    unreadable = _unreadable(images, found.images, max_unreadable)
    emit(
        {
            **found.values,
            **_normalised(images),
            "n": found.n,
            "resolution": size,
            f"{metric.name}_stderr": found.stderr,
            "calibrated_on": calibrate,
            "unreadable": unreadable,
        },
        as_json,
        _spoken(found)
        + f"  on {found.images} images of {size} px"
        + ("" if found.stderr is None else f" (standard error {found.stderr:.2f})")
        + "".join(f"; {k} {choices(v)}" for k, v in _normalised(images).items())
        + (f"; {len(unreadable)} unreadable images left out" if unreadable else ""),
    )


def _task_of(net: str, weights: Path | None) -> str:
    """The task that a checkpoint of ours names; the usual one of other files."""
    from onceforall.interop.networks import is_checkpoint
    from onceforall.supernet import checkpoint, tasks

    for path in (Path(net), weights):
        if path is not None and path.is_file() and is_checkpoint(path):
            facts = checkpoint.describe(path)
            training = facts.get("training") or {}  # of a supernet
            return str(facts.get("task") or training.get("task") or tasks.USUAL)
    return tasks.USUAL


def _spoken(score: Score) -> str:
    """A score for people: "top-1 73.20%  top5 91.10%"."""
    metric = score.metric
    others = (f"  {k} {metric.text(v)}" for k, v in score.values.items() if k != metric.name)
    return f"{metric.label} {metric.text(score.value)}" + "".join(others)


def _normalisation(
    mean: str | None, std: str | None, facts: dict[str, Any]
) -> Normalisation | None:
    from onceforall.data import Normalisation

    given = numbers("--mean", mean), numbers("--std", std)
    if (given[0] is None) != (given[1] is None):
        raise InputError("--mean and --std go together")
    if given[0] and given[1]:
        return Normalisation(given[0], given[1])
    if "mean" in facts and "std" in facts:
        return Normalisation(tuple(facts["mean"]), tuple(facts["std"]))
    return None


def _normalised(images: Images) -> dict[str, list[float]]:
    """How pixels were normalised, where files are read: a mistake there costs half the hits."""
    from onceforall.data import FileImages

    if not isinstance(images, FileImages):
        return {}
    return {"mean": list(images.normalisation.mean), "std": list(images.normalisation.std)}


def _unreadable(images: Images, scored: int, share: float) -> list[str]:
    """The images that were left out, beside those that were scored.

    Raises:
        InputError: they are more than this share of both, or all.
    """
    names = [str(path) for path in images.unreadable]
    asked = scored + len(names)
    shown = choices(names[:3]) + (", ..." if len(names) > 3 else "")
    if names and not scored:
        raise InputError(f"--data: none of {asked} images can be read ({shown})")
    if len(names) > share * asked:
        least = math.ceil(1000 * len(names) / asked) / 1000
        raise InputError(
            f"--data: {len(names)} of {asked} images cannot be read ({shown});"
            f" --max-unreadable {least:g} would leave them out"
        )
    return names


def measure(
    net: Net,
    device: Device = "onnxruntime-cpu",
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Precision = "fp32",
    resolution: Resolution = None,
    rounds: Annotated[int, typer.Option(min=1, help="Stretches of runs.")] = 21,
    as_json: Json = False,
) -> None:
    """Times a network on a device, with fresh weights: they make no difference.

    Example: onceforall measure ofa_mbv3_w1.0:smallest --device onnxruntime-cpu --threads 1
    """
    from onceforall import devices

    network = _described(net, resolution)
    size = network.arch.resolution
    target = devices.Target(device, threads, batch, precision)
    module = network.family.build(network.arch).eval()
    found = devices.measure(target, module, (network.family.in_channels, size, size), rounds)
    emit(
        {
            "median_ms": found.median_ms,
            "p10_ms": found.p10_ms,
            "p90_ms": found.p90_ms,
            "runs": found.runs,
            "device": str(target),
            "arch": str(network.arch),
            **devices.provenance(target),
        },
        as_json,
        f"{found.median_ms:.4g} ms median (10% {found.p10_ms:.4g}, 90% {found.p90_ms:.4g};"
        f" {found.runs} runs) on {target}",
    )


def export(
    net: Net,
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    weights: Weights = None,
    format: Annotated[str, typer.Option(help="onnx or pt2.")] = "onnx",
    resolution: Resolution = None,
    as_json: Json = False,
) -> None:
    """Writes a network as a file for other runtimes, and checks that file against PyTorch.

    Example: onceforall export network.safetensors network.onnx
    """
    from onceforall import export as exporting
    from onceforall.files import refuse_existing

    if format not in exporting.FORMATS:
        raise InputError(f"--format: {format!r}; there are {choices(exporting.FORMATS)}")
    refuse_existing(out)
    network = _described(net, resolution, weights)
    module = weighted(net, network, weights)
    size = network.arch.resolution
    shape = (network.family.in_channels, size, size)
    facts = {"arch": str(network.arch), "resolution": size, **facts_of(net, weights)}
    done = exporting.export(module, shape, out, format, facts)
    emit(
        {
            "path": str(done.path),
            "format": done.format,
            "bytes": done.bytes,
            "max_abs_diff": done.max_abs_diff,
        },
        as_json,
        f"{done.path}: {done.bytes:,} bytes, differs from PyTorch by {done.max_abs_diff:.2g}",
    )
