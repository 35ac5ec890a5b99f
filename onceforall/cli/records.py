"""Commands that collect records: `records accuracy`, `records latency`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.common import Json, emit
from onceforall.cli.networks import Batch, Device, Precision, Threads
from onceforall.errors import InputError

records = typer.Typer(
    name="records",
    help="Collects records: accuracies of a supernet's archs, latencies on a device.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")]
Samples = Annotated[int, typer.Option(min=2, help="Archs to have records of.")]
Seed = Annotated[int, typer.Option(help="Of the choice of archs.")]


@records.command()
def accuracy(
    run: RunFolder,
    samples: Samples = 100,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Validation images an arch is scored on; all where left out."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Another data set than the run's.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file; RUN/accuracy.jsonl where left out.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Extracts, calibrates and evaluates archs of a supernet on validation images.

    A file that has some of the records is gone on with.

    Example: onceforall records accuracy runs/mine --samples 200
    """
    from onceforall import collecting
    from onceforall.records import read_jsonl
    from onceforall.runs import open_run

    opened = open_run(run, data)
    path = out or run / "accuracy.jsonl"
    added = collecting.accuracies(opened.supernet, opened.data(), samples, path, images, seed)
    emit({"path": str(path), "n": len(read_jsonl(path)), "added": added}, as_json)


@records.command()
def latency(
    family: Annotated[
        str, typer.Argument(metavar="FAMILY", help="A family's name, or the folder of a run.")
    ],
    device: Device = "onnxruntime-cpu",
    samples: Samples = 100,
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Precision = "fp32",
    resolutions: Annotated[
        str | None, typer.Option(help="In place of the family's own, such as 160,192,224.")
    ] = None,
    blocks: Annotated[
        bool,
        typer.Option(
            "--blocks", help="Time each distinct layer by itself and write a look-up table."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file; latency-DEVICE.jsonl or .json where left out.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Times archs of a family on a device.

    Example: onceforall records latency ofa_mbv3_w1.0 --device onnxruntime-cpu --samples 100
    """
    from onceforall import collecting, devices, families
    from onceforall.files import refuse_existing
    from onceforall.records import read_jsonl
    from onceforall.runs import open_run

    target = devices.Target(device, threads, batch, precision)
    folder = Path(family)
    if folder.is_dir():
        found = open_run(folder).supernet.family
    else:
        chosen = {"resolutions": _whole(resolutions)} if resolutions else {}
        folder, found = Path(), families.get(family, **chosen)
    path = out or folder / f"latency-{target}.json{'' if blocks else 'l'}"
    if blocks:
        refuse_existing(path)
        table = collecting.block_latencies(found, target)
        table.save(path)
        emit({"path": str(path), "n": int(table.cells.size), "device": str(target)}, as_json)
        return
    added = collecting.latencies(found, target, samples, path, seed)
    n = len(read_jsonl(path))
    emit({"path": str(path), "n": n, "added": added, "device": str(target)}, as_json)


def _whole(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--resolutions: {text!r} is not a list of pixels") from None
