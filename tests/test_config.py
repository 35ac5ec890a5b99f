"""Settings: what is refused, and in which words."""

import typing
from dataclasses import replace
from pathlib import Path

import pytest
from commands import typed

from onceforall.data import Source
from onceforall.errors import InputError
from onceforall.training import PhaseSettings, Settings, load_settings, recipes, settings_from_dict

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


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_sound(name: str) -> None:
    settings = load_settings(name)
    assert settings_from_dict(settings.to_dict(), name) == settings


def test_values_and_changes(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    settings = load_settings(path, ["phases.1.steps=7", "phases.1.epochs=null", "seed=3"])
    assert settings.weight_decay == 3e-5
    assert settings.phases[1].steps == 7
    assert settings.seed == 3
    assert load_settings(path).phases[1].plan(640, 32).steps == 10
    assert load_settings(path, ["data.root=/images"]).data.root == "/images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batchsize=3", "unknown key 'batchsize'; there are phases, data, family"),
        ("phases.0.epoch=3", r"phases\[0\]: unknown key 'epoch'"),
        ("batch_size=many", "batch_size: 'many' is not a whole number"),
        ("batch_size=1.5", "batch_size: 1.5 is not a whole number"),
        ("batch_size=true", "batch_size: True is not a whole number"),
        ("batch_size=0", "batch_size: 0 is not at least 2"),
        ("data=digits", "data: 'digits' is not a map"),
        ("phases.5.lr=1", "there is no phases.5 in the config"),
        ("phases.0.lr=-1", r"phases\[0\]: lr: -1.0 is not above 0"),
        ("phases.0.epochs=3", "needs steps or epochs, one of the two"),
        ("phases.0.rule=best", "rule: 'best'; there are random, sandwich"),
        ("phases.0.distil=1.0", "the first one has no teacher yet"),
        ("label_smoothing=2", "label_smoothing: 2.0 is not at least 0 and below 1"),
        ("seed=-1", "seed: -1 is not at least 0"),
        ("threads=0", "threads: 0 is not at least 1"),
        ("data.workers=-1", "data: workers: -1 is not at least 0"),
        ("data.channels=2", "data: channels: 2; there are 1 and 3"),
        ("data.std=[0.0]", "data: std: 0.0 is not above 0"),
        ("resolutions=[]", r"resolutions: \[\] is not an ascending list"),
        ("resolutions=[28, 24]", r"resolutions: \[28, 24\] is not an ascending list"),
        ("phases.0.warmup_epochs=1", "warmup_epochs: 1.0 goes with epochs"),
        (
            "phases.1={name: a, lr: 1, epochs: 2, warmup: 0.1, warmup_epochs: 1}",
            "not with steps or",
        ),
        ("seed=2026-99-99", "not YAML"),
        ("precision=fp8", "precision: 'fp8'; there are fp32, tf32, bf16, fp16"),
        ("resolutions=28", "resolutions: 28 is not a list or null"),
        ("nonsense", "'nonsense' is not of the form key=value"),
        ("seed={", "not YAML"),
    ],
)
def test_refusals_name_field_and_value(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_settings(write(tmp_path, GOOD), [change])


def numbers() -> list[str]:
    """Every setting that is a number, or a list or map of them, as the command line names it."""
    parts = {"": Settings, "phases.1.": PhaseSettings, "data.": Source}
    return [
        prefix + name + ".kernel" * (typing.get_origin(hint) is dict)
        for prefix, kind in parts.items()
        for name, hint in typing.get_type_hints(kind).items()
        if {int, float, tuple[int, ...], tuple[float, ...]} & {hint, *typing.get_args(hint)}
    ]


@pytest.mark.parametrize("name", numbers())
@pytest.mark.parametrize(
    "value",
    [
        *[".nan", ".inf", "-.inf", "-5", "1e30", "1e400", "1.2.3e4", "many", "true"],
        *["{}", "[[]]", "2001-02-03", "9" * 400, "9" * 5000, "0x" + "f" * 5000],
    ],
)
def test_no_number_is_left_to_a_library(tmp_path: Path, name: str, value: str) -> None:
    """What is no number, or one without sense, is refused in one line that names the field."""
    if name in ("data.mean", "data.std", "resolutions") and value != "[[]]":
        value = f"[{value}]"
    if (name, value) == ("data.mean", "[-5]"):
        return  # as good as another
    with pytest.raises(InputError) as refused:
        load_settings(write(tmp_path, GOOD), [f"{name}={value}"])
    assert name.split(".")[-1] in str(refused.value)
    if "not YAML" not in str(refused.value):
        assert "\n" not in str(refused.value)


def test_a_recipe_says_how_many_numbers_it_checks() -> None:
    assert {"seed", "threads", "batch_size", "phases.1.lr", "phases.1.epochs"} <= {*numbers()}
    assert {"resolutions", "data.workers", "data.validation", "data.std"} <= {*numbers()}


def test_the_command_refuses_with_status_2(tmp_path: Path) -> None:
    for change in ("seed=-1", "threads=0", "phases.0.lr=.nan"):
        found = typed("train", write(tmp_path, GOOD), change, "--out", tmp_path / "run")
        assert found.returncode == 2
        assert len(found.stderr.splitlines()) == 1, found.stderr
        assert change.split("=")[0].split(".")[-1] in found.stderr
        assert not (tmp_path / "run").exists()


def test_epochs_of_warm_up_come_before_the_others() -> None:
    """320 images in batches of 32 are 10 steps an epoch: 20 + 40, and half of each with two
    batches a step."""
    phase = PhaseSettings("a", 0.1, epochs=4, warmup_epochs=2)
    share = phase.plan(320, 32)
    assert (share.steps, share.warmup) == (60, 20)
    share = replace(phase, archs=2, own_images=True).plan(320, 32)
    assert (share.steps, share.warmup) == (30, 10)
    share = PhaseSettings("a", 0.1, epochs=4, warmup=0.25).plan(320, 32)
    assert (share.steps, share.warmup) == (40, 10)


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
        load_settings(write(tmp_path, text))


def test_a_phase_opens_genes_of_any_kind(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    phase = load_settings(path, ["phases.1.open={heads: 2, mlp: 3}"]).phases[1]
    assert phase.plan(640, 32).open == {"heads": 2, "mlp": 3}
    for change, message in (
        ("phases.1.open={heads: 0}", r"phases\[1\]: open: heads: 0 is not above 0"),
        ("phases.1.open={heads: many}", "open: heads: 'many' is not a whole number"),
        ("phases.1.open=2", "open: 2 is not a map"),
    ):
        with pytest.raises(InputError, match=message):
            load_settings(path, [change])


def test_missing_file_lists_the_recipes() -> None:
    with pytest.raises(InputError, match=r"nowhere.yaml: no such file; recipes here: .*small"):
        load_settings("nowhere.yaml")
