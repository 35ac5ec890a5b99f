"""Top-1 and top-5 by hand."""

from pathlib import Path

import torch
from PIL import Image

from onceforall.cli.nets import labelled
from onceforall.evaluation import evaluate


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
        Image.new("RGB", (30, 30)).save(tmp_path / "val" / name / "1.png")
    for folder in (tmp_path, tmp_path / "val"):
        images, others, classes = labelled(str(folder), "test", 3, 28, None, 0)
        assert (len(images), classes) == (2, ("cat", "dog"))
        assert images is others
    (tmp_path / "birds").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "birds" / "1.png")
    _, _, classes = labelled(str(tmp_path), "test", 3, 28, None, 0)
    assert classes == ("birds", "val")
