"""Every recipe is sound, and every small one trains."""

from dataclasses import replace
from pathlib import Path

import pytest

from onceforall import data, families, training
from onceforall.data import Data, Source
from onceforall.training import load_settings, recipes
from onceforall.training.curricula import curriculum

ALONE = "finetune"  # of one network
SIZES = {"any": "[20,28]", "photos": "[24,32]", "photos-from": "[24,32]"}


@pytest.fixture(scope="module")
def few() -> Data:
    """48 digits."""
    found = data.load(Source("digits"))
    parts = {p: getattr(found, p).subset(range(48)) for p in ("train", "validation", "test")}
    return replace(found, **parts)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_its_purpose_and_trains_all_networks(name: str) -> None:
    settings = load_settings(name)
    text = (training.config.RECIPES / f"{name}.yaml").read_text()
    assert text.startswith("# ")  # says what it is for
    if name == ALONE:
        return
    space = families.get(settings.family).space
    plans = [p.plan(50_000, settings.batch_size, settings.lr_per) for p in settings.phases]
    last = curriculum(space, plans, len).phases[-1]
    assert last.space.size == space.size  # all networks are trained in the end


@pytest.mark.parametrize(
    ("name", "epochs"), [("paper", 610), ("photos", 150), ("photos-from", 62), ("finetune", 81)]
)
def test_a_recipe_is_as_long_as_it_says(name: str, epochs: int) -> None:
    """In passes over the training images, the warm-up among them (docs/training.md)."""
    images = 100_000
    settings = load_settings(name)
    plans = [p.plan(images, settings.batch_size, settings.lr_per) for p in settings.phases]
    steps = sum(plan.steps for plan in plans)
    assert steps * settings.batch_size / images == pytest.approx(epochs, rel=1e-3)


@pytest.mark.parametrize("name", [n for n in recipes() if n not in (ALONE, "paper")])
def test_a_recipe_trains(name: str, few: Data, tmp_path: Path) -> None:
    """Two steps a phase. (`paper` is `photos`, longer.)"""
    n = len(load_settings(name).phases)
    sizes = SIZES.get(name, "[16,20]")
    changes = ["data.name=digits", "batch_size=8", f"resolutions={sizes}", "log_steps=1"]
    cut = ("steps=2", "epochs=null")
    changes += [f"phases.{i}.{k}" for i in range(n) for k in cut]
    settings = load_settings(name, changes)
    done = training.train(tmp_path / "run", settings, few)
    assert done.steps == 2 * n
    assert "skipped" not in done.metrics
    assert (tmp_path / "run" / "supernet.safetensors").exists()
