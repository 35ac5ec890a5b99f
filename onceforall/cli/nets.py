"""Finding what a person named: a network, its weights, the images to run it on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from torch import nn

    from onceforall.data import Images, Normalisation, Source
    from onceforall.families import Family
    from onceforall.interop import StaticNetwork

Net = Annotated[
    str,
    typer.Argument(
        metavar="NET",
        help="FAMILY:largest, FAMILY:smallest, FAMILY:random:SEED (FAMILY may be my_net.py:family),"
        " an arch as text, a file (an arch of ours, net.config, MMRazor YAML, a checkpoint of an"
        " extracted network), or an id of `onceforall zoo`.",
        show_default=False,
    ),
]
NAMED = re.compile(r"(?P<family>.+):((?P<which>largest|smallest)|random:(?P<seed>\d{1,18}))")
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="W",
        help="Weights in any format; of a checkpoint of a network, its own.",
        show_default=False,
    ),
]


def describe(net: str, resolution: int | None = None) -> StaticNetwork:
    """The network a person named.

    Raises:
        InputError: it is nothing that is known.
    """
    from onceforall import interop
    from onceforall.files import exists
    from onceforall.interop import zoo

    if exists(Path(net)):
        return interop.read_network(Path(net), resolution)
    entry = zoo.find(net)
    if entry is not None:
        found = zoo.network(entry)
    elif ":" in net and not _is_arch(net):
        found = _of_family(net)
    elif _is_arch(net):
        found = interop.from_text(net)
    else:
        raise InputError(
            f"{net!r} is no file, no published network (`onceforall zoo`) and not of the form"
            " FAMILY:largest, FAMILY:smallest or FAMILY:random:SEED"
        )
    if resolution is None:
        return found
    return interop.StaticNetwork(found.family, found.arch.at(resolution))


def _of_family(net: str) -> StaticNetwork:
    import numpy as np

    from onceforall import families, interop

    asked = NAMED.fullmatch(net)
    if asked is None:
        if ".py:" not in net:
            families.get(net.partition(":")[0])  # says so, if there is no such family
        raise InputError(f"{net!r}: after the family comes largest, smallest or random:SEED")
    family = families.get(asked["family"])
    if asked["seed"] is not None:
        arch = family.space.random(np.random.default_rng(int(asked["seed"])))
    else:
        arch = getattr(family.space, asked["which"])()
    return interop.StaticNetwork(family, arch)


def _is_arch(net: str) -> bool:
    """Whether a text looks like an arch: `family@28/16:3x4,...`, `family@28/depth=9,...`."""
    return NAMED.fullmatch(net) is None and "@" in net and (":" in net or "=" in net)


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


def as_weighted(network: StaticNetwork, weights: Path | None) -> StaticNetwork:
    """The network as one of the family that a checkpoint of ours is of: its classes and channels
    are those of the weights, not a family's usual ones."""
    from onceforall.interop import StaticNetwork
    from onceforall.interop.networks import is_checkpoint
    from onceforall.supernet import checkpoint
    from onceforall.supernet.weights import family_of

    if weights is None or not weights.is_file() or not is_checkpoint(weights):
        return network
    facts = checkpoint.describe(weights)
    if facts.get("family") != network.family.name:
        return network  # refused by what reads the weights
    return StaticNetwork(family_of(facts, weights), network.arch)


def weighted(net: str, network: StaticNetwork, weights: Path | None) -> nn.Module:
    """The network with its weights: those given, or its own where `net` is a checkpoint.

    Raises:
        InputError: there are none, or they do not fit.
    """
    from onceforall import interop
    from onceforall.interop import zoo
    from onceforall.interop.networks import is_checkpoint

    entry = zoo.find(net)
    if weights is None and Path(net).is_file() and is_checkpoint(Path(net)):
        weights = Path(net)
    elif weights is None and Path(net).is_dir() and (Path(net) / "init").is_file():
        weights = Path(net) / "init"
    elif weights is None and entry is not None:
        weights = zoo.fetch(entry)
    if weights is None:
        raise InputError(f"--weights: {net} has no weights of its own; name their file")
    return interop.read_weights(weights, *network)


def facts_of(net: str, weights: Path | None) -> dict[str, Any]:
    """What a checkpoint of ours says of its data; nothing for other files."""
    from onceforall.interop.networks import is_checkpoint
    from onceforall.supernet import checkpoint

    for path in (Path(net), weights):
        if path is not None and path.is_file() and is_checkpoint(path):
            return dict(checkpoint.describe(path).get("data", {}))
    return {}


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


def labelled(
    data: str,
    split: str,
    channels: int,
    normalisation: Normalisation | None,
    workers: int,
    calibrate: int = 0,
    calibrate_data: str | None = None,
    unreadable: float = 1.0,
) -> Scored:
    """The images to evaluate on, others to calibrate on, and the classes.

    A folder of class folders is scored whole, as is the one of ImageNet's validation images, with
    nothing but `val` in it; everything else has splits, and training images to calibrate on. Where
    there are none and no other data are named for it, `calibrate` images are drawn from the folder
    and the rest are scored. `unreadable` is the share of image files that may be damaged.

    Raises:
        InputError: no such data or split, too few images to set `calibrate` aside, or those of
            `calibrate_data` are among the scored ones.
    """
    import numpy as np

    from onceforall.data import FileImages, Source, default_normalisation, list_folder, load

    mean_std = (normalisation.mean, normalisation.std) if normalisation else (None, None)
    whole = Source(
        data,
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
    if not folder.is_dir() or (folder / "train").is_dir():
        parts = ("train", "validation", "test")
        if split not in parts:
            raise InputError(f"--split: {split!r} is not one of {choices(parts)}")
        found = load(whole)
        images = getattr(found, split)
        _refuse_scored(images, others, calibrate_data)
        return Scored(images, others or found.train, found.classes)
    inside = [child for child in folder.iterdir() if child.is_dir()]
    alone = len(inside) == 1 and inside[0].name in ("val", "test")
    files, classes = list_folder(inside[0] if alone else folder)
    given = normalisation or default_normalisation(channels)
    images = FileImages(files.paths, files.labels, given, channels, workers=workers)
    _refuse_scored(images, others, calibrate_data)
    if others is not None or not calibrate:
        return Scored(images, others, classes)
    if calibrate >= len(images):
        raise InputError(
            f"--calibrate: {calibrate} of the {len(images)} images of {data} leave none to score;"
            " name other images with --calibrate-data"
        )
    order = np.random.default_rng(3).permutation(len(images)).tolist()
    drawn, rest = sorted(order[:calibrate]), sorted(order[calibrate:])
    return Scored(images.subset(rest), images.subset(drawn), classes)


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
    from onceforall.data import FileImages, default_normalisation, list_images, load

    folder = Path(source.name)
    if not folder.is_dir() or (folder / "train").is_dir():
        return load(source).train
    paths = list_images(folder)
    given = normalisation or default_normalisation(channels)
    return FileImages(paths, [0] * len(paths), given, channels, workers=source.workers)
