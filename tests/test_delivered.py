"""Exported files, used as whoever received them would: evaluated, timed, shown images; and networks
specialised from a supernet that was trained elsewhere, in several precisions."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image

from onceforall import data, families
from onceforall.errors import InputError
from onceforall.export import Opened, export
from onceforall.space import Arch
from onceforall.supernet import SuperNet, calibrated, save_network, save_supernet

SIZE = 16


@pytest.fixture(scope="module")
def digits() -> data.Data:
    return data.load(data.Source("digits"))


@pytest.fixture(scope="module")
def supernet() -> SuperNet:
    family = families.get("mbv3_mini", classes=10, in_channels=1, resolutions=[SIZE, 24])
    return SuperNet(family, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(supernet: SuperNet, digits: data.Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of digits, as its checkpoint and as a file."""
    out = tmp_path_factory.mktemp("network")
    arch = supernet.space.restrict(resolution=(SIZE,)).smallest()
    network = calibrated(supernet, arch, digits)
    facts = {"arch": str(arch), "resolution": SIZE, **digits.facts()}
    export(network, (1, SIZE, SIZE), out / "network.onnx", facts=facts)
    save_network(
        out / "network.safetensors", network, supernet.family, arch, {"data": digits.facts()}
    )
    return out


def test_a_file_scores_as_its_network(folder: Path) -> None:
    scores = [
        run("evaluate", folder / name, "--data", "digits")
        for name in ("network.onnx", "network.safetensors")
    ]
    assert scores[0]["n"] == scores[1]["n"] == 360
    assert scores[0]["top1"] == scores[1]["top1"]
    assert scores[0]["top5"] == scores[1]["top5"]


def test_a_file_is_timed(folder: Path) -> None:
    found = run("measure", folder / "network.onnx", "--rounds", "3")
    assert 0 < found["p10_ms"] <= found["median_ms"] <= found["p90_ms"]
    assert found["bytes"] == (folder / "network.onnx").stat().st_size
    assert found["arch"].startswith("mbv3_mini@16")


def test_images_are_classified_as_pytorch_does(folder: Path, tmp_path: Path) -> None:
    """Against the same pixels through the file's network by hand: grey, 0 to 1, normalised."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    network = Opened(folder / "network.onnx")
    x = (torch.tensor(pixels)[None, None] / 255 - network.fact("mean")[0]) / network.fact("std")[0]
    wanted = torch.softmax(network(x.float()), 1)[0]
    (found,) = run("classify", folder / "network.onnx", tmp_path / "a.png")["images"]
    assert [row["class"] for row in found["classes"]] == [
        network.classes[i] for i in wanted.topk(5).indices
    ]
    assert found["classes"][0]["score"] == pytest.approx(float(wanted.max()), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "network.onnx", "--data", "digits", "--calibrate", "9"], "run as it is"),
        (
            ["evaluate", "network.onnx", "--data", "digits", "--resolution", "24"],
            "of 16 px, not 24",
        ),
        (["measure", "network.onnx", "--resolution", "24"], "of 16 px, not 24"),
        (["measure", "network.onnx", "--device", "torch-cpu"], "torch-cpu opens module, pt2"),
        (["measure", "network.onnx", "--precision", "int8"], "its precision is fp32, not int8"),
        (["classify", "network.onnx", "no.png"], "no.png: no such image"),
        (["classify", "network.onnx", "network.safetensors"], "cannot be read as an image"),
        (["classify", "no.onnx", "no.png"], "no.onnx: no such file"),
        (["classify", "network.safetensors", "network.onnx"], "is no exported file"),
        (["info", "mbv3_mini:smallest", "--profile", "torch-cpu"], "does not tell what layers"),
        (
            ["export", "network.safetensors", "n.onnx", "--precision", "int8"],
            "--calibrate-data: int8 needs training images",
        ),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    assert not (folder / "n.onnx").exists()


def test_devices_say_what_they_are() -> None:
    rows = {row["name"]: row for row in run("devices")["devices"]}
    assert rows["onnxruntime-cpu"]["usable"]
    assert rows["vela"]["estimated"]
    assert all(row["usable"] == (not row["missing"]) for row in rows.values())


def test_where_the_time_goes(folder: Path) -> None:
    found = run("info", folder / "network.onnx", "--profile", "onnxruntime-cpu")
    assert any(row["kind"] == "Conv" for row in found["layers"])
    assert found["total_ms"] == pytest.approx(sum(row["ms"] for row in found["layers"]))


def test_int8_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    found = run(
        "export",
        folder / "network.safetensors",
        tmp_path / "n.onnx",
        "--precision",
        "int8",
        "--calibrate-data",
        "digits",
        "--calibrate",
        "40",
    )
    assert found["precision"] == "int8"
    assert found["bytes"] < (folder / "network.onnx").stat().st_size
    assert found["max_abs_diff"] > 0
    assert 0.5 < found["agreement"] <= 1


def test_from_weights_of_a_supernet_in_two_precisions(
    supernet: SuperNet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a supernet that no run of ours holds: files in both precisions, records kept in the
    folder, and one of the two picked by validation images."""
    save_supernet(tmp_path / "weights.safetensors", supernet, {})
    asked = [
        "specialize",
        "mbv3_mini",
        "--weights",
        tmp_path / "weights.safetensors",
        "--data",
        "digits",
        "--mean",
        "0.5",
        "--std",
        "0.5",
        "--out",
        tmp_path / "out",
        "--max-macs",
        "0.4M",
        "--samples",
        "10",
        "--images",
        "60",
        "--precisions",
        "fp32,int8",
    ]
    rows = run(*asked)["networks"]
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    best = max(row["top1_validation"] for row in rows)
    (picked,) = [row for row in rows if row["picked"]]
    assert picked["top1_validation"] == best
    for row in rows:
        file = Opened(Path(row["folder"]) / row["file"])
        assert row["macs"] <= 400_000
        assert file.form.digest(file.path) == row["file_digest"]
        assert Arch.parse(file.fact("arch")) == Arch.parse(row["arch"])
        assert file.fact("mean") == [0.5]
        card = (file.path.parent / "card.md").read_text()
        assert f"{row['top1_test']:.2f}%" in card
        monkeypatch.chdir(file.path.parent)
        pixels = np.random.default_rng(1).integers(0, 255, [file.resolution] * 2, np.uint8)
        Image.fromarray(pixels).save("IMAGE", "PNG")
        (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
        exec(code, {})  # as a person would paste it
        printed = np.array(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", capsys.readouterr().out), float)
        shown = run("classify", file.path, "IMAGE")["images"][0]["classes"][0]["class"]
        assert file.classes[int(printed.argmax())] == shown
    assert (tmp_path / "out" / "accuracy.jsonl").is_file()
    files = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert run(*asked)["networks"] == rows  # found again
    assert files == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
