"""Data sets and images: splits, transforms, augmentation, and files that are broken."""

import gzip
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from onceforall import data
from onceforall.data import (
    FileImages,
    MemoryImages,
    Normalisation,
    Request,
    Source,
    in_order,
    list_folder,
    reading,
)
from onceforall.data import files as reading_files
from onceforall.data.augmentation import parse
from onceforall.data.decoding import augmented, center, open_image
from onceforall.errors import InputError

PLAIN = Normalisation((0.0,), (1.0,))


def folder_of(root: Path, classes: int = 3, images: int = 12, size: int = 20) -> Path:
    """An ImageFolder tree of random pictures."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(images):
            pixels = rng.integers(0, 255, (size, size + 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{c}" / f"{i}.png")
    return root


def test_digits_are_split_without_overlap() -> None:
    found = data.load(Source("digits"))
    assert (found.channels, found.size, len(found.classes)) == (1, 8, 10)
    assert len(found.train) + len(found.validation) + len(found.test) == 1797
    assert isinstance(found.train, MemoryImages)
    again = data.load(Source("digits"))
    assert isinstance(again.train, MemoryImages)
    assert torch.equal(found.train.pixels, again.train.pixels)


def test_normalisation_is_measured() -> None:
    found = data.load(Source("digits"))
    train = found.train
    assert isinstance(train, MemoryImages)
    values = train.pixels.double() / 255
    assert found.normalisation.mean[0] == pytest.approx(float(values.mean()), abs=0.01)
    assert found.normalisation.std[0] == pytest.approx(float(values.std()), abs=0.01)


def test_memory_images_by_hand() -> None:
    pixels = torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4)
    images = MemoryImages(pixels, [5, 7], Normalisation((0.5,), (0.25,)))
    ((x, y),) = images.stream([Request([1], 4)])
    assert torch.allclose(x, (pixels[1:].float() / 255 - 0.5) / 0.25)
    assert y.tolist() == [7]
    ((x, _),) = images.stream([Request([0], 2)])
    assert x.shape == (1, 1, 2, 2)


def test_shift_moves_and_flip_mirrors() -> None:
    pixels = torch.zeros((256, 1, 14, 14), dtype=torch.uint8)
    pixels[:, :, 5, 3] = 255
    images = MemoryImages(pixels, [0] * 256, PLAIN, "shift+flip")
    ((x, _),) = images.stream([Request(range(256), 14, seed=1)])
    places = {tuple(p) for p in (x[:, 0] > 0.5).nonzero()[:, 1:].tolist()}
    # one pixel up or down, left or right; and the mirror image of that
    assert places == {(r, c) for r in (4, 5, 6) for c in (2, 3, 4, 9, 10, 11)}
    ((again, _),) = images.stream([Request(range(256), 14, seed=1)])
    assert torch.equal(x, again)


def test_file_images_are_torchvisions_usual_transform(tmp_path: Path) -> None:
    from torchvision import transforms

    path = folder_of(tmp_path, 1, 1, size=150) / "class0" / "0.png"
    usual = transforms.Compose(
        [transforms.Resize(110), transforms.CenterCrop(96), transforms.ToTensor()]
    )
    expected = usual(Image.open(path).convert("RGB"))
    three = Normalisation((0.0,) * 3, (1.0,) * 3)
    ((x, _),) = FileImages([path], [0], three).stream([Request([0], 96)])
    assert torch.equal(x[0], expected)  # 96 / 0.875 = 109.7: 110


def test_small_images_are_held_and_larger_ones_read(tmp_path: Path) -> None:
    folder_of(tmp_path / "small")
    found = data.load(Source(str(tmp_path / "small"), workers=0))
    assert isinstance(found.train, MemoryImages)
    assert (found.size, found.train.pixels.shape[-1]) == (20, 20)
    assert found.train.augmentation == "shift+flip"
    folder_of(tmp_path / "large" / "train", size=80)
    folder_of(tmp_path / "large" / "val", images=2, size=80)
    found = data.load(Source(str(tmp_path / "large"), workers=0, validation=6))
    assert (len(found.test), len(found.validation), len(found.train)) == (6, 6, 30)
    assert isinstance(found.train, FileImages)
    assert (found.size, found.train.augmentation) == (80, "crop+flip")
    ((x, y),) = found.train.stream([Request([0, 1], 80, seed=3)])
    assert x.shape == (2, 3, 80, 80)
    assert y.tolist() == [found.train.labels[i] for i in (0, 1)]


def test_the_size_is_the_median_of_many_files_not_of_the_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for c in ("a", "b"):
        (tmp_path / c).mkdir()
        for i in range(9):
            side = 40 if i == 0 else 100 + i
            pixels = rng.integers(0, 255, (side, side + 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / c / f"{i}.png")
    found = data.load(Source(str(tmp_path), workers=0))
    assert 100 < found.size < 109
    assert isinstance(found.train, FileImages)


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    """Orientation 6: the camera was turned; the top of the picture is its right side as stored."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 20:] = 255  # white right third
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    opened = open_image(tmp_path / "a.png", 3)
    assert opened.size == (20, 30)
    bright = np.asarray(opened).mean((1, 2)) > 127
    # stored columns become rows, the first of them at the top: the white third ends up below
    assert bright.tolist() == [False] * 20 + [True] * 10
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert open_image(tmp_path / "a.jpg", 1).size == (20, 30)


