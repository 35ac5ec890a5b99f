"""What is found by trying it before the first step: how many parts a batch is run in so that it
fits into a GPU's memory, and which of several ways is fastest. Knows no networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch

from onceforall.errors import InputError

LEAST = 2  # images of a part: batch norm needs as many
PROBE_SECONDS = 2.0  # of trying what is fastest, all ways together


def parts_that_fit(attempt: Callable[[int], None], images: int) -> int:
    """The least number of equal parts of so many images of which `attempt`, called with the images
    of one, does not run out of memory.

    Raises:
        InputError: not even the smallest part fits.
    """
    for parts in range(1, images // LEAST + 1):
        if images % parts == 0 and fits(partial(attempt, images // parts)):
            return parts
    raise InputError(
        f"batch_size: not even {LEAST} images of the largest network fit into the GPU's memory;"
        " recompute=true or smaller resolutions take less"
    )


def fits(attempt: Callable[[], None]) -> bool:
    """Whether it does not run out of a GPU's memory, which is given back in either case (after the
    error is gone: it keeps what was computed)."""
    try:
        attempt()
        found = True
    except torch.OutOfMemoryError:
        found = False
    torch.cuda.empty_cache()
    return found


def seconds_of(
    ways: Mapping[str, Callable[[], None]], prepare: Callable[[str], None] = lambda name: None
) -> dict[str, float]:
    """The median time of each way, in turns for some seconds, after a run that is not counted and,
    each time, after `prepare` was called with its name. What runs on a GPU has to wait for it."""
    for name, way in ways.items():
        prepare(name)
        way()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + PROBE_SECONDS
    while not all(spent.values()) or time.perf_counter() < end:
        for name, way in ways.items():
            prepare(name)
            since = time.perf_counter()
            way()
            spent[name].append(time.perf_counter() - since)
    return {name: median(each) for name, each in spent.items()}
