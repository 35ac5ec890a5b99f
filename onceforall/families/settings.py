"""A family's settings beside its name, in files: `changed`, `of_networks`, `made_again`.

An arch names its family; how many classes and channels the networks have, the family's settings
say. Files that hold archs keep those that are not the family's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceforall import families
from onceforall.errors import InputError
from onceforall.families.base import Family

_NUMBERS = (("in_channels", 1), ("classes", 1), ("dropout", 0))  # and the least of each
RESOLUTIONS = "resolutions"
_KEPT = ("path",)  # where a person's own family is: elsewhere it would not be found


def changed(family: Family) -> dict[str, Any]:
    """The settings that are not the family's own: with the name, what makes it again."""
    settings = family.settings()
    try:
        own = families.get(family.name, **{k: settings[k] for k in _KEPT if k in settings})
    except InputError:  # nothing of that name is found from here
        return settings
    usual = own.settings()
    return {k: v for k, v in settings.items() if k in _KEPT or k not in usual or usual[k] != v}


def of_networks(family: Family) -> dict[str, Any]:
    """The changed settings that say what networks an arch has, as records keep them: not where the
    family is found, and not the resolutions, of which an arch names its own."""
    return {k: v for k, v in changed(family).items() if k not in (*_KEPT, RESOLUTIONS)}


def made_again(name: object, settings: object, where: str) -> Family:
    """The family of a file that holds its name and settings.

    Raises:
        InputError: no such family or setting; names the file.
    """
    if not isinstance(name, str):
        raise InputError(f"{where}: family: {name!r} is not a name")
    if not isinstance(settings, Mapping):
        raise InputError(f"{where}: settings: {settings!r} is not a map of names and values")
    try:
        family = families.get(name, **settings)
        for field, least in _NUMBERS:
            value = getattr(family, field, least)
            if not isinstance(value, int | float) or value < least:
                raise InputError(f"{field}: {value!r} is not a number of at least {least}")
    except TypeError as error:
        raise InputError(f"{where}: settings: {error}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return family
