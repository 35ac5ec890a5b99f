"""Recipe, family and resolutions follow the size of the images."""

from dataclasses import replace

import pytest
import torch

from onceforall import config
from onceforall.data import Data
from onceforall.errors import InputError
from onceforall.images import MemoryImages, Normalisation
from onceforall.scale import described, family_of, recipe_for


def data_of(size: int) -> Data:
    norm = Normalisation((0.5,), (0.5,))
    images = MemoryImages(torch.zeros((4, 1, 8, 8), dtype=torch.uint8), [0, 1, 0, 1], norm)
    return Data("mine", images, images, images, ("a", "b"), 1, size, norm, {})


@pytest.mark.parametrize(
    ("size", "recipe", "resolutions"),
    [
        (8, "small", (24, 28)),
        (28, "small", (24, 28)),
        (32, "small", (28, 32)),
        (64, "small", (56, 64)),
        (96, "photos", (56, 68, 84, 96)),
        (224, "photos", (128, 160, 192, 224)),
        (300, "photos", (128, 160, 192, 224)),
        (3000, "photos", (128, 160, 192, 224)),
    ],
)
def test_all_three_follow_the_size(size: int, recipe: str, resolutions: tuple[int, ...]) -> None:
    assert recipe_for(size) == recipe
    settings = config.load(recipe, ["data.name=mine"])
    family = family_of(settings, data_of(size))
    assert family.space.resolution == resolutions
    assert family.name == {"small": "mbv3_mini", "photos": "ofa_mbv3_w1.0"}[recipe]
    assert (family.classes, family.in_channels) == (2, 1)
    text = described(recipe, settings, data_of(size))
    assert f"of {size} pixels" in text
    assert f"recipe {recipe}" in text
    assert ("enlarged for 24, 28" in text) == (size == 8) or "enlarged for 28" not in text


@pytest.mark.parametrize(("recipe", "size"), [("small", 300), ("photos", 28), ("sandwich", 65)])
def test_a_contradiction_is_refused(recipe: str, size: int) -> None:
    settings = config.load(recipe, ["data.name=mine"])
    wanted = recipe_for(size)
    with pytest.raises(InputError, match=f"mine has {size}; the recipe {wanted} is for these"):
        family_of(settings, data_of(size))
    named = replace(settings, resolutions=(48, 64))  # said in so many words, it is done
    assert family_of(named, data_of(size)).space.resolution == (48, 64)
