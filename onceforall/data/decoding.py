"""One image: decoded, and seen as it is evaluated or as a random view of it is trained on.

Knows PIL's images; neither batches nor where files come from.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from onceforall.data.augmentation import Augmentation
from onceforall.data.batches import SMALL
from onceforall.errors import InputError

CROP = 0.875  # share of the resized image that a centre crop keeps: the usual one at ImageNet size


def open_image(path: Path, channels: int, file: Path | IO[bytes] | None = None) -> Any:
    """A PIL image in grey (1 channel) or colour (3), upright: turned as its EXIF data say, which
    phones use in place of turning pixels. `file` is what is read, where it is not at `path`.

    Raises:
        InputError: names the file that cannot be read as an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path if file is None else file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _eight_bits(image).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image, or damaged") from None
    except Exception as error:  # of a damaged file, decoders raise many kinds
        raise InputError(f"{path}: cannot be read as an image: {error}") from None


def _eight_bits(image: Any) -> Any:
    """A grey image of 16 bits with the upper eight of them, as PIL itself does with 16-bit colours.
    Of grey it would cut off values at 255, and nearly all would be white."""
    from PIL import Image

    if image.mode == "F":  # of what range, nobody says
        raise ValueError("its pixels are floating-point numbers, not 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def as_bytes(image: Any) -> Tensor:
    """(C, H, W) bytes of a PIL image."""
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image)


def center(image: Any, resolution: int, crop: float | None = None) -> Any:
    """Short side resized to `resolution / crop` (bilinear), then the centre cropped."""
    from torchvision.transforms import functional as tv

    kept = crop if crop is not None else (CROP if resolution > SMALL else 1.0)
    resized = tv.resize(image, resized_side(resolution / kept))
    return tv.center_crop(resized, [resolution, resolution])


def resized_side(size: float) -> int:
    """Rounded up, as the authors do: 176 / 0.875 = 201.14 is 202."""
    return math.ceil(size - 1e-6)


def reduced(image: Any, side: int) -> Any:
    """With a short side of `side` at most, pixels."""
    from torchvision.transforms import functional as tv

    return tv.resize(image, side) if min(image.size) > side else image


def augmented(image: Any, resolution: int, parts: Augmentation, rng: random.Random) -> Any:
    """A random view of an image for training: mirror image, colours and crop or shift.

    "crop" is the usual one at ImageNet size: a random part of 8 to 100% of the area and of an
    aspect ratio from 3/4 to 4/3. "color" changes brightness and saturation as the authors do.
    "shift" takes 1/14 off or on at the sides.
    """
    from torchvision.transforms import functional as tv

    if parts.flip and rng.random() < 0.5:
        image = tv.hflip(image)
    if parts.color:
        image = tv.adjust_brightness(image, rng.uniform(1 - 32 / 255, 1 + 32 / 255))
        image = tv.adjust_saturation(image, rng.uniform(0.5, 1.5))
    if parts.crop:
        top, left, height, width = _random_area(image.height, image.width, rng)
        return tv.resized_crop(image, top, left, height, width, [resolution, resolution])
    if parts.shift:
        short = min(image.height, image.width)
        reach = max(1, short // 14)
        square = tv.pad(tv.center_crop(image, [short, short]), [reach] * 4)
        top, left = rng.randint(0, 2 * reach), rng.randint(0, 2 * reach)
        return tv.resized_crop(square, top, left, short, short, [resolution, resolution])
    return center(image, resolution, 1.0)


def _random_area(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part (Szegedy et al., 2015); the centre square
    where ten tries give none that fits."""
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = (4 / 3) ** rng.uniform(-1, 1)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    short = min(height, width)
    return (height - short) // 2, (width - short) // 2, short, short
