"""How many parts a batch is run in so that it fits into a GPU's memory. Knows no networks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from onceforall.errors import InputError

LEAST = 2  # images of a part: batch norm needs as many


def parts_that_fit(attempt: Callable[[int], None], images: int) -> int:
    """The least number of equal parts of so many images of which `attempt`, called with the images
    of one, does not run out of memory.

    Raises:
        InputError: not even the smallest part fits.
    """
    for parts in range(1, images // LEAST + 1):
        if images % parts:
            continue
        try:
            attempt(images // parts)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        return parts
    raise InputError(
        f"batch_size: not even {LEAST} images of the largest network fit into the GPU's memory;"
        " recompute=true or smaller resolutions take less"
    )