def test_images_of_floating_point_numbers_are_refused(tmp_path: Path) -> None:
    """Converted as they are, those from 0 to 1 would be black."""
    path = tmp_path / "a.tiff"
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(path)
    with pytest.raises(InputError, match=r"a\.tiff: cannot be read .* floating-point numbers"):
        open_image(path, 1)


def test_grey_images_of_16_bits_keep_their_contrast(tmp_path: Path) -> None:
    values = np.array([[0, 256, 25_600, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert np.asarray(open_image(tmp_path / name, 1)).tolist() == [[0, 1, 100, 255]]
        assert np.asarray(open_image(tmp_path / name, 3))[0, 2].tolist() == [100] * 3


def test_whatever_a_decoder_raises_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of damaged TIFF files PIL has been seen to raise a TypeError."""
    path = folder_of(tmp_path, 1, 1) / "class0" / "0.png"

    def fail(*args: Any, **named: Any) -> None:
        raise TypeError("'<' not supported")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(InputError, match=r"0.png: cannot be read as an image: '<' not"):
        open_image(path, 3)


def test_evaluated_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = list_folder(folder_of(tmp_path, size=90))
    images = FileImages(files.paths, files.labels, Normalisation((0.5,) * 3, (0.5,) * 3))
    opened = []
    real = reading.open_image
    monkeypatch.setattr(reading, "open_image", lambda *a: opened.append(a) or real(*a))
    first = list(images.stream(in_order(len(images), 10, 70)))
    again = list(images.stream(in_order(len(images), 10, 70)))
    assert len(opened) == 36
    for (x, y), (u, v) in zip(first, again, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    list(images.stream(in_order(len(images), 10, 66)))
    assert len(opened) == 72
    monkeypatch.setattr(reading_files, "DECODED_BYTES", 36 * 3 * 70 * 70)
    list(images.stream(in_order(len(images), 12, 70)))  # other batches: the older ones go
    list(images.stream(in_order(len(images), 12, 70)))
    assert len(opened) == 108
    list(images.stream(in_order(len(images), 12, 72)))  # more than fits is never kept
    list(images.stream(in_order(len(images), 12, 72)))
    assert len(opened) == 180


def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    files, _ = list_folder(folder_of(tmp_path))
    three = Normalisation((0.5,) * 3, (0.5,) * 3)
    requests = [Request([0, 5, 9], 70, seed=4), Request([1], 66, seed=5)]
    batches = [
        list(FileImages(files.paths, files.labels, three, 3, "crop+flip+color", n).stream(requests))
        for n in (0, 2)
    ]
    for (x, y), (u, v) in zip(*batches, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_unreadable_files_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "images")
    broken = root / "class1" / "3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    listed, _ = list_folder(root)
    three = Normalisation((0.5,) * 3, (0.5,) * 3)
    files = FileImages(listed.paths, listed.labels, three)
    batches = list(files.stream(in_order(len(files), 10, 16)))
    assert sum(len(y) for _, y in batches) == 35
    assert files.unreadable == [broken]
    assert capsys.readouterr().err.count("class1/3.png: cannot be read") == 1
    # in training the next image takes its place, with its own label
    row = listed.paths.index(broken)
    training = FileImages(listed.paths, listed.labels, three)
    ((x, y),) = training.stream([Request([row, row + 1], 16, seed=0)])
    assert y.tolist() == [listed.labels[row + 1]] * 2
    assert torch.equal(x[0], x[1])
    assert training.unreadable == [broken]
    strict = FileImages(listed.paths, listed.labels, three, most_unreadable=0)
    message = r"unreadable: 1 images cannot be read so far \(.*class1/3.png\), and 0 may"
    with pytest.raises(InputError, match=message):
        list(strict.stream([Request(range(36), 16, seed=0)]))
    with pytest.raises(InputError, match=message):
        data.load(Source(str(root)))
    found = data.load(Source(str(root), unreadable=0.05))
    assert len(found.train) + len(found.validation) + len(found.test) == 35
    none = FileImages([broken] * 3, [0, 1, 2], three)
    assert not list(none.stream(in_order(3, 2, 16)))
    with pytest.raises(InputError, match=r"3.png: cannot be read, nor can any other"):
        list(none.stream([Request([0, 1], 16, seed=0)]))


@pytest.mark.parametrize(
    "kind", ["empty", "no-classes", "no-images", "stranger", "one-class", "parts"]
)
def test_bad_folders(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    message = "no class folders"
    if kind == "no-classes":
        (root / "a.png").write_bytes(b"")
    elif kind == "no-images":
        (root / "cat").mkdir()
        message = "cat: no images in it"
    elif kind == "parts":
        folder_of(root / "val", 2)
        folder_of(root / "test", 2)
        message = "test and val are no classes, and train is not there"
    elif kind == "one-class":
        folder_of(root, 1)
        message = "one class only"
    elif kind == "stranger":
        folder_of(root / "train", 2)
        folder_of(root / "val", 3)
        message = "class2: no such class in the training images"
    with pytest.raises(InputError, match=message):
        data.load(Source(str(root)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("no-such-thing"), "neither a folder nor one of cifar10, digits, fashion-mnist"),
        (Source("digits", validation=5000), "validation: 5000 images cannot be cut"),
        (Source("digits", augmentation="mixup"), "augmentation: 'mixup'"),
        (Source("digits", mean=(0.5,)), "mean and std go together"),
        (Source("digits", mean=(0.5,) * 3, std=(1.0,) * 3), "mean: 3 values for 1 channels"),
    ],
)
def test_bad_sources(source: Source, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load(source)


def idx(array: np.ndarray) -> bytes:
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


def test_fashion_mnist_from_a_root_and_damaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 10)):
        images = idx(rng.integers(0, 255, (n, 28, 28)))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 9, n)))
    found = data.load(Source("fashion-mnist", root=str(tmp_path)))
    assert (len(found.train), len(found.validation), len(found.test)) == (36, 4, 10)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for cut in (0, 3, 200, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="train-images"):
            data.load(Source("fashion-mnist", root=str(tmp_path)))
    path.write_bytes(whole)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 9, 39)))
    with pytest.raises(InputError, match="do not belong together"):
        data.load(Source("fashion-mnist", root=str(tmp_path)))


def test_random_crops_cover_little_and_all() -> None:
    import random

    image = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    for seed in range(20):
        assert augmented(image, 24, parse("crop+flip+color"), random.Random(seed)).size == (24, 24)
    assert center(image, 100).size == (100, 100)


MIRRORS = "Error downloading x.gz:\nTried it, got:\n<urlopen error [Errno -2] No such name>\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(MIRRORS), "(No such name)"),
        (URLError(OSError(-2, "No such name")), "(No such name)"),
        (RuntimeError("File not found or corrupted."), "(File not found or corrupted.)"),
        (TimeoutError(), "(TimeoutError)"),
        (EOFError("Compressed file ended\nbefore the end"), "(before the end)"),
    ],
)
@pytest.mark.parametrize(
    ("name", "make", "hint"),
    [
        ("fashion-mnist", "FashionMNIST", "put its four .gz files into"),
        ("cifar10", "CIFAR10", "unpack cifar-10-python.tar.gz there"),
    ],
)
def test_a_failed_download_is_one_line_of_ours(
    name: str,
    make: str,
    hint: str,
    error: Exception,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever the library raises and prints; and it says what to do."""

    def fails(*arguments: Any, **settings: Any) -> None:
        print("Downloading http://a/x.gz")
        print("  0%|      | 0/9", file=sys.stderr)
        raise error

    monkeypatch.setattr(f"torchvision.datasets.{make}", fails)
    monkeypatch.setattr("onceforall.data.named.FASHION_FOLDER", tmp_path / "none")
    monkeypatch.setenv("ONCEFORALL_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        data.load(Source(name))
    message = str(caught.value)
    assert "\n" not in message
    assert f"cannot be downloaded {reason}; {hint}" in message
    assert str(tmp_path / "datasets") in message
    assert not "".join(capfd.readouterr())


def test_no_download_into_a_folder_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"CIFAR-10 is not in {tmp_path}; unpack"):
        data.load(Source("cifar10", root=str(tmp_path)))
    assert not list(tmp_path.iterdir())
