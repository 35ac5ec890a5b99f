"""What exporters raise, as one line, and nothing of what they print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from onceforall.errors import InputError
from onceforall.export.silence import silent


@contextmanager
def refusing(network: nn.Module, form: str) -> Iterator[None]:
    """Makes one line of what an exporter raises, and keeps what it prints from the terminal.

    Raises:
        InputError: the network cannot be written in this form; says why.
    """
    try:
        with silent():
            yield
    except InputError:  # says it already
        raise
    except Exception as error:  # of many kinds
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            f"{type(network).__name__}: cannot be written as {form}: {reason}"
            f" ({type(error).__name__})"
        ) from None
