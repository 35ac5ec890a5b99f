"""Settings: what is refused, and in which words."""

from pathlib import Path

import pytest

from onceforall import config
from onceforall.errors import InputError

GOOD = """
family: mbv3_mini
batch_size: 32
weight_decay: 3e-5
data: {name: digits}
phases:
  - {name: largest, steps: 10, lr: 0.1}
  - {name: all, epochs: 0.5, lr: 0.1, kernel: 2, distil: 1.0}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", config.recipes())
def test_every_recipe_is_sound(name: str) -> None:
    settings = config.load(name)
    assert config.from_dict(settings.to_dict(), name) == settings


def test_values_and_changes(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    settings = config.load(path, ["phases.1.steps=7", "phases.1.epochs=null", "seed=3"])
    assert settings.weight_decay == 3e-5
    assert settings.phases[1].steps == 7
    assert settings.seed == 3
    assert config.load(path).phases[1].share(640, 32).steps == 10
    assert config.load(path, ["data.root=/images"]).data.root == "/images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batchsize=3", "unknown key 'batchsize'; there are phases, data, family"),
        ("phases.0.epoch=3", r"phases\[0\]: unknown key 'epoch'"),
        ("batch_size=many", "batch_size: 'many' is not a whole number"),
        ("batch_size=1.5", "batch_size: 1.5 is not a whole number"),
        ("batch_size=true", "batch_size: True is not a whole number"),
        ("batch_size=0", "batch_size: 0 is not above 0"),
        ("data=digits", "data: 'digits' is not a map"),
        ("phases.5.lr=1", "there is no phases.5 in the config"),
        ("phases.0.lr=-1", r"phases\[0\]: lr: -1.0 is not above 0"),
        ("phases.0.epochs=3", "needs steps or epochs, one of the two"),
        ("phases.0.rule=best", "rule: 'best'; there are random, sandwich"),
        ("phases.0.distil=1.0", "the first one has no teacher yet"),
        ("label_smoothing=2", "label_smoothing: 2.0 is not a share"),
        ("precision=fp8", "precision: 'fp8'; there are fp32, bf16"),
        ("resolutions=28", "resolutions: 28 is not a list or null"),
        ("nonsense", "'nonsense' is not of the form key=value"),
        ("seed={", "not YAML"),
    ],
)
def test_refusals_name_field_and_value(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.load(write(tmp_path, GOOD), [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a map of settings"),
        ("phases: [", "not YAML"),
        ("family: mbv3_mini", "'phases' is missing"),
        ("phases: []", "phases: none given"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"recipe.yaml.*{message}"):
        config.load(write(tmp_path, text))


def test_a_phase_opens_genes_of_any_kind(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    phase = config.load(path, ["phases.1.open={heads: 2, mlp: 3}"]).phases[1]
    assert phase.share(640, 32).open == {"heads": 2, "mlp": 3}
    for change, message in (
        ("phases.1.open={heads: 0}", r"phases\[1\]: open: heads: 0 is not above 0"),
        ("phases.1.open={heads: many}", "open: heads: 'many' is not a whole number"),
        ("phases.1.open=2", "open: 2 is not a map"),
    ):
        with pytest.raises(InputError, match=message):
            config.load(path, [change])


def test_missing_file_lists_the_recipes() -> None:
    with pytest.raises(InputError, match=r"nowhere.yaml: no such file; recipes here: .*small"):
        config.load("nowhere.yaml")
