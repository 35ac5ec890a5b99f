"""What PyTorch's exporters raise, as one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from torch import nn

from onceforall.errors import InputError


@contextmanager
def refusing(network: nn.Module, form: str) -> Iterator[None]:
    """Makes one line of what PyTorch's exporters raise, and nothing of what they print."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of many kinds
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            f"{type(network).__name__}: cannot be written as {form}: {reason}"
            f" ({type(error).__name__})"
        ) from None
    finally:
        logger.setLevel(level)
