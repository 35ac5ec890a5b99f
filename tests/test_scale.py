"""Recipe, family and resolutions follow the size of the images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from onceforall import training
from onceforall.cli import app
from onceforall.data import Data, MemoryImages, Normalisation
from onceforall.errors import InputError
from onceforall.training import Settings, load_settings
from onceforall.training.scale import described, family_of, recipe_for


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
    settings = load_settings(recipe, ["data.name=mine"])
    family = family_of(settings, data_of(size))
    assert family.space.resolution == resolutions
    assert family.name == {"small": "mbv3_mini", "photos": "ofa_mbv3_w1.0"}[recipe]
    assert (family.classes, family.in_channels) == (2, 1)
    text = described(recipe, settings, data_of(size))
    assert f"of {size} pixels" in text
    assert f"recipe {recipe}" in text
    assert ("enlarged for 24, 28" in text) == (size == 8) or "enlarged for 28" not in text


@pytest.mark.parametrize(("recipe", "steps"), [("small", "2,600"), ("photos", "1,500")])
def test_it_is_said_how_many_steps_that_makes(recipe: str, steps: str) -> None:
    """`photos` has 150 epochs, of 10 steps each with 640 images in batches of 64."""
    size = 28 if recipe == "small" else 224
    found = data_of(size)
    many = replace(found, train=found.train.subset([0, 1] * 320))
    text = described(recipe, load_settings(recipe, ["data.name=mine"]), many)
    batch = 128 if recipe == "small" else 64
    assert text.endswith(f"; {steps} steps in batches of {batch}")


@pytest.mark.parametrize(("recipe", "size"), [("small", 300), ("photos", 28), ("sandwich", 65)])
def test_a_contradiction_is_refused(recipe: str, size: int) -> None:
    settings = load_settings(recipe, ["data.name=mine"])
    wanted = recipe_for(size)
    with pytest.raises(InputError, match=f"mine has {size}; the recipe {wanted} is for these"):
        family_of(settings, data_of(size))
    named = replace(settings, resolutions=(48, 64))  # said in so many words, it is done
    assert family_of(named, data_of(size)).space.resolution == (48, 64)


@pytest.mark.parametrize(("size", "recipe"), [(30, "small"), (80, "photos")])
def test_the_recipe_that_is_chosen_is_the_one_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, recipe: str
) -> None:
    """The images are augmented as the recipe says, not as they would be without one."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (size, size)).save(tmp_path / "images" / name / f"{i}.png")
    trained: list[tuple[Settings, Data]] = []

    def train(run: Path, settings: Settings, data: Data, **more: Any) -> training.Outcome:
        trained.append((settings, data))
        return training.Outcome(run, 0, 0.0, {})

    monkeypatch.setattr(training, "train", train)
    change = f"data.name={tmp_path / 'images'}"
    for given in ([change], ["auto", change], [recipe, change]):
        assert CliRunner().invoke(app, ["train", *given]).exit_code == 0
    assert [settings for settings, _ in trained] == [load_settings(recipe, [change])] * 3
    for settings, data in trained:
        assert data.train.augmentation == settings.data.augmentation  # type: ignore[attr-defined]
        assert data.validation.augmentation == "none"  # type: ignore[attr-defined]
