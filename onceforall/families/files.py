"""Families in a person's own file: `my_net.py:family`, the file's path and a name in it.

What has that name is a family made by `elastic`, or a function that returns a family and takes
`classes`, `in_channels` and `resolutions` by keyword. Reading such a family runs the file
(`plugins`). Archs, checkpoints and predictors name the family without the file's folder.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from onceforall import plugins
from onceforall.errors import InputError
from onceforall.families.base import Family
from onceforall.families.elastic import Elastic


def family_in(name: str, *, path: str | None = None, **settings: Any) -> Family:
    """The family `FILE.py:NAME`.

    Args:
        path: the file, where the name has only its last part, as checkpoints do; where it is no
            more, one of its name in the working directory is taken.

    Raises:
        InputError: no such file, one that does not run, or without an object of that name.
    """
    found, file, short = plugins.find("family", "families", name, Family, path=path)
    origin = {"path": str(file.resolve())}
    if isinstance(found, Elastic):
        return found.again(**settings, origin=origin, name=short)
    if not callable(found) or isinstance(found, Family):
        raise InputError(
            f"family: {short}: is {type(found).__name__}; it must be a family made by elastic(),"
            " or a function that returns a family"
        )
    try:
        inspect.signature(found).bind(**settings)
    except TypeError as error:
        raise InputError(f"family: {short}: {error}") from None
    made = found(**settings)
    if isinstance(made, Elastic):
        return made.again(origin=origin, name=short)
    if not isinstance(made, Family):
        raise InputError(f"family: {short}: returned {type(made).__name__}, no family")
    return made


def without_folder(arch: str) -> tuple[str, str | None]:
    """An arch as text, `FOLDER/my_net.py:family@...`, without the folder; and the file, None where
    the family is in none."""
    found = re.fullmatch(r"(.*/)?([^/]+\.py)(:.+)", arch.strip(), re.DOTALL)
    if found is None:
        return arch, None
    folder, file, rest = found.groups()
    return file + rest, f"{folder or ''}{file}"
