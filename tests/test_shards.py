"""Images in .tar files: images, split and order are as in folders; and files that are broken."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onceforall import data
from onceforall.cli.nets import labelled
from onceforall.data import FileImages, MemoryImages, Request, Source, in_order, shards
from onceforall.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONCEFORALL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(i: int, size: int = 80) -> bytes:
    rng = np.random.default_rng(i)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (size, size + 8, 3), dtype=np.uint8)).save(out, "png")
    return out.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def some(root: Path, n: int = 3, each: int = 20, size: int = 80, form: str = "cls") -> Path:
    """n shards of images of three classes."""
    for s in range(n):
        members: dict[str, bytes] = {}
        for i in range(s * each, (s + 1) * each):
            members[f"{i:05}.png"] = picture(i, size)
            label = i % 3
            members[f"{i:05}.{form}"] = (
                str(label).encode() if form == "cls" else json.dumps({"label": label}).encode()
            )
        tar_of(root / f"photos-{s:03}.tar", members)
    return root


def test_shards_are_read_as_files_are(tmp_path: Path) -> None:
    root = some(tmp_path / "shards")
    found = data.load(Source(f"{root}/photos-{{000..002}}.tar", workers=0))
    assert isinstance(found.train, FileImages)
    assert found.classes == ("0", "1", "2")
    assert found.size == 80
    assert len(found.train) + len(found.validation) + len(found.test) == 60
    assert min(len(found.validation), len(found.test)) >= 3
    for row in (0, len(found.train) - 1):
        shard, name = found.train.paths[row].parent, found.train.paths[row].name
        i = int(name.split(".")[0])
        assert shard.name == f"photos-{i // 20:03}.tar"
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture(i))
        alone = FileImages([folder / name], [i % 3], found.normalisation, 3, "crop+flip")
        for seed in (None, 3):
            ((x, y),) = found.train.stream([Request([row], 70, seed)])
            if seed is None:
                ((u, v),) = alone.stream([Request([0], 70)])
                assert torch.equal(x, u)
                assert y.tolist() == v.tolist() == [i % 3]
    again = data.load(Source(str(root), workers=2))
    assert again.contents == found.contents
    requests = [Request([3, 1, 7], 70, 1), Request([2, 0], 66, 2)]
    for (x, y), (u, v) in zip(
        found.train.stream(requests), again.train.stream(requests), strict=True
    ):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert data.size_of(Source(str(root))) == 80


def test_a_sample_more_moves_no_other(tmp_path: Path) -> None:
    def parts(root: Path) -> dict[str, str]:
        found = data.load(Source(str(root), workers=0))
        return {
            str(path.relative_to(root)): part
            for part in ("train", "validation", "test")
            for path in getattr(found, part).paths
        }

    root = some(tmp_path / "s", each=60, n=2)
    before = parts(root)
    tar_of(root / "added.tar", {"x.png": picture(1), "x.cls": b"1"})
    after = parts(root)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"added.tar/x.png"}


def test_parts_names_of_classes_and_json(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for part in ("train", "val", "test"):
        some(root / part, n=1, form="json")
    (root / "classes.txt").write_text("cat\ndog\nfox\nowl\n")
    found = data.load(Source(str(root), workers=0))
    assert found.classes == ("cat", "dog", "fox", "owl")
    assert (len(found.train), len(found.validation), len(found.test)) == (20, 20, 20)
    assert found.train.labels.tolist() == [i % 3 for i in range(20)]
    tar_of(root / "train" / "b.tar", {"x.png": picture(1), "x.cls": b"owl\n"})
    found = data.load(Source(str(root), workers=0))
    assert found.train.labels.tolist() == [3, *(i % 3 for i in range(20))]
    tar_of(root / "train" / "b.tar", {"x.png": picture(1), "x.cls": b"4"})
    with pytest.raises(InputError, match=r"b.tar/x.png: label '4' is no class of .*classes.txt"):
        data.load(Source(str(root), workers=0))


def test_small_images_are_held(tmp_path: Path) -> None:
    found = data.load(Source(str(some(tmp_path / "s", size=20)), workers=0))
    assert isinstance(found.train, MemoryImages)
    assert found.train.augmentation == "shift+flip"


def test_looked_into_once_and_again_when_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = some(tmp_path / "s", n=1)
    shard = root / "photos-000.tar"
    looked: list[Path] = []
    real = shards._scan
    monkeypatch.setattr(shards, "_scan", lambda path: looked.append(path) or real(path))
    first = shards.index_of(shard)
    second = shards.index_of(shard)
    assert looked == [shard]
    assert np.array_equal(first.places, second.places)
    assert [second.names[i] for i in range(20)] == [f"{i:05}.png" for i in range(20)]
    os.utime(shard, ns=(1, 1))
    shards.index_of(shard)
    assert len(looked) == 2
    (entry,) = (cache / "shards").iterdir()
    for content in (b"", b"PK\x03\x04 no zip", pickle.dumps([1])):
        entry.write_bytes(content)  # damaged, or not ours
        assert np.array_equal(shards.index_of(shard).places, first.places)
    assert len(looked) == 5
    monkeypatch.setenv("ONCEFORALL_CACHE", "/proc/none")
    assert np.array_equal(shards.index_of(shard).places, first.places)


def test_other_members_are_left_alone(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "harmed"),)

    members = {}
    for i in range(12):
        members |= {
            f"a/{i}.PNG": picture(i),
            f"a/{i}.cls": str(i % 2).encode(),
            f"a/{i}.pyd": pickle.dumps(Harmful()),
            f"a/{i}.pickle": pickle.dumps(Harmful()),
            f"a/{i}.seg.png": picture(90),
            f"../../{i}.txt": b"x",
        }
    found = data.load(Source(str(tar_of(tmp_path / "s" / "a.tar", members)), workers=0))
    assert len(found.train) + len(found.validation) + len(found.test) == 12
    assert all(path.suffix == ".PNG" for path in found.train.paths)
    next(iter(found.train.stream(in_order(2, 2, 70))))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "s"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "no images in it"),
        ({"a.txt": b"x"}, "no images in it"),
        ({"a.png": b"x"}, r"a.png: no label; a.cls or a.json is expected"),
        ({"a.png": b"x", "a.json": b"{}"}, "a.png: no label"),
        ({"a.png": b"x", "a.json": b"{"}, "a.json: no label"),
        ({"a.png": b"x", "a.json": b'{"label": 1.5}'}, "a.json: no label: 1.5 is no class"),
        ({"a.png": b"x", "a.json": b"[" * 100_000}, "a.json: no label"),
        ({"a.png": b"x", "a.cls": b""}, "a.cls: empty"),
        ({"a.png": b"x", "a.cls": b"\xff"}, "a.cls: no label"),
        ({"a.png": b"x", "a.cls": b"0" * (2**20 + 1)}, "a.cls: 1,048,577 bytes are no label"),
        ({"a.png": b"x", "a.jpg": b"x", "a.cls": b"0"}, "sample a has two images"),
    ],
)
def test_shards_that_are_not_as_expected(
    members: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "s.tar", members)
    with pytest.raises(InputError, match=message) as caught:
        data.load(Source(str(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_shards_are_named(tmp_path: Path) -> None:
    root = some(tmp_path / "s")
    shard = root / "photos-001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        header = tar.getmembers()[4].offset
    damages = (
        b"",
        whole[:700],
        whole[: header + 100],
        whole[:header] + b"x" * 600 + whole[header:],
    )
    for content in (*damages, b"no tar at all" * 100):
        shard.write_bytes(content)
        with pytest.raises(InputError, match=f"{shard}: .*(damaged|no images in it)"):
            data.load(Source(str(root)))
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard}: no such file, one of 3 of data.name="):
        data.load(Source(f"{root}/photos-{{000..002}}.tar"))
    with pytest.raises(InputError, match=r"\{002..001\} is not a range"):
        data.load(Source(f"{root}/photos-{{002..001}}.tar"))
    with pytest.raises(InputError, match="one class only"):
        data.load(Source(str(tar_of(tmp_path / "o.tar", {"a.png": picture(0), "a.cls": b"0"}))))


def test_damaged_images_are_left_out_and_named(tmp_path: Path) -> None:
    root = some(tmp_path / "s")
    found = data.load(Source(str(root), workers=0, unreadable=1.0))
    assert isinstance(found.train, FileImages)
    row = 5
    shard, name = found.train.paths[row].parent, found.train.paths[row].name
    with tarfile.open(shard) as tar:
        place = tar.getmember(name).offset_data
    content = bytearray(shard.read_bytes())
    content[place : place + 8] = b"\0" * 8
    shard.write_bytes(content)
    batches = list(found.train.stream(in_order(10, 10, 70)))
    assert len(batches[0][1]) == 9
    assert found.train.unreadable == [shard / name]
    shard.write_bytes(content[:place])  # cut off while training goes on
    ((x, _),) = found.train.stream([Request([row], 70, 1)])
    assert len(x) == 1


def test_a_network_is_evaluated_on_a_folder_of_shards(tmp_path: Path) -> None:
    """As on any data with splits; the images to calibrate on are those for training."""
    root = some(tmp_path / "shards", n=2, each=30)
    found = labelled(str(root), "test", 3, None, 0, calibrate=4)
    whole = data.load(Source(str(root)))
    assert len(found.images) == len(whole.test)
    assert found.unlabelled is not None
    assert len(found.unlabelled) == len(whole.train)
    assert found.classes == whole.classes
