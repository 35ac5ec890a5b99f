"""How large images are, from the headers of some of them. Knows no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onceforall.data.paths import items_of
from onceforall.errors import InputError

SAMPLED = 256  # files whose size is looked up


def sizes(paths: Sequence[Path]) -> np.ndarray:
    """(n, 2) widths and heights, pixels, of up to 256 images spread over the list.

    Raises:
        InputError: none of them can be read.
    """
    from PIL import Image

    items = items_of(paths)
    found = []
    rows = np.linspace(0, len(items) - 1, min(SAMPLED, len(items))).round().astype(int)
    for row in dict.fromkeys(rows.tolist()):
        try:
            with Image.open(items.file(row)) as image:  # reads the header only
                found.append(image.size)
        except Exception:  # of a damaged file, decoders raise many kinds
            continue
    if not found:
        raise InputError(f"{items[0]}: not an image, or damaged, as are all others looked at")
    return np.array(found)


def short_sides(paths: Sequence[Path]) -> tuple[int, int, int]:
    """Smallest, median and largest short side, pixels.

    Raises:
        InputError: as `sizes`.
    """
    sides = sizes(paths).min(1)
    return int(sides.min()), int(np.median(sides)), int(sides.max())
