"""Ctrl-C at a step of training, for tests."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onceforall.training import loop
from onceforall.training.job import Job


@contextmanager
def ctrl_c_at(step: int) -> Iterator[None]:
    """Sends Ctrl-C to this process while it takes that step, counted from 1."""
    original = loop.train_step

    def stepping(job: Job, *args: Any) -> Any:
        if job.state.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(job, *args)

    loop.train_step = stepping
    try:
        yield
    finally:
        loop.train_step = original
