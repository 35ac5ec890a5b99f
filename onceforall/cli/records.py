"""Commands that collect records: `records accuracy`, `records latency`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, command, emit
from onceforall.cli.networks import Batch, Device, On, Precision, Threads
from onceforall.cli.runs import (
    Images,
    Mean,
    Prior,
    RunOrSpace,
    Std,
    SupernetWeights,
    opened,
    supernet_of,
)
from onceforall.errors import InputError, choices
from onceforall.progress import say
from onceforall.units import quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceforall.devices import Target
    from onceforall.families import Family
    from onceforall.space import Population

records = typer.Typer(
    name="records",
    help="Collects records: accuracies of a supernet's archs, latencies on a device.\n\n"
    "Example: onceforall records accuracy runs/mine",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MOST = 100_000  # archs, of which there can be records in one file
Samples = Annotated[int, typer.Option(min=2, max=MOST, help="Archs to have records of.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the choice of archs.")]


@records.command()
def accuracy(
    run: RunOrSpace,
    samples: Annotated[
        int, typer.Option(min=2, max=MOST, help="Archs to have records of, at most.")
    ] = 300,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Do not stop before that, and spread the archs evenly over the space."
        ),
    ] = False,
    near: Annotated[
        str,
        typer.Option(
            metavar="VALUE,...",
            help="Budgets that matter, such as 20ms,30ms or 1M: archs near them are likelier.",
            show_default=False,
        ),
    ] = "",
    by: Annotated[
        str,
        typer.Option(
            metavar="COST|P",
            help="What the budgets are of: macs, params, peak_activation_bytes, or a predictor's"
            " or table's file.",
        ),
    ] = "macs",
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Validation images an arch is scored on; all where left out."),
    ] = None,
    weights: SupernetWeights = None,
    data: Images = None,
    mean: Mean = None,
    std: Std = None,
    prior: Prior = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file; RUN/accuracy.jsonl where left out. With --weights, the folder of the"
            " records, as `specialize` has it."
        ),
    ] = None,
    on: On = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Extracts, calibrates and evaluates archs of a supernet, all on the same validation images.

    The archs are spread over the space; with --near, after the first 50, they are those near the
    budgets that a predictor fitted on the records so far is least sure of. It stops when the
    predictor's error on held-out records stops falling. A file that has some of the records is gone
    on with, where they are of the same supernet, data and images. Under torchrun the processes
    score an arch each; the first writes.

    Example: onceforall records accuracy runs/mine --near 0.5M,1M

    onceforall records accuracy ofa_mbv3_w1.0 --weights FILE --data imagenet --out found

    torchrun --nproc-per-node 4 -m onceforall records accuracy runs/mine
    """
    from onceforall import predictors
    from onceforall.pipeline import collecting
    from onceforall.records import read_jsonl
    from onceforall.supernet import torch_device
    from onceforall.training import ranks

    group = ranks.join()
    place = group.device if group.size > 1 and on is None else torch_device(on)
    its = group.together(lambda: opened(run, weights, data, out, (mean, std)))
    path = its.score_file if out is None or weights is not None else out
    for name, useless in (("near", near), ("prior", prior)):
        if every and useless:
            raise InputError(f"--all: archs are spread evenly over the space; --{name} has no use")
    hint = None if prior is None else predictors.load_prior(prior, its.supernet.space)
    cost, unit = _cost(by, its.supernet.family) if near else (None, None)
    budgets = [quantity("--near", part, unit) for part in near.split(",")] if near else []
    if any(budget <= 0 for budget in budgets):
        raise InputError(f"--near: {near!r}: budgets are above 0")
    found: dict[str, Any] = {"path": str(path)}
    supernet, metric = its.supernet.to(place), its.task.metric
    asked = (supernet, group.together(its.data), samples, path, images, seed, metric)
    if every:
        found["added"] = collecting.collect_scores(*asked, group)
    else:
        done = collecting.collect_until_settled(
            *asked, cost=cost, budgets=budgets, prior=hint, group=group
        )
        found |= {"added": done.added, "errors": done.errors, "settled": done.settled}
    if group.first:
        fit = ["fit", "accuracy", path, "--space", run, "--out", "accuracy.npz"]
        fit += [] if metric.name == "top1" else ["--metric", metric.name]
        fit += [] if prior is None else ["--prior", prior]
        emit(found | {"n": len(read_jsonl(path))}, as_json, then=command(*fit))
    ranks.leave()


