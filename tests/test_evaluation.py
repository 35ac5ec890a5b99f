"""Top-1 and top-5 by hand."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from onceforall import families
from onceforall.cli import app
from onceforall.cli.nets import labelled
from onceforall.data import FileImages
from onceforall.errors import InputError
from onceforall.supernet import evaluate, save_network


def test_counts_by_hand() -> None:
    logits = torch.eye(7)[[0, 1, 2, 3]] + torch.arange(7.0) / 100  # row i ranks i, 6, 5, 4, 3
    labels = torch.tensor([0, 5, 0, 3])  # first; third; not among five; first
    found = evaluate(lambda x: logits[: len(x)], [(torch.zeros((4, 1)), labels)])
    assert (found.value, found.values, found.n) == (50.0, {"top1": 50.0, "top5": 75.0}, 4)
    assert found.stderr == 25.0  # 100 sqrt(0.5 * 0.5 / 4)


def test_few_classes_and_no_images() -> None:
    found = evaluate(lambda x: torch.eye(2), [(torch.zeros((2, 1)), torch.tensor([0, 0]))])
    assert found.values == {"top1": 50.0, "top5": 100.0}
    none = evaluate(lambda x: x, [])
    assert none.n == 0
    assert math.isnan(none.value)
    assert none + found == found + none == found


def test_a_folder_of_validation_images_is_taken_whole(tmp_path: Path) -> None:
    """As ImageNet's is laid out: nothing but `val`; class folders themselves; `train` beside it."""
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (30, 30), (i, 0, 0)).save(tmp_path / "val" / name / f"{i}.png")
    for folder in (tmp_path, tmp_path / "val"):
        found = labelled(str(folder), "test", 3, None, 0)
        assert (len(found.images), found.classes) == (10, ("cat", "dog"))
        assert found.unlabelled is None
    (tmp_path / "birds").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "birds" / "1.png")
    assert labelled(str(tmp_path), "test", 3, None, 0).classes == ("birds", "val")


def test_what_is_scored_is_not_calibrated_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (30, 30)).save(tmp_path / "images" / name / f"{i}.png")
    folder = str(tmp_path / "images")
    found = labelled(folder, "test", 3, None, 0, calibrate=4)
    scored, drawn = found.images, found.unlabelled
    assert isinstance(scored, FileImages)
    assert isinstance(drawn, FileImages)
    assert (len(scored), len(drawn)) == (6, 4)
    assert not set(scored.paths) & set(drawn.paths)
    with pytest.raises(InputError, match=r"--calibrate: 10 of the 10 images .* --calibrate-data"):
        labelled(folder, "test", 3, None, 0, calibrate=10)
    for same in (folder, str(tmp_path)):  # also by way of the folder above
        with pytest.raises(InputError, match=r"--calibrate-data: 10 images of .* are scored; name"):
            labelled(folder, "test", 3, None, 0, 4, same)
    (tmp_path / "others").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "others" / "1.png")
    found = labelled(folder, "test", 3, None, 0, 10, str(tmp_path / "others"))
    assert len(found.images) == 10
    assert found.unlabelled is not None
    assert len(found.unlabelled) == 1


def test_the_unreadable_are_a_share_of_what_was_looked_at(tmp_path: Path) -> None:
    """Not of all the images there are, of which `--limit` leaves most alone."""
    family = families.get("mbv3_mini", classes=2, in_channels=3)
    network = family.build(family.space.smallest())
    save_network(tmp_path / "net", network, family, family.space.smallest(), {})
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (30, 30)).save(tmp_path / "images" / name / f"{i:02}.png")
    for i in (1, 2):
        (tmp_path / "images" / "cat" / f"{i:02}.png").write_bytes(b"no image")

    def evaluated(*options: str) -> tuple[int, str]:
        command = ["evaluate", str(tmp_path / "net"), "--data", str(tmp_path / "images")]
        found = CliRunner().invoke(app, [*command, "--on", "cpu", "--workers", "0", *options])
        return found.exit_code, str(found.exception or found.stdout)

    assert evaluated("--limit", "10")[1].startswith("--data: 2 of 10 images cannot be read (")
    status, shown = evaluated("--limit", "10", "--max-unreadable", "0.2")
    assert (status, "on 8 images" in shown) == (0, True)
    assert evaluated("--max-unreadable", "0.05")[0] == 0
    for i in range(20):
        (tmp_path / "images" / "cat" / f"{i:02}.png").write_bytes(b"no image")
    none = evaluated("--limit", "10", "--max-unreadable", "1")[1]
    assert none.startswith("--data: none of 10 images can be read")
    others = tmp_path / "others"
    others.mkdir()
    for i in range(3):
        (others / f"{i}.png").write_bytes(b"no image")
    few = evaluated("--max-unreadable", "1", "--calibrate", "3", "--calibrate-data", str(others))
    assert few[1] == "calibration: of 3 images, fewer than 2 can be read"
    assert "needs --calibrate" in evaluated("--calibrate-data", str(others))[1]
