"""A supernet that was trained elsewhere: every command keeps its records in one folder; and the
predictors of others as priors."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from typer.testing import CliRunner

from onceforall import families, predictors
from onceforall.cli import app
from onceforall.errors import InputError
from onceforall.interop.authors_accuracy import read_accuracy_net
from onceforall.pipeline import evidence as evidences
from onceforall.pipeline import specializing
from onceforall.predictors.published import Additive, Between
from onceforall.records import read_jsonl
from onceforall.space import Space, Table
from onceforall.supernet import SuperNet, save_supernet

SIZES = [12, 16]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search asks for fewer predictions: which arch is found matters to no test here."""
    monkeypatch.setattr(specializing, "EVALUATIONS", 100)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = families.get("mbv3_mini", classes=10, in_channels=1, resolutions=SIZES)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_supernet(path, SuperNet(family, torch.Generator().manual_seed(0)), {})
    return path


def table(space: Space) -> Table:
    """The square of the resolution."""
    return Table.build(space, lambda place: 0.0, lambda size, width: size**2, name="top1", unit="%")


def test_all_commands_share_a_folder(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    of = f"mbv3_mini --weights {weights} --out {out}"

    def command(text: str) -> Any:
        return run(*shlex.split(text))

    scored = command(f"records accuracy {of} --data digits --samples 12 --all --images 60")
    timed = command(f"records latency {of} --samples 12")
    assert scored["path"] == str(out / "accuracy.jsonl")
    assert timed["path"] == str(out / "latency-onnxruntime-cpu.jsonl")
    assert (scored["added"], timed["added"]) == (12, 12)
    records = read_jsonl(out / "latency-onnxruntime-cpu.jsonl")
    assert {r.arch.resolution for r in records} == set(SIZES)  # of the weights' own family
    command(f"specialize {of} --data digits --samples 12 --max-macs 0.4M")
    assert len({r.arch for r in read_jsonl(out / "accuracy.jsonl")} - set(archs(records))) <= 4
    (file,) = out.rglob("network.onnx")
    assert command(f"evaluate {file} --data digits")["kept"] == str(out / "measured.jsonl")
    assert command(f"measure {file} --rounds 1")["kept"] == str(out / "measured.jsonl")
    with pytest.raises(InputError, match=r"pixels: its records of top1 are of .* new ones would"):
        command(f"records accuracy {of} --data digits --samples 99 --all --mean 0.3 --std 0.4")
    more = 1 + len(read_jsonl(out / "accuracy.jsonl"))
    assert command(f"records accuracy {of} --data digits --samples {more} --all")["added"] == 1


def archs(records: list[Any]) -> list[Any]:
    return [record.arch for record in records]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("records accuracy mbv3_mini --weights W --data digits", "--weights needs --data, images"),
        ("records accuracy mbv3_mini --weights W --out found", "--weights needs --data, images"),
        ("records latency mbv3_mini --weights W", "--weights needs --out, the folder"),
        ("records latency mbv3_mini --weights W --out W", "is a file; with --weights, a folder"),
        ("records latency resnet_none --weights W --out found", "resnet_none"),
        ("records latency mbv3_mini --weights none --out found", "none: no such"),
        (
            "records latency mbv3_mini --weights W --out f --resolutions 16",
            "a supernet has its own",
        ),
        ("records accuracy none --data digits", "none: no such run"),
        ("records accuracy none --mean 0.5", "--mean and --std go with --weights"),
        (
            "specialize mbv3_mini --weights W --data digits --out f --max-macs 1M --prior none.npz",
            "none.npz: no such file",
        ),
        (
            "specialize mbv3_mini --weights W --data digits --out f --max-macs 1M --prior W",
            "not a predictor's file",
        ),
    ],
)
def test_mistakes_are_one_line(
    command: str, message: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(weights) if word == "W" else word for word in command.split()]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "found").exists()


