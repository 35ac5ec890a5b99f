"""The one kind of error that is the user's to mend.

Every room raises `InputError` for a mistake in a file, a field or a value; the
command line prints it as one line and exits with status 2. This file knows
nothing else.
"""

from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what was given: the message names what, where, and what would be right."""


class SharedError(InputError):
    """One that all processes of a run raise alike, so that the first one alone says it."""


class Lost(Exception):  # noqa: N818  (not this process's error)
    """Another process of this run is gone, which said why if it could."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'onceforall[{extra}]'")


class Stopped(Exception):  # noqa: N818  (no error: the person wanted it)
    """Ctrl-C, after everything done so far was saved: the message says how to go on."""


def choices(values: Iterable[object]) -> str:
    """Allowed values, as they are listed at the end of an error."""
    return ", ".join(str(v) for v in values)


def suggestion(given: object, known: Iterable[object]) -> str:
    """The name that was probably meant, to end an error with: "; did you mean 'openvino-cpu'?".
    Nothing, where no name is near."""
    from difflib import get_close_matches

    names = {str(name).lower(): str(name) for name in known}
    near = get_close_matches(str(given).lower(), names, 1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
