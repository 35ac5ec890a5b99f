"""Data sets of Hugging Face's library: a small one that it makes here."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onceforall import data
from onceforall.data import FileImages, Request, Source
from onceforall.errors import InputError


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"data: hf:a/b needs .*: pip install 'onceforall\[hf\]'"):
        data.load(Source("hf:a/b"))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="needs Hugging Face's datasets")


def pictures(n: int, size: int = 80) -> list[dict[str, bytes | None]]:
    found: list[dict[str, bytes | None]] = []
    for i in range(n):
        rng = np.random.default_rng(i)
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (size, size + 8, 3), dtype=np.uint8)).save(out, "png")
        found.append({"bytes": out.getvalue(), "path": None})
    return found


def table(library: Any, n: int) -> Any:
    values = {"image": pictures(n), "label": [i % 2 for i in range(n)]}
    kinds = {"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])}
    return library.Dataset.from_dict(values, library.Features(kinds))


def test_a_saved_data_set_is_read_as_files_are(library: Any, tmp_path: Path) -> None:
    whole = table(library, 40)
    parts = {"train": whole, "validation": table(library, 6), "test": table(library, 4)}
    library.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    found = data.load(Source(str(tmp_path / "parts"), workers=0))
    assert isinstance(found.train, FileImages)
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.validation), len(found.test)) == (40, 6, 4)
    (tmp_path / "3.png").write_bytes(pictures(4)[3]["bytes"] or b"")
    alone = FileImages([tmp_path / "3.png"], [1], found.normalisation)
    ((x, y),) = found.train.stream([Request([3], 70)])
    ((u, v),) = alone.stream([Request([0], 70)])
    assert torch.equal(x, u)
    assert y.tolist() == v.tolist()
    whole.save_to_disk(tmp_path / "whole")
    split = data.load(Source(str(tmp_path / "whole"), workers=2))
    assert len(split.train) + len(split.validation) + len(split.test) == 40
    images, labels = next(iter(split.train.stream([Request([0, 3, 5], 70, 1)])))
    again = data.load(Source(str(tmp_path / "whole"), workers=0)).train
    ((x, y),) = again.stream([Request([0, 3, 5], 70, 1)])
    assert torch.equal(images, x)
    assert torch.equal(labels, y)
    assert split.train.prepared(70).is_held  # type: ignore[attr-defined]


def test_a_test_set_without_classes_is_no_test_set(library: Any, tmp_path: Path) -> None:
    hidden = library.Dataset.from_dict(
        {"image": pictures(4), "label": [-1] * 4}, table(library, 2).features
    )
    parts = {"train": table(library, 40), "test": hidden}
    library.DatasetDict(parts).save_to_disk(tmp_path / "d")
    found = data.load(Source(str(tmp_path / "d"), workers=0))
    assert len(found.train) + len(found.validation) + len(found.test) == 40


def test_classes_as_texts_and_small_images(library: Any, tmp_path: Path) -> None:
    features = library.Features({"photo": library.Image(), "class": library.Value("string")})
    values = {"photo": pictures(30, 20), "class": [("owl", "bee", "ant")[i % 3] for i in range(30)]}
    library.Dataset.from_dict(values, features).save_to_disk(tmp_path / "d")
    found = data.load(Source(str(tmp_path / "d")))
    assert found.classes == ("ant", "bee", "owl")
    assert isinstance(found.train, data.MemoryImages)
    assert (found.size, found.train.labels.bincount().min() > 0) == (20, True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("text", "label"), "needs a column of images; its columns are text, label"),
        (("image", "other"), "needs a column of classes, such as label; its columns are image, o"),
    ],
)
def test_columns_that_are_missing_are_named(
    library: Any, columns: tuple[str, str], message: str, tmp_path: Path
) -> None:
    first = library.Image() if columns[0] == "image" else library.Value("string")
    features = library.Features({columns[0]: first, columns[1]: library.Value("int64")})
    values = {columns[0]: pictures(4) if columns[0] == "image" else ["a"] * 4, columns[1]: [0] * 4}
    library.Dataset.from_dict(values, features).save_to_disk(tmp_path / "d")
    with pytest.raises(InputError, match=message):
        data.load(Source(str(tmp_path / "d")))


def test_what_cannot_be_loaded_is_one_line(library: Any, tmp_path: Path) -> None:
    table(library, 4).save_to_disk(tmp_path / "d")
    for path in (tmp_path / "d").glob("*.arrow"):
        path.write_bytes(b"x" * 100)
    for name in (str(tmp_path / "d"), "hf:nobody/nothing-of-that-name"):
        with pytest.raises(InputError, match="cannot be loaded: ") as caught:
            data.load(Source(name))
        assert "\n" not in str(caught.value)
    library.DatasetDict({"all": table(library, 4)}).save_to_disk(tmp_path / "all")
    with pytest.raises(InputError, match="has no part called train, but all"):
        data.load(Source(str(tmp_path / "all")))
