"""A network by itself, trained further: on the same or other images and classes.

It is trained by the loop that trains supernets. Its last layer is replaced where the classes are
others, and trained alone first. At the end it has batch-norm statistics of its own, and is scored
on validation images and, once, on the test set. Knows no file that a network came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onceforall import families, training
from onceforall.data import Data
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.fixed import Fixed
from onceforall.files import read_json, write_json
from onceforall.supernet import load_network, score, start, tasks
from onceforall.training import Alone, Group, PhaseSettings, Settings, Static, folder, guards
from onceforall.training.loop import Outcome

CARD = "card.json"  # in the run's folder: what the network is, and its scores
SHORT, LONG = 25, 75  # epochs, as in the paper
MANY = 100_000  # training images from which on SHORT is enough
CHOOSING = (  # settings of a phase that say which networks of a supernet it trains
    *("archs", "kernel", "depth", "expand", "width", "open", "rule", "couple", "candidates"),
    *("attend", "own_images"),
)


@dataclass(frozen=True)
class Finetuned:
    """A network that was trained further.

    Attributes:
        path: its checkpoint.
        card: plain data, as in the file CARD; of the first process, empty in the others.
    """

    path: Path
    training: Outcome
    card: dict[str, Any]


def finetune(
    out: Path,
    given: Static,
    data: Data,
    settings: Settings,
    *,
    classes: Sequence[str] | None = None,
    teacher: Static | None = None,
    resume: bool = False,
    group: Group | None = None,
) -> Finetuned:
    """Trains a network further in the folder `out`; writes `network.safetensors` and `card.json`.

    Args:
        given: the network with its weights, which stays as it is.
        settings: such as those of the recipe `finetune`. Phases that train the last layer alone are
            left out where the classes are the network's own.
        classes: those that it was trained for, by name and in order; None: not known, those of the
            data where they are as many.
        teacher: a network whose outputs it learns to match, beside the labels.
        resume: goes on with the run that is there.

    Raises:
        InputError: the images have other channels than the network takes; or as `training.train`.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    group = group or Group()
    same = data.classes == tuple(classes or data.classes)
    same = same and len(data.classes) == given.family.classes
    _check(given, data, teacher)
    settings = _settled(given, settings, same, teacher is not None)
    family = _family(given.family, len(data.classes), settings.dropout)
    folder.goes_on(out, settings, data, resume, group)  # refused before anything is said of it
    network = family.fresh(given.arch, torch.Generator().manual_seed(settings.seed))
    start.load(network, given.network.state_dict(), head=same)
    alone = Alone(network, family, given.arch, teacher)
    about = (
        f"{given.arch}: trained further on {data.name}, {len(data.train):,} images of"
        f" {len(data.classes)} classes, at {given.arch.resolution} pixels"
    )
    done = training.train(out, settings, data, resume=resume, group=group, about=about, alone=alone)
    card = _card(out, settings, data, group.device) if group.first else {}
    return Finetuned(out / folder.NETWORK, done, card)


def with_epochs(settings: Settings, images: int, epochs: float | None = None) -> Settings:
    """The settings with their last phase of so many epochs, and phases of the last layer alone of
    no more; None: of LONG epochs, or of SHORT from MANY images on."""
    if epochs is None:
        epochs = SHORT if images >= MANY else LONG
    phases = []
    for phase in settings.phases:
        if phase is settings.phases[-1]:
            phase = replace(phase, steps=None, epochs=epochs)
        elif phase.epochs is not None and phase.part == "head":
            phase = replace(phase, epochs=min(phase.epochs, epochs))
        phases.append(phase)
    return replace(settings, phases=tuple(phases))


def _check(given: Static, data: Data, teacher: Static | None) -> None:
    if data.channels != given.family.in_channels:
        raise InputError(
            f"data: {data.name}: its images have {data.channels} channels,"
            f" and {given.arch.family} takes {given.family.in_channels}"
        )
    if teacher is None:
        return
    if teacher.family.classes != len(data.classes):
        raise InputError(
            f"teacher: is of {teacher.family.classes} classes, and {data.name} has"
            f" {len(data.classes)}"
        )
    if teacher.family.in_channels != data.channels:
        raise InputError(
            f"teacher: takes {teacher.family.in_channels} channels, and the images of {data.name}"
            f" have {data.channels}"
        )


def _settled(given: Static, settings: Settings, same: bool, taught: bool) -> Settings:
    """The settings of the run: they name the network, and have the phases that it needs.

    Raises:
        InputError: they ask for what only a supernet has.
    """
    _refuse_choices(settings)
    phases = [p for p in settings.phases if not (same and p.part == "head")]
    if not phases:
        raise InputError("phases: only the last layer's, and the classes are the network's own")
    if taught and not any(p.distil for p in phases):
        phases = [p if p.part == "head" else replace(p, distil=1.0) for p in phases]
    arch = given.arch
    return replace(
        settings, phases=tuple(phases), family=arch.family, resolutions=(arch.resolution,)
    )


def _refuse_choices(settings: Settings) -> None:
    default = PhaseSettings("", lr=1.0, steps=1)
    for phase in settings.phases:
        for name in CHOOSING:
            if (value := getattr(phase, name)) != getattr(default, name):
                raise InputError(
                    f"phase {phase.name}: {name}: {value!r} chooses among the networks of a"
                    " supernet, and one network is trained here; leave it out"
                )


def _family(family: Family, classes: int, dropout: float) -> Family:
    """The family with other classes, and dropout where there is some."""
    if isinstance(family, Fixed):
        found = family if classes == family.classes else family.with_classes(classes)
        if dropout:
            raise InputError("dropout: a network of no family has its own; leave it at 0")
        return found
    options = {**family.settings(), "classes": classes}
    if dropout:
        options["dropout"] = dropout
    return families.get(family.name, **options)


def _card(out: Path, settings: Settings, data: Data, device: torch.device) -> dict[str, Any]:
    """What the network is and how good; the test set is looked at once, however often a run that
    has come to its end is resumed."""
    path = out / CARD
    if path.exists():
        found: dict[str, Any] = read_json(path)
        return found
    network, arch, facts = load_network(out / folder.NETWORK)
    network.to(device)
    metric = tasks.get(settings.task).metric
    scores = {
        part: score(network, arch.resolution, getattr(data, part), metric, progress=part)
        for part in ("validation", "test")
    }
    card = {
        "arch": str(arch),
        "resolution": arch.resolution,
        **{f"{metric.name}_{part}": found.value for part, found in scores.items()},
        **{f"{part}_images": found.images for part, found in scores.items()},
        "weights": settings.weights,
        "data": facts["data"],
    }
    with guards.written(path):
        write_json(path, card)
    return card
