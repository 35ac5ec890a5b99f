"""Options that name a network, and the images to run one on. What network it is, `interop` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from onceforall.cli import completing
from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from torch import Tensor

    from onceforall.data import Data, Files, Images, Normalisation, Source
    from onceforall.export import Opened
    from onceforall.families import Family
    from onceforall.interop import Resolved

Net = Annotated[
    str,
    typer.Argument(
        metavar="NET",
        help="FAMILY:largest, FAMILY:smallest, FAMILY:random:SEED (FAMILY may be my_net.py:family),"
        " an arch as text, a file (an arch of ours, net.config, MMRazor YAML, a checkpoint of an"
        " extracted network), or an id of `onceforall zoo`.",
        show_default=False,
        autocompletion=completing.networks,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="W",
        help="Weights in any format, or a run's folder; of a checkpoint of a network, its own.",
        show_default=False,
    ),
]
NoRecord = Annotated[
    bool, typer.Option("--no-record", help="Do not add the result to the records of NET's run.")
]


def file_facts(file: Opened) -> dict[str, Any]:
    """What records name of an exported file that was scored or timed."""
    from onceforall.pipeline.recording import FILE

    facts = {FILE: file.form.digest(file.path), "format": file.form.name}
    return facts | ({"precision": file.facts["precision"]} if "precision" in file.facts else {})


def family_named(name: str) -> Family:
    """The family of that name, or the one of a training run's folder.

    Raises:
        InputError: no such family, or the folder holds no finished run.
    """
    from onceforall import families
    from onceforall.supernet import checkpoint
    from onceforall.supernet.weights import family_of

    if not Path(name).is_dir():
        return families.get(name)
    path = Path(name) / "supernet.safetensors"
    return family_of(checkpoint.describe(path), path)


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5,0.5,0.5` as numbers."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: {text!r} is not a list of numbers") from None


class Scored(NamedTuple):
    """What a network is evaluated on."""

    images: Images
    unlabelled: Images | None  # to calibrate on: none of those that are scored
    classes: tuple[str, ...]
    facts: dict[str, Any]  # what `images` are, as records name it
    data: Data | None = None  # that they are a part of, where they are one


def labelled(
    data: str,
    split: str,
    channels: int,
    normalisation: Normalisation | None,
    workers: int,
    calibrate: int = 0,
    calibrate_data: str | None = None,
    unreadable: float = 1.0,
    own: Source | None = None,
) -> Scored:
    """The images to evaluate on, others to calibrate on, and the classes.

    A folder of class folders is scored whole, as is the one of ImageNet's validation images, with
    nothing but `val` in it; everything else has splits, and training images to calibrate on. Where
    there are none and no other data are named for it, `calibrate` images are drawn from the folder
    and the rest are scored. `unreadable` is the share of image files that may be damaged; `own` how
    the run that the network is of reads and splits the images, where they are its own.

    Raises:
        InputError: no such data or split, too few images to set `calibrate` aside, or those of
            `calibrate_data` are among the scored ones.
    """
    import numpy as np

    from onceforall.data import (
        FileImages,
        Source,
        default_normalisation,
        digest_of,
        images_facts,
        is_loose,
        list_folder,
        load,
    )

    mean_std = (normalisation.mean, normalisation.std) if normalisation else (None, None)
    whole = replace(
        own or Source(data),
        workers=workers,
        channels=channels,
        mean=mean_std[0],
        std=mean_std[1],
        unreadable=unreadable,
    )
    others: Images | None = None
    if calibrate_data is not None and calibrate:
        others = _any_images(replace(whole, name=calibrate_data), channels, normalisation)
    folder = Path(data)
    if own is not None or not is_loose(folder) or (folder / "train").is_dir():
        parts = ("train", "validation", "test")
        if split not in parts:
            raise InputError(f"--split: {split!r} is not one of {choices(parts)}")
        found = load(whole)
        images = getattr(found, split)
        _refuse_scored(images, others, calibrate_data)
        part = found.part_facts(split)
        return Scored(images, others or found.train, found.classes, part, found)
    inside = [child for child in folder.iterdir() if child.is_dir()]
    alone = len(inside) == 1 and inside[0].name in ("val", "test")
    files, classes = list_folder(inside[0] if alone else folder)
    given = normalisation or default_normalisation(channels)
    images = FileImages(files.paths, files.labels, given, channels, workers=workers)
    _refuse_scored(images, others, calibrate_data)

    def facts(scored: Files) -> dict[str, Any]:
        return images_facts(data, "all", digest_of(scored.contents(classes)), given)

    if others is not None or not calibrate:
        return Scored(images, others, classes, facts(files))
    if calibrate >= len(images):
        raise InputError(
            f"--calibrate: {calibrate} of the {len(images)} images of {data} leave none to score;"
            " name other images with --calibrate-data"
        )
    order = np.random.default_rng(3).permutation(len(images)).tolist()
    drawn, rest = sorted(order[:calibrate]), sorted(order[calibrate:])
    return Scored(images.subset(rest), images.subset(drawn), classes, facts(files.take(rest)))


def calibration_images(data: str, network: Resolved, n: int) -> Tensor:
    """(n, C, H, W) images for int8, as the network is given them; fewer where there are fewer."""
    import torch
    from torch import nn

    from onceforall.data import Normalisation, Source
    from onceforall.supernet import unlabelled_batches

    channels, about = network.family.in_channels, network.data
    given = Normalisation(tuple(about["mean"]), tuple(about["std"])) if "mean" in about else None
    mean_std = (given.mean, given.std) if given else (None, None)
    source = Source(data, channels=channels, mean=mean_std[0], std=mean_std[1])
    images = _any_images(source, channels, given)
    return torch.cat(list(unlabelled_batches(images, network.arch.resolution, n, nn.Identity())))


def _refuse_scored(scored: Images, others: Images | None, name: str | None) -> None:
    """Raises InputError where image files to calibrate on are among those that are scored."""
    from onceforall.data import FileImages

    if isinstance(scored, FileImages) and isinstance(others, FileImages):
        both = {path.resolve() for path in scored.paths} & {path.resolve() for path in others.paths}
        if both:
            raise InputError(
                f"--calibrate-data: {len(both)} images of {name} are among those that are scored;"
                " name others, or leave it out"
            )


def _any_images(source: Source, channels: int, normalisation: Normalisation | None) -> Images:
    """The training images of a data set, or all images of a folder, in class folders or not."""
    from onceforall.data import FileImages, default_normalisation, is_loose, list_images, load

    folder = Path(source.name)
    if not is_loose(folder) or (folder / "train").is_dir():
        return load(source).train
    paths = list_images(folder)
    given = normalisation or default_normalisation(channels)
    return FileImages(paths, [0] * len(paths), given, channels, workers=source.workers)
