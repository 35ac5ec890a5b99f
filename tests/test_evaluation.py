"""Top-1 and top-5 by hand."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from onceforall.cli.nets import labelled
from onceforall.errors import InputError
from onceforall.evaluation import evaluate
from onceforall.images import FileImages


def test_counts_by_hand() -> None:
    logits = torch.eye(7)[[0, 1, 2, 3]] + torch.arange(7.0) / 100  # row i ranks i, 6, 5, 4, 3
    labels = torch.tensor([0, 5, 0, 3])  # first; third; not among five; first
    found = evaluate(lambda x: logits[: len(x)], [(torch.zeros((4, 1)), labels)])
    assert (found.top1, found.top5, found.n) == (50.0, 75.0, 4)
    assert 24 < found.top1_stderr < 26


def test_few_classes_and_no_images() -> None:
    found = evaluate(lambda x: torch.eye(2), [(torch.zeros((2, 1)), torch.tensor([0, 0]))])
    assert (found.top1, found.top5) == (50.0, 100.0)
    assert evaluate(lambda x: x, []).n == 0


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
    (tmp_path / "others").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "others" / "1.png")
    found = labelled(folder, "test", 3, None, 0, 10, str(tmp_path / "others"))
    assert len(found.images) == 10
    assert found.unlabelled is not None
    assert len(found.unlabelled) == 1
