"""What suits images of a size: recipe, family and resolutions, chosen together.

Small images (up to 64 pixels) are for a small family that sees all of them; photos for a
family of ImageNet's kind. Knows families, settings and what data are like; trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onceforall import families
from onceforall.data import SMALL, Data
from onceforall.errors import InputError, choices
from onceforall.training.settings import Settings

FROM = "photos-from"  # the recipe for photos where training starts from a trained network
ANY = "any"  # the recipe for families that are given by `build` alone
AUTO = "auto"  # the recipe that is chosen by the data
LEAST = 28  # pixels: smaller images are enlarged to this
SHARES = {"small": (6, 7), "photos": (4, 5, 6, 7)}  # sevenths of the images' size: resolutions


def recipe_for(size: int, changes: Sequence[str] = ()) -> str:
    """The recipe for images of a size, pixels; ANY where changes name a family of any choices, and
    for photos FROM where they name weights."""
    for change in changes:
        key, _, name = change.partition("=")
        if key == "family" and not isinstance(families.get(name), families.Planned):
            return ANY
    started = any(change.startswith("weights=") for change in changes)
    return "small" if size <= SMALL else FROM if started else "photos"


def family_of(settings: Settings, data: Data) -> families.Family:
    """The family of a run: for the classes, channels and size of its data.

    Resolutions that the settings do not name are the largest that the images and the family's own
    allow, and six sevenths of it; of photos also five and four: 128, 160, 192 and 224 pixels.

    Raises:
        InputError: a family for photos and small images, or the other way round, and no
            resolutions named.
    """
    options: dict[str, Any] = {"in_channels": data.channels, "classes": len(data.classes)}
    if settings.dropout:
        options["dropout"] = settings.dropout
    if settings.resolutions is not None:
        return families.get(settings.family, **options, resolutions=settings.resolutions)
    family = families.get(settings.family, **options)
    if not isinstance(family, families.Planned):
        return family  # its networks may run at the sizes it names alone
    own = family.space.resolution[-1]
    kind = recipe_for(data.size)
    if recipe_for(own) != kind:
        meant = f"images of up to {SMALL}" if own <= SMALL else f"images of more than {SMALL}"
        raise InputError(
            f"family: {settings.family} is for {meant} pixels, and {data.name} has"
            f" {data.size}; the recipe {kind} is for these, or name resolutions=[...] to train"
            f" {settings.family} on them all the same"
        )
    top = max(LEAST, data.size) if kind == "small" else min(own, data.size)
    options["resolutions"] = tuple(sorted({round(top * s / 28) * 4 for s in SHARES[kind]}))
    return families.get(settings.family, **options)


def described(recipe: str, settings: Settings, data: Data) -> str:
    """One line: what the images are, what was chosen for them, and how many steps that makes."""
    n, batch = len(data.train), settings.batch_size
    steps = sum(phase.plan(n, batch).steps for phase in settings.phases)
    resolutions = family_of(settings, data).space.resolution
    images = len(data.train) + len(data.validation) + len(data.test)
    beyond = [r for r in resolutions if r > max(LEAST, data.size)]
    return (
        f"{data.name}: {images:,} images of {data.size} pixels, {len(data.classes)} classes"
        f" ({n:,} to train on, {len(data.validation):,} for validation,"
        f" {len(data.test):,} for the test); recipe {recipe}, family {settings.family} at"
        f" {choices(resolutions)} pixels"
        + (f", the images enlarged for {choices(beyond)}" if beyond else "")
        + f"; {steps:,} steps in batches of {batch:,}"
    )
