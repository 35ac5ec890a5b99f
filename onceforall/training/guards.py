"""What keeps a run from being lost: signals that stop it in order, and losses that are none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onceforall.errors import InputError

IN_A_ROW = 5  # steps whose gradients are not finite, after which no better ones are to be hoped for
IN_A_ROW_SCALED = 25  # in fp16, where the first steps find the scale of the losses


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Signals to stop that have come while the block runs; a second Ctrl-C stops at once."""
    found: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(number: int, frame: Any) -> None:
        found.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_divergence(phase: str, step: int, in_a_row: int, most: int, kept: str) -> None:
    """Raises InputError where so many steps in a row had to be passed over."""
    if in_a_row < most:
        return
    raise InputError(
        f"phases: {phase}: the loss is not finite since step {step - in_a_row + 1};"
        f" {in_a_row} steps were passed over; a lower lr helps, or clip. {kept}"
    )