def test_a_prior_is_on_the_card_and_decides_what_a_call_is(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = families.get("mbv3_mini", resolutions=SIZES[:1]).space
    prior = tmp_path / "prior.npz"
    Additive(table(space)).save(prior)
    out = tmp_path / "found"
    of = ["mbv3_mini", "--weights", weights, "--data", "digits", "--out", out]
    given: list[Any] = []
    fit = evidences.collecting.fit_accuracy

    def fitted(*args: Any, **more: Any) -> Any:
        given.append(more["prior"])
        return fit(*args, **more)

    monkeypatch.setattr(evidences.collecting, "fit_accuracy", fitted)
    asked = ["specialize", *of, "--max-macs", "0.4M", "--samples", 10, "--images", 60]
    (row,) = run(*asked, "--prior", prior)["networks"]
    assert given
    assert all(hint is not None for hint in given)
    assert re.fullmatch(r"prior\.npz [0-9a-f]{16}", row["prior"])
    assert row["prior"] in (Path(row["folder"]) / "card.md").read_text()
    assert json.loads((Path(row["folder"]) / "card.json").read_text())["prior"] == row["prior"]
    with pytest.raises(InputError, match="holds no network of prior none; name another"):
        run(*asked)
    given.clear()
    done = CliRunner().invoke(
        app, [str(x) for x in ("records", "accuracy", *of, "--samples", 60, "--prior", prior)]
    )
    assert done.exit_code == 0, done.output
    assert given
    assert all(hint is not None for hint in given)
    (fit_line,) = (x for x in done.output.splitlines() if "onceforall fit accuracy" in x)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(fit_line[fit_line.index("fit accuracy") :])
    assert words[words.index("--prior") + 1] == str(prior)
    assert run(*words)["n"] == 60
    with pytest.raises(InputError, match=r"--all: .* --prior has no use"):
        run("records", "accuracy", *of, "--samples", 12, "--prior", prior, "--all")


def test_between_known_resolutions_it_is_linear() -> None:
    """By hand: a table of resolution squared, known at 16 and 24."""
    space = families.get("mbv3_mini").space
    known = Additive(table(space.at((16, 24))))
    asked = space.at((12, 16, 18, 24, 28))
    found = Between(known, asked)
    population = asked.encode([asked.smallest().at(size) for size in asked.resolution])
    prediction = found.predict(population)
    assert prediction.mean == pytest.approx([256, 256, 256 + (576 - 256) / 4, 576, 576])
    assert prediction.extrapolates.tolist() == [True, False, False, False, True]
    again = found.on(asked.at((18, 20)))
    assert again.predict(population[2:3] * 0).mean == pytest.approx([256 + (576 - 256) / 4])


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "family"),
    [("acc_predictor.pth", "ofa_mbv3_w1.2"), ("ofa_resnet50_acc_predictor.pth", "ofa_resnet50")],
)
def test_the_authors_predictor_is_a_prior_at_any_resolution(
    data_dir: Path, file: str, family: str
) -> None:
    """Against their own network at the resolutions that it has inputs for."""
    path, space = data_dir / "predictors" / file, families.get(family).space
    prior = predictors.load_prior(path, space)
    net = read_accuracy_net(path, space.at((160, 176)))
    population = space.sample(np.random.default_rng(0), 50)
    for size, share in ((160, 0.0), (164, 0.25), (168, 0.5), (176, 1.0)):
        population[:, 0] = space.resolution.index(size)
        low, high = population.copy(), population.copy()
        low[:, 0], high[:, 0] = 0, 1
        wanted = (1 - share) * net(low) + share * net(high)
        assert prior.predict(population).mean == pytest.approx(wanted, abs=1e-9)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "family"),
    [
        ("acc_predictor.pth", "ofa_resnet50"),
        ("acc_predictor.pth", "mbv3_mini"),
        ("ofa_resnet50_acc_predictor.pth", "ofa_mbv3_w1.2"),
    ],
)
def test_where_the_family_does_not_fit_it_is_refused(
    data_dir: Path, file: str, family: str
) -> None:
    with pytest.raises(InputError, match=r"the authors' predictor .*") as caught:
        predictors.load_prior(data_dir / "predictors" / file, families.get(family).space)
    assert "\n" not in str(caught.value)