def _cost(by: str, family: Family) -> tuple[Callable[[Population], Any], str | None]:
    """What budgets are compared with, a count or a prediction, and its unit; None: not known."""
    from onceforall import predictors
    from onceforall.costs import cost_tables

    if Path(by).is_file():
        predictor = predictors.load(Path(by), family.space)
        return (lambda population: predictor.predict(population).mean), predictor.unit or None
    tables = cost_tables(family)
    if by not in tables:
        raise InputError(f"--by: {by!r} is no file, and no count; there are {choices(tables)}")
    return tables[by], tables[by].unit


@records.command()
def latency(
    family: Annotated[
        str,
        typer.Argument(
            metavar="FAMILY",
            help="A family's name (my_net.py:family in a file of yours), or the folder of a run.",
            autocompletion=completing.families,
        ),
    ],
    weights: SupernetWeights = None,
    device: Device = "onnxruntime-cpu",
    samples: Samples = 100,
    error: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="In place of --samples: percent that a predictor fitted on the records may be off"
            " on records it has not seen, such as 5; measuring ends there, or after --seconds.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="With --error.")] = 180.0,
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
        Path | None,
        typer.Option(
            help="The file; latency-DEVICE.jsonl or .json where left out. With --weights, the"
            " folder of the records, as `specialize` has it."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Times archs of a family on a device.

    A file that has some of the records is gone on with, where those of this device are of the same
    machine and the same version of its runtime.

    Example: onceforall records latency ofa_mbv3_w1.0 --device onnxruntime-cpu --error 5
    """
    from onceforall import devices
    from onceforall.files import refuse_existing
    from onceforall.pipeline import collecting
    from onceforall.records import read_jsonl

    target = devices.Target(device, threads, batch, precision)
    folder, found = _space(family, weights, out, resolutions)
    if out is not None and weights is None:
        path = out
    elif blocks:
        path = folder / f"latency-{target}.json"
    else:
        path = collecting.latency_file(folder, target)
    if blocks:
        refuse_existing(path)
        table = collecting.block_latencies(found, target)
        table.save(path)
        emit({"path": str(path), "n": int(table.cells.size), "device": str(target)}, as_json)
        return
    if error is not None:
        _until_predicted(family, found, target, path, error, seconds, seed, as_json)
        return
    added = collecting.collect_latencies(found, target, samples, path, seed)
    n = len(read_jsonl(path))
    fit = command("fit", "latency", path, "--space", family, "--out", "latency.npz")
    data = {"path": str(path), "n": n, "added": added, "device": str(target)}
    emit(data, as_json, then=fit)


def _until_predicted(
    named: str,
    family: Family,
    target: Target,
    path: Path,
    error: float,
    seconds: float,
    seed: int,
    as_json: bool,
) -> None:
    """`latency --error`. Ends with status 1 where the error was not reached."""
    from onceforall.pipeline.latency_models import collect_until_predicted

    done = collect_until_predicted(family, target, path, error=error, seconds=seconds, seed=seed)
    report = {} if done.report is None else done.report.to_dict()
    found = {"path": str(path), "n": done.records, "added": done.added, "device": str(target)}
    found |= {"reached": done.reached, "seconds": round(done.seconds, 1), "noise": done.noise}
    fit = command("fit", "latency", path, "--space", named, "--out", "latency.npz")
    emit(found | report, as_json, then=fit)
    if not done.reached:
        off = "not known from so few records" if done.report is None else f"{done.report.mape:.1f}%"
        say(
            f"the held-out error is {off}, not {error:g}%, after {done.seconds:.0f} s; one time"
            f" is uncertain by {done.noise:.1f}%. More --seconds, or a quieter machine"
        )
        raise typer.Exit(1)


def _space(
    named: str, weights: Path | None, out: Path | None, resolutions: str | None
) -> tuple[Path, Family]:
    """The folder of the records, and the family: a run's, that of weights of anybody's, or the one
    of that name."""
    from onceforall import families
    from onceforall.pipeline import open_run

    if resolutions and (weights is not None or Path(named).is_dir()):
        raise InputError("--resolutions: a supernet has its own; leave it out")
    if weights is not None:
        if out is None:
            raise InputError("--weights needs --out, the folder of the records")
        return out, supernet_of(named, weights, out).family
    if Path(named).is_dir():
        return Path(named), open_run(Path(named)).supernet.family
    chosen = {"resolutions": _whole(resolutions)} if resolutions else {}
    return Path(), families.get(named, **chosen)


def _whole(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--resolutions: {text!r} is not a list of pixels") from None
