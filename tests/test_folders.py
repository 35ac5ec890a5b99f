"""Folders of images: which part a file is in, and what has changed since."""

import os
from pathlib import Path

import pytest

from onceforall.data import list_folder
from onceforall.data.folders import read_split
from onceforall.data.splits import Split, changed
from onceforall.errors import InputError

PARTS = ("train", "validation", "test")


def touch(root: Path, images: dict[str, int]) -> Path:
    """Empty files; no pixels are looked at here."""
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"photo-{i}.jpg").touch()
    return root


def parts_of(split: Split) -> dict[str, str]:
    """The part of each file by name."""
    return {name: part for part in PARTS for name in getattr(split, part).names()}


def test_a_tenth_of_each_class_but_for_chance(tmp_path: Path) -> None:
    split = read_split(touch(tmp_path, {"cat": 900, "dog": 90, "rare": 4, "two": 2, "one": 1}))
    assert len(parts_of(split)) == 997
    for part, share in (("test", 0.1), ("validation", 0.09)):
        labels = getattr(split, part).labels
        for label, n in ((split.classes.index("cat"), 900), (split.classes.index("dog"), 90)):
            error = (n * share * (1 - share)) ** 0.5
            assert abs(labels.count(label) - n * share) < 4 * error
        assert labels.count(split.classes.index("rare")) >= 1
    assert set(split.train.labels) == set(range(5))  # every class can be trained


@pytest.mark.parametrize("layout", ["plain", "train-only", "train-val"])
def test_a_photo_more_moves_no_other(tmp_path: Path, layout: str) -> None:
    folder = tmp_path if layout == "plain" else tmp_path / "train"
    touch(folder, {"cat": 60, "dog": 40})
    if layout == "train-val":
        touch(tmp_path / "val", {"cat": 5, "dog": 5})
    before = parts_of(read_split(tmp_path))
    assert set(before.values()) == set(PARTS)
    for i in range(200):  # a few at least fall into each part
        (folder / "cat" / f"new-{i}.jpg").touch()
    (folder / "dog" / "photo-7.jpg").unlink()
    now = read_split(tmp_path)
    after = parts_of(now)
    del before["dog/photo-7.jpg"]
    assert {name: after[name] for name in before} == before
    added = [after[f"cat/new-{i}.jpg"] for i in range(200)]
    assert added.count("train") > 100
    assert added.count("validation") > 0


def test_any_name_will_do(tmp_path: Path) -> None:
    """Of a class and of its files: not in UTF-8, with signs that mean something elsewhere."""
    names = [os.fsdecode(b"caf\xe9"), "a=b, [c]", "new\nline"]
    touch(tmp_path, dict.fromkeys(names, 5))
    for name in names:
        (tmp_path / name / f"{name}.jpg").touch()
    files, classes = list_folder(tmp_path)
    assert set(classes) == set(names)
    assert {name: count for name, (count, _) in files.contents(classes).items()} == dict.fromkeys(
        names, 6
    )
    assert len(parts_of(read_split(tmp_path))) == 18


@pytest.mark.parametrize(("images", "lacking"), [(1, "the test"), (2, "validation")])
def test_a_part_without_images_is_refused(tmp_path: Path, images: int, lacking: str) -> None:
    """Every network would score 0% on it."""
    with pytest.raises(InputError, match=f"too few images: none is for {lacking}, "):
        read_split(touch(tmp_path / "few", {"cat": images, "dog": images}))
    split = read_split(touch(tmp_path / "enough", {"cat": 3, "dog": images}))
    assert all(len(getattr(split, part)) for part in PARTS)


def test_hidden_files_are_no_images_of_the_class(tmp_path: Path) -> None:
    touch(tmp_path, {"cat": 3, "cat/old": 1, "cat/.ipynb_checkpoints": 2, ".git": 1, "dog": 2})
    (tmp_path / "dog" / "._photo-0.jpg").touch()
    (tmp_path / "dog" / "PHOTO.JPG").touch()
    files, classes = list_folder(tmp_path)
    assert classes == ("cat", "dog")
    names = [f"cat/{name}.jpg" for name in ("old/photo-0", "photo-0", "photo-1", "photo-2")]
    assert files.names() == [*names, "dog/PHOTO.JPG", "dog/photo-0.jpg", "dog/photo-1.jpg"]


def test_it_is_the_name_that_counts_not_the_place(tmp_path: Path) -> None:
    names = {"cat": 30, "dog": 30}
    first, second = touch(tmp_path / "a", names), touch(tmp_path / "b" / "moved", names)
    assert parts_of(read_split(first)) == parts_of(read_split(second))


def test_ones_own_validation_images_are_taken(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("val", 4), ("test", 3)):
        touch(tmp_path / part, {"cat": count, "dog": count})
    split = read_split(tmp_path)
    assert [len(getattr(split, part)) for part in PARTS] == [40, 8, 6]
    assert split.validation.root == tmp_path / "val"
    with pytest.raises(InputError, match=r"validation: 5 images cannot .*val holds"):
        read_split(tmp_path, validation=5)


def test_an_exact_number_is_shared_among_the_classes(tmp_path: Path) -> None:
    touch(tmp_path / "train", {"cat": 60, "dog": 30, "fox": 10})
    touch(tmp_path / "val", {"cat": 1, "dog": 1, "fox": 1})
    split = read_split(tmp_path, validation=20)
    assert [split.validation.labels.count(c) for c in range(3)] == [12, 6, 2]
    assert len(split.train) == 80
    with pytest.raises(InputError, match="validation: 100 images cannot be cut from 100"):
        read_split(tmp_path, validation=100)


def test_what_changed_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path, {"cat": 30, "dog": 30})
    files, classes = list_folder(root)
    before = {"train": files.contents(classes)}
    assert changed(before, before, PARTS) == ""
    (root / "cat" / "another.png").touch()
    (root / "dog" / "photo-3.jpg").rename(root / "dog" / "renamed.jpg")
    now = {"train": list_folder(root)[0].contents(classes)}
    assert changed(before, now, PARTS) == "train cat: 30 then, 31 now, train dog: other files"
