"""Commands about devices: `devices` says what can be used here, `measure` times a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli.common import Json, emit
from onceforall.cli.nets import Net, NoRecord, Weights, file_facts
from onceforall.cli.networks import Batch, Device, Precision, Resolution, Threads, resolved
from onceforall.columns import Column, table
from onceforall.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from onceforall.export import Opened
    from onceforall.interop import Resolved


def devices(
    ready: Annotated[bool, typer.Option("--ready", help="Only those that can be used here.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Lists the devices: what each opens, in which precisions, and how to install the rest.

    A phone or a board behind a command is described by a YAML file, and used as --device FILE
    (docs/devices.md).

    Example: onceforall devices
    """
    import os

    from onceforall.devices import devices as known

    rows: list[dict[str, Any]] = []
    for device in known().values():
        missing = device.missing()
        if ready and missing:
            continue
        rows.append(
            {
                "name": device.name,
                "formats": list(device.formats),
                "precisions": list(device.precisions),
                "runtime": "" if missing else device.runtime(),
                "estimated": device.estimated,
                "profiles": device.profiles,
                "usable": not missing,
                "missing": missing,
            }
        )
    shown = table(
        [
            "device",
            Column("opens", drop=2, left=True),
            Column("precisions", left=True),
            Column("runtime", drop=1, left=True),
        ],
        [
            [
                row["name"] + (" (estimates)" if row["estimated"] else ""),
                ", ".join(row["formats"]),
                ", ".join(row["precisions"]),
                row["runtime"].partition("-releases")[0] or "cannot be used yet",
            ]
            for row in rows
        ],
    )
    shown += "".join(f"\n{row['name']}: {row['missing']}" for row in rows if row["missing"])
    cores = os.cpu_count() or 1
    emit(
        {"devices": rows, "threads": cores},
        as_json,
        f"{shown}\n\nthreads: up to {cores} on this machine",
    )


def measure(
    net: Net,
    weights: Weights = None,
    device: Device = "onnxruntime-cpu",
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Precision = "fp32",
    resolution: Resolution = None,
    rounds: Annotated[int, typer.Option(min=1, help="Stretches of runs in a visit.")] = 9,
    visits: Annotated[
        int,
        typer.Option(
            min=1, help="Times that the file is opened anew, a second apart: the noise is of all."
        ),
    ] = 5,
    no_record: NoRecord = False,
    as_json: Json = False,
) -> None:
    """Times a network on a device, with fresh weights: they make no difference. NET may be an
    exported file, which is timed as it is.

    Of a network with --weights RUN, or delivered into a run's folder, the result is added to the
    run's measured.jsonl, where `specialize` finds it again on the same machine and runtime (but
    one of fewer rounds in all than its own 15, or, of a file, of fewer visits than its own 5).

    Example: onceforall measure ofa_mbv3_w1.0:smallest --device onnxruntime-cpu --threads 1
    """
    from onceforall import devices as timing
    from onceforall.export import Opened
    from onceforall.pipeline import home_of
    from onceforall.pipeline.evidence import TIMING_ROUNDS
    from onceforall.pipeline.recording import BUSY, FEW

    target = timing.Target(device, threads, batch, precision)
    refuse_missing(target)
    network, shape, about, named = to_time(net, resolution, weights)
    found = timing.measure(target, network, shape, rounds, visits=visits)
    told = dict(found.facts)
    noise = "" if found.noise is None else f"; within {100 * found.noise:.1f}%"
    extras = "".join(f"\n{key}  {value}" for key, value in told.items())
    busy = timing.disturbed(target)
    kept, home = None, None if no_record else home_of(named)
    if home is not None:
        file = file_facts(named) if isinstance(named, Opened) else {}
        few = rounds * visits < TIMING_ROUNDS or (bool(file) and visits < timing.VISITS)
        few = few and not target.known.estimated
        more = {**({BUSY: True} if busy else {}), **({FEW: True} if few else {}), **file}
        kept = home.keep_latency(target, found, more)
    emit(
        {
            "median_ms": found.median_ms,
            "p10_ms": found.p10_ms,
            "p90_ms": found.p90_ms,
            "runs": found.runs,
            "noise": found.noise,
            "disturbed": busy,
            "device": str(target),
            **about,
            **told,
            **timing.provenance(target),
            "kept": None if kept is None else str(kept),
        },
        as_json,
        f"{found.median_ms:.4g} ms {'estimated' if target.known.estimated else 'median'}"
        f" (10% {found.p10_ms:.4g}, 90% {found.p90_ms:.4g}; {found.runs} runs{noise}) on {target}"
        + ("; something else kept this machine busy" if busy else "")
        + ("; too noisy to compare networks by" if found.noisy else "")
        + extras
        + ("" if kept is None else f"\nkept in {kept}"),
    )


def refuse_missing(target: Any) -> None:
    """Raises InputError where the device cannot be used here."""
    missing = target.known.missing()
    if missing:
        raise InputError(f"--device: {target.known.name} cannot be used here: {missing}")


def to_time(
    net: str, resolution: int | None, weights: Path | None = None
) -> tuple[nn.Module | Path, tuple[int, int, int], dict[str, Any], Resolved | Opened]:
    """What a person named: an exported file, or a network with fresh weights; the shape of its
    images; what it is, for JSON; and all that is known of it."""
    from onceforall.export import Opened, is_exported

    if is_exported(net):
        if weights is not None:
            raise InputError(f"{net}: a file is timed as it is; leave out --weights")
        opened = Opened(Path(net))
        size = opened.resolution
        if resolution not in (None, size):
            raise InputError(f"--resolution: {net} is for images of {size} px, not {resolution}")
        about = {
            "arch": opened.facts.get("arch"),
            "file": net,
            "bytes": opened.form.bytes(Path(net)),
        }
        return opened.path, (opened.channels, size, size), about, opened
    if weights is not None and not weights.exists():
        raise InputError(f"--weights: {weights}: no such file or run")
    network = resolved(net, resolution, weights)
    refuse_other_weights(network)
    size = network.arch.resolution
    module = network.family.build(network.arch).eval()
    shape = (network.family.in_channels, size, size)
    return module, shape, {"arch": str(network.arch)}, network


def refuse_other_weights(network: Resolved) -> None:
    """Raises InputError where the weights beside a network are no file of weights, or a checkpoint
    of ours that is of another family. Those of other formats are not read: only the shapes of a
    network matter to its time."""
    from onceforall.interop.networks import is_checkpoint
    from onceforall.interop.tensors import is_torch_file
    from onceforall.supernet import checkpoint

    path = network.weights
    if path is None or path.is_dir():
        return
    if not is_checkpoint(path):
        if not is_torch_file(path):
            raise InputError(f"--weights: {path}: holds no weights")
        return
    family = checkpoint.describe(path).get("family")
    if family != network.family.name:
        raise InputError(
            f"--weights: {path}: of {family or 'no family that it names'}, and"
            f" {network.typed} is of {network.family.name}"
        )
