"""Every recipe is sound, and every small one trains."""

from dataclasses import replace
from pathlib import Path

import pytest

from onceforall import data, families, training
from onceforall.data import Data, Source
from onceforall.training import load_settings, recipes
from onceforall.training.curricula import curriculum

OTHERWISE = ("finetune", "paper", "photos", "photos-from")  # of one network, or of photos


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
    if name == "finetune":
        return
    space = families.get(settings.family).space
    plans = [p.plan(50_000, settings.batch_size, settings.lr_per) for p in settings.phases]
    last = curriculum(space, plans, len).phases[-1]
    assert last.space.size == space.size  # all networks are trained in the end


@pytest.mark.parametrize("name", [n for n in recipes() if n not in OTHERWISE])
def test_a_small_recipe_trains(name: str, few: Data, tmp_path: Path) -> None:
    """Two steps a phase."""
    n = len(load_settings(name).phases)
    changes = ["data.name=digits", "batch_size=8", "resolutions=[16,20]", "log_steps=1"]
    if name == "any":
        changes[2] = "resolutions=[20,28]"  # the family's own
    changes += [f"phases.{i}.{k}" for i in range(n) for k in ("steps=2", "epochs=null")]
    settings = load_settings(name, changes)
    done = training.train(tmp_path / "run", settings, few)
    assert done.steps == 2 * n
    assert "skipped" not in done.metrics
    assert (tmp_path / "run" / "supernet.safetensors").exists()
