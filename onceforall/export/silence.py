"""Keeps what libraries print from the terminal, also what their C++ prints. Knows nothing else."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO


@contextmanager
def silent() -> Iterator[None]:
    """While it lasts, nothing that this process writes to its output or errors is seen, no warning,
    and nothing that PyTorch logs."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with suppress(OSError, ValueError):  # what was printed before is to be seen
        sys.stdout.flush()
        sys.stderr.flush()
    kept = [(handle, os.dup(handle)) for handle in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for handle, _ in kept:
            os.dup2(nowhere, handle)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handle, copy in kept:
            os.dup2(copy, handle)
            os.close(copy)
        os.close(nowhere)
        logger.setLevel(level)
