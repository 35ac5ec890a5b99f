"""Commands about one network: `info`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, emit
from onceforall.cli.nets import Net, Weights, calibration_images
from onceforall.columns import table
from onceforall.errors import InputError, choices
from onceforall.progress import say

if TYPE_CHECKING:
    from onceforall.interop import Resolved

Resolution = Annotated[
    int | None,
    typer.Option(min=1, help="In place of the network's own, pixels.", show_default=False),
]
Threads = Annotated[int, typer.Option(min=1, help="Of the device's runtime.")]
Device = Annotated[
    str,
    typer.Option(
        help="One of `onceforall devices`, or a YAML file that describes one.",
        autocompletion=completing.devices,
    ),
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
Precision = Annotated[
    str,
    typer.Option(
        help="fp32, int8, bf16 or fp16: those that the device has.",
        autocompletion=completing.precision,
    ),
]


CALIBRATED = 100  # images at a time, or a few more


def resolved(net: str, resolution: int | None, weights: Path | None = None) -> Resolved:
    """The network a person named, at a resolution that it can be counted and run at."""
    from onceforall.costs import check_resolution
    from onceforall.interop import resolve

    network = resolve(net, weights, resolution)
    check_resolution(network.family, network.arch)
    return network


def info(
    net: Net,
    macs: Annotated[
        str, typer.Option(help="How to count: 'ours' (multiply-adds) or 'mmrazor' (its FLOPs).")
    ] = "ours",
    resolution: Resolution = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Shows instead what each layer takes there; NET may be an exported file.",
            show_default=False,
            autocompletion=completing.devices,
        ),
    ] = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Shows an arch, its layers and what it costs.

    Example: onceforall info ofa_mbv3_w1.0:largest
    """
    from onceforall import costs
    from onceforall.cli import profiling

    if profile is not None:
        found = profiling.profiled(net, profile, threads, resolution)
        emit(found, as_json, profiling.shown(found))
        return

    if macs not in ("ours", "mmrazor"):
        raise InputError(f"--macs: {macs!r} is not 'ours' or 'mmrazor'")
    network = resolved(net, resolution)
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
        "in_channels": network.family.in_channels,
        "assumed": ["classes", "in_channels"] if network.assumed else [],
    }
    layers = costs.by_layer(cost.rows)
    rows = [[r["name"], r["output"], f"{r['macs']:,}", f"{r['params']:,}"] for r in layers]
    least = "at least " if cost.uncovered else ""
    shown = f"{least}{counted / 1e6:.2f}M at {size} px"
    theirs = f"FLOPs       {shown} (MMRazor's convention)"
    text = [
        table(["layer", "output", "MACs", "params"], rows),
        "",
        f"arch        {network.arch}",
        f"classes     {data['classes']}, of images with {data['in_channels']} channels"
        + (" (the family's own: nothing here names others)" if network.assumed else ""),
        f"params      {cost.params / 1e6:.2f}M",
        theirs if macs == "mmrazor" else f"MACs        {shown}",
        f"activations {least}{cost.peak_activation_bytes / 2**20:.2f} MiB at their peak",
    ]
    if cost.uncovered:
        text.append(f"not covered {choices(cost.uncovered)}: no rule says what these cost")
    emit({**data, "layers": layers}, as_json, "\n".join(text))


def export(
    net: Net,
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    weights: Weights = None,
    format: Annotated[
        str,
        typer.Option(
            help="onnx, openvino, executorch, ncnn, litert or pt2.",
            autocompletion=completing.formats,
        ),
    ] = "onnx",
    resolution: Resolution = None,
    precision: Annotated[
        str,
        typer.Option(help="fp32 or int8; of ncnn fp16, too.", autocompletion=completing.precision),
    ] = "fp32",
    calibrate_data: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Training images, a data set or a folder, labelled or not: for int8, and for the"
            " batch norms of a network that is taken out of a supernet.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[int, typer.Option(min=2, help="How many of them.")] = 300,
    as_json: Json = False,
) -> None:
    """Writes a network as a file for other runtimes, and checks that file against PyTorch.

    Example: onceforall export network.safetensors network.onnx
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    from onceforall import export as exporting
    from onceforall import interop, supernet
    from onceforall.files import refuse_existing

    exporting.format_named(format).check_precision(precision)
    refuse_existing(out)
    network = resolved(net, resolution, weights)
    module = network.module()
    size = network.arch.resolution
    shape = (network.family.in_channels, size, size)
    facts = {"arch": str(network.arch), "resolution": size, **network.data}
    images = None
    if calibrate_data is not None:
        images = calibration_images(calibrate_data, network, calibrate)
    elif precision == "int8":
        raise InputError("--calibrate-data: int8 needs training images; name a folder of them")
    if network.weights is not None and interop.kind_of(network.weights) == "supernet":
        if images is not None:
            supernet.calibrate(module, images.chunk(max(1, len(images) // CALIBRATED)))
        elif any(isinstance(part, _BatchNorm) for part in module.modules()):
            say(
                f"{out}: its batch norms have no statistics of its own, so that it can be timed"
                " but not used: --calibrate-data D measures them"
            )
    done = exporting.export(
        module, shape, out, format, facts, precision=precision, calibration=images, images=images
    )
    alike = "" if done.agreement is None else f", names {100 * done.agreement:.1f}% of images alike"
    emit(
        {
            "path": str(done.path),
            "format": done.format,
            "precision": done.precision,
            "bytes": done.bytes,
            "digest": done.digest,
            "max_abs_diff": done.max_abs_diff,
            "agreement": done.agreement,
        },
        as_json,
        f"{done.path}: {done.bytes:,} bytes, differs from PyTorch by {done.max_abs_diff:.2g}"
        + alike,
    )
