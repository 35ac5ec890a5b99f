"""The command `evaluate`: how good a network is on labelled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, emit
from onceforall.cli.nets import Net, NoRecord, Weights, file_facts, labelled, numbers
from onceforall.cli.networks import Batch, On, Resolution, resolved
from onceforall.errors import InputError, choices
from onceforall.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from onceforall.cli.nets import Scored
    from onceforall.data import Images, Normalisation
    from onceforall.export import Opened
    from onceforall.interop import Resolved
    from onceforall.pipeline import Home
    from onceforall.supernet import Metric, Score
    from onceforall.training import Group


def evaluate(
    net: Net,
    data: Annotated[
        str,
        typer.Option(
            metavar="D",
            help="fashion-mnist, digits, cifar10, or a folder: of class folders (all its images are"
            " used), or with train and val or test folders. The images of the network's own run are"
            " split as the run has them.",
            show_default=False,
            autocompletion=completing.data,
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
    no_record: NoRecord = False,
    as_json: Json = False,
) -> None:
    """Measures the accuracy of a network, or another task's metric. NET may be an exported file,
    which is run by the runtime of its format. Under torchrun the processes share the images.

    Of a network with --weights RUN, or delivered into a run's folder, the result is added to the
    run's measured.jsonl, where `specialize` finds it again if all that it is of agrees.

    Example: onceforall evaluate network.safetensors --data fashion-mnist
    """
    from onceforall import supernet
    from onceforall.export import is_exported
    from onceforall.pipeline import home_of
    from onceforall.training import ranks

    if calibrate_data is not None and not calibrate:
        raise InputError(
            f"--calibrate-data: {calibrate_data} needs --calibrate, a number of images"
        )
    if estimator not in supernet.ESTIMATORS:
        raise InputError(f"--estimator: {estimator!r}; there are {choices(supernet.ESTIMATORS)}")
    group = ranks.join()
    place = group.device if group.size > 1 and on is None else supernet.torch_device(on)
    file = is_exported(net)
    if file and (weights is not None or calibrate or on == "cuda"):
        raise InputError(
            f"{net}: a file is run as it is, by its runtime; leave out --weights,"
            " --calibrate and --on"
        )
    judged = _exported(net, resolution) if file else _network(net, resolution, weights)
    metric = supernet.tasks.get(task or judged.task).metric
    module = judged.module if file else judged.module.to(place)
    size, channels = judged.resolution, judged.channels
    normalisation = _normalisation(mean, std, judged.data)
    home = home_of(judged.named) if group.first else None
    own = None if home is None else home.source(data)
    scored = labelled(
        data,
        split,
        channels,
        normalisation,
        workers,
        calibrate,
        calibrate_data,
        max_unreadable,
        group.gather(own)[0],  # the first process looks for the run, all split as it does
    )
    images, classes = scored.images, scored.classes
    if len(classes) != judged.classes:
        raise InputError(f"--data: {data} has {len(classes)} classes, the network {judged.classes}")
    if group.first:
        _warn(net, judged, calibrate, classes, data)
    if calibrate and scored.unlabelled is not None:
        batches = supernet.unlabelled_batches(scored.unlabelled, size, calibrate, module)
        supernet.calibrate(module, batches, estimator)
    found = _shared(group, module, size, images, metric, limit, batch)
    unreadable = _unreadable(group, images, found.images, max_unreadable)
    ranks.leave()
    if not group.first:
        return
    kept = None
    if home is not None and not no_record and found.images:
        asked = len(images) if limit is None else min(limit, len(images))
        of = {"supernet": home.supernet, **scored.facts, "images": asked, "scored": found.images}
        if not file:
            calibration = _calibration(scored, home, calibrate, estimator, calibrate_data or data)
            of["calibration"] = calibration
        of |= judged.file
        kept = home.keep_score(found, of)
    emit(
        {
            **found.values,
            **_normalised(images),
            "n": found.n,
            "resolution": size,
            f"{metric.name}_stderr": found.stderr,
            "calibrated_on": calibrate,
            "unreadable": unreadable,
            "kept": None if kept is None else str(kept),
        },
        as_json,
        _spoken(found)
        + f"  on {found.images} images of {size} px"
        + ("" if found.stderr is None else f" (standard error {found.stderr:.2f})")
        + "".join(f"; {k} {choices(v)}" for k, v in _normalised(images).items())
        + (f"; {len(unreadable)} unreadable images left out" if unreadable else "")
        + ("" if kept is None else f"\nkept in {kept}"),
    )


def _warn(net: str, judged: _Judged, calibrate: int, classes: Sequence[str], data: str) -> None:
    """Says what would make the score that of something else than is meant."""
    from onceforall import interop
    from onceforall.export import Opened
    from onceforall.supernet.scoring import CALIBRATION_IMAGES

    named = judged.named
    source = None if isinstance(named, Opened) else named.weights
    if not calibrate and source is not None and interop.kind_of(source) == "supernet":
        say(
            f"{net}: is taken out of a supernet, and its batch norms may have no statistics of its"
            f" own, without which scores are low: --calibrate {CALIBRATION_IMAGES} measures them"
        )
    own = [str(name) for name in judged.data.get("classes", ())]
    if own and classes and own != list(classes):
        i = next(i for i, (a, b) in enumerate(zip(own, classes, strict=True)) if a != b)
        say(
            f"--data: {data}: class {i} is {classes[i]!r}, of the network {own[i]!r}; classes are"
            " taken to be the same in their order"
        )


class _Judged(NamedTuple):
    """A network to be evaluated."""

    module: nn.Module
    resolution: int
    channels: int
    classes: int
    task: str
    data: dict[str, Any]  # mean and std, where they are known
    named: Resolved | Opened  # all that is known of it
    file: dict[str, Any]  # of an exported one, as records name it


def _network(net: str, resolution: int | None, weights: Path | None) -> _Judged:
    found = resolved(net, resolution, weights)
    family = found.family
    return _Judged(
        found.module(),
        found.arch.resolution,
        family.in_channels,
        family.classes,
        task_of(found.facts),
        found.data,
        found,
        {},
    )


def _exported(net: str, resolution: int | None) -> _Judged:
    from onceforall.export import Opened

    file = Opened(Path(net))
    if resolution not in (None, file.resolution):
        raise InputError(
            f"--resolution: {net} is for images of {file.resolution} px, not {resolution}"
        )
    return _Judged(
        file,
        file.resolution,
        file.channels,
        len(file.classes),
        task_of(file.facts),
        file.facts,
        file,
        file_facts(file),
    )


def _calibration(
    scored: Scored, home: Home, images: int, estimator: str, named: str
) -> Mapping[str, Any] | None:
    """What batch norms were measured on, as records name it; None: nothing that is known."""
    from onceforall.pipeline.recording import calibration_facts

    if not images:
        return home.calibration
    if scored.data is not None and scored.unlabelled is scored.data.train:
        return calibration_facts(scored.data, images, estimator)
    return {"images": images, "data": named, "estimator": estimator}


def task_of(facts: Mapping[str, Any]) -> str:
    """The task that a checkpoint of ours names; the usual one of other files."""
    from onceforall.supernet import tasks

    training = facts.get("training") or {}  # of a supernet
    return str(facts.get("task") or training.get("task") or tasks.USUAL)


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


def _shared(
    group: Group,
    module: nn.Module,
    size: int,
    images: Images,
    metric: Metric,
    limit: int | None,
    batch: int,
) -> Score:
    """The score on all images, of which each process takes a stretch."""
    import torch

    from onceforall.supernet import Score, score

    n = len(images) if limit is None else min(limit, len(images))
    each = -(-n // group.size)
    start = min(group.rank * each, n)
    mine = score(
        module,
        size,
        images,
        metric,
        limit=min(each, n - start),
        batch=batch,
        progress="evaluating" if group.first else None,
        start=start,
    )
    total = Score.of(metric, None, 0)
    sums = None if mine.sums is None else mine.sums.tolist()
    for part, count in group.gather((sums, mine.images)):
        found = None if part is None else torch.tensor(part, dtype=torch.float64)
        total = total + Score.of(metric, found, count)
    return total


def _unreadable(group: Group, images: Images, scored: int, share: float) -> list[str]:
    """The images that were left out, beside those that were scored.

    Raises:
        InputError: they are more than this share of both, or all.
    """
    names = [name for part in group.gather([str(p) for p in images.unreadable]) for name in part]
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
