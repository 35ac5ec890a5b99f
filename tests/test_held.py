"""Photos held as bytes: the same parts of the same images as from files, in distribution."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms.v2 import functional as tf

from onceforall import data
from onceforall.data import FileImages, HeldImages, MemoryImages, Normalisation, Request, Source
from onceforall.data import free as freeing
from onceforall.data import held as holding
from onceforall.data.augmentation import Augmentation, parse
from onceforall.data.batches import is_on, put
from onceforall.data.boxes import Boxes, resampled_singly, resampled_together, sampled
from onceforall.data.decoding import _random_area, reduced
from onceforall.data.reading import loaded
from onceforall.errors import InputError

PLAIN = Normalisation((0.0,) * 3, (1.0,) * 3)


def photos(root: Path, n: int = 6, least: int = 100) -> list[Path]:
    """Smooth pictures of many sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
        size = (least + 40 * (i % 3), least + 25 * (i % 2))
        paths.append(root / f"{i}.png")
        coarse.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def files_of(root: Path, augmentation: str = "crop+flip", **settings: object) -> FileImages:
    paths = photos(root)
    return FileImages(paths, list(range(len(paths))), PLAIN, 3, augmentation, **settings)  # type: ignore[arg-type]


def flat_of(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bytes of the images one after the other and room behind them, offsets, sizes."""
    images = [np.asarray(Image.open(path)).transpose(2, 0, 1).copy() for path in paths]
    size = torch.tensor([image.shape[1:] for image in images])
    flat = torch.cat([*(torch.from_numpy(i).flatten() for i in images), torch.zeros(400).byte()])
    lengths = 3 * size.prod(1)
    return flat, lengths.cumsum(0) - lengths, size


@pytest.mark.parametrize("resolution", [40, 96, 150])
def test_parts_are_resampled_as_torchvision_does(resolution: int, tmp_path: Path) -> None:
    """Both ways, of boxes anywhere, made smaller and larger."""
    paths = photos(tmp_path)
    flat, offsets, size = flat_of(paths)
    boxes = sampled(size, parse("crop"), torch.Generator().manual_seed(3))
    singly = resampled_singly(3, flat, offsets, size, boxes, resolution)
    together = resampled_together(3, flat, offsets, size, boxes, resolution)
    for i, path in enumerate(paths):
        top, left = boxes.start[i].tolist()
        height, width = boxes.size[i].tolist()
        expected = tf.pil_to_tensor(
            tf.resized_crop(Image.open(path), top, left, height, width, [resolution] * 2)
        ).int()
        for found in (singly, together):
            assert (found[i].int() - expected).abs().max() <= 1, (i, resolution)


def test_shifts_are_black_at_the_edges_as_in_files(tmp_path: Path) -> None:
    paths = photos(tmp_path, 3)
    flat, offsets, size = flat_of(paths)
    short = size.amin(1, keepdim=True).expand(-1, 2)
    moved = torch.tensor([[5, -7], [-3, 0], [0, 6]])
    boxes = Boxes(((size - short) / 2).round().long(), short, moved)
    for found in (
        resampled_singly(3, flat, offsets, size, boxes, 64),
        resampled_together(3, flat, offsets, size, boxes, 64),
    ):
        for i, path in enumerate(paths):
            side = int(short[i, 0])
            square = tf.pad(tf.center_crop(Image.open(path), [side, side]), [7] * 4)
            top, left = (7 + v for v in moved[i].tolist())
            expected = tf.resized_crop(square, top, left, side, side, [64, 64])
            assert (found[i].int() - tf.pil_to_tensor(expected).int()).abs().max() <= 1
    drawn = sampled(size.repeat(500, 1), parse("shift"), torch.Generator().manual_seed(0)).moved
    for axis in (0, 1):
        assert drawn[::3, axis].unique().tolist() == list(range(-7, 8))  # 100 // 14 either way


@pytest.mark.parametrize("shape", [(120, 160), (40, 400)])
def test_random_parts_are_those_of_files(shape: tuple[int, int]) -> None:
    """Areas, aspect ratios and places, of 3,000 drawn either way; also where few tries fit."""
    rng = random.Random(0)
    expected = np.array([_random_area(*shape, rng) for _ in range(3000)])
    size = torch.tensor([shape]).repeat(3000, 1)
    boxes = sampled(size, Augmentation(crop=True), torch.Generator().manual_seed(0))
    found = torch.cat([boxes.start, boxes.size], 1).numpy()
    assert (found >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= np.array(shape)).all()
    for measure in (
        lambda x: x[:, 2] * x[:, 3],
        lambda x: x[:, 3] / x[:, 2],
        lambda x: x[:, 0],
        lambda x: x[:, 1],
    ):
        assert stats.ks_2samp(measure(found), measure(expected)).pvalue > 1e-3


def test_held_photos_train_as_files_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = files_of(tmp_path, "none")
    held = files.prepared(96)
    assert isinstance(held, HeldImages)
    assert held.is_held
    assert "6 images are held in memory (cpu) at 110 pixels: 0.0 GB" in capsys.readouterr().err
    # not augmented, a view is the centre square: the files' but for what is resized before it
    ((x, y),) = held.stream([Request([4, 0, 2], 96, seed=1)])
    ((u, v),) = files.stream([Request([4, 0, 2], 96, seed=1)])
    assert y.tolist() == v.tolist() == [4, 0, 2]
    assert (x - u).abs().mean() < 0.02
    # evaluated from the files, bit for bit
    ((x, _),) = held.stream([Request([4, 0, 2], 96)])
    ((u, _),) = files.stream([Request([4, 0, 2], 96)])
    assert torch.equal(x, u)


def test_held_photos_are_a_function_of_the_seed(tmp_path: Path) -> None:
    text = "crop+flip+color+randaugment+erase:0.5"
    requests = [Request([4, 0, 2], 96, 1), Request([1, 1], 80, 2), Request([4, 0, 2], 96, 3)]
    batches = [
        [x for x, _ in files_of(tmp_path, text, workers=n).prepared(96).stream(requests)]
        for n in (0, 2)
    ]
    for x, y in zip(*batches, strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(batches[0][0], batches[0][2])
    later = files_of(tmp_path, text).prepared(96).stream(requests[1:])
    assert torch.equal(next(later)[0], batches[0][1])
    assert not torch.equal(batches[0][1][0], batches[0][1][1])  # each image on its own


def test_workers_resample_for_a_gpu_as_this_process_would(tmp_path: Path) -> None:
    held = files_of(tmp_path, workers=2).prepared(96)
    assert isinstance(held, HeldImages)
    requests = [Request([4, 0, 2], 96, 1), Request([1, 1], 80, 2)]
    keys = ([request] for request in requests)
    found = list(loaded(held.files, holding._Batches(held), keys, holding._alone))
    for (x, rows, seed), (u, expected, drawn) in zip(found, held._bytes(requests), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(rows, expected)
        assert seed == drawn


def test_a_tensor_is_put_where_it_is_not_yet() -> None:
    x = torch.zeros(1)
    assert is_on(x, None)
    assert is_on(x, torch.device("cpu"))
    assert not is_on(x, torch.device("cuda"))
    meta = torch.zeros(1, device="meta")
    assert is_on(meta, torch.device("meta"))
    assert not is_on(meta, torch.device("cpu"))
    assert put(x, torch.device("meta")).device.type == "meta"


def test_held_where_they_fit_and_are_not_much_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of(tmp_path)
    needed = 3 * sum(np.prod(reduced(Image.open(p), 110).size) for p in files.paths)
    monkeypatch.setattr(holding, "free_bytes", lambda *a: int(4.1 * needed))
    assert files.prepared(96).is_held
    monkeypatch.setattr(holding, "free_bytes", lambda *a: int(3.9 * needed))
    read = files.prepared(96)
    assert isinstance(read, FileImages)
    assert "read by 0 workers as they are asked for: 0.0 GB are more" in capsys.readouterr().err
    assert files.prepared(96, held=True).is_held  # as it was decided before
    monkeypatch.setattr(holding, "free_bytes", lambda *a: needed // 2)
    files.hold = "always"
    with pytest.raises(InputError, match=r"data: hold: 6 images at 110 pixels take .* are free"):
        files.prepared(96)
    monkeypatch.undo()
    assert files.prepared(96).is_held
    assert not files.prepared(96, held=False).is_held
    files.hold = "never"
    assert not files.prepared(96).is_held
    files.hold = "auto"
    assert not files.prepared(40).is_held  # 100 pixels and more, to be held at 46
    assert "more than twice the 46 they would be held at" in capsys.readouterr().err
    assert files.prepared(48).is_held
    files.hold = "some"
    with pytest.raises(InputError, match="hold: 'some'; there are auto, always, never"):
        files.prepared(48)


def test_a_damaged_photo_is_stood_for_by_the_next(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    for i in (2, 5):
        (tmp_path / f"{i}.png").write_bytes(b"\x89PNG")
    held = files.prepared(96)
    ((x, y),) = held.stream([Request([1, 2, 3, 5], 96, seed=0)])
    assert y.tolist() == [1, 3, 3, 0]
    ((_, v),) = files.stream([Request([1, 2, 3, 5], 96, seed=0)])
    assert y.tolist() == v.tolist()
    assert [p.name for p in held.unreadable] == ["2.png", "5.png"]
    assert len(x) == 4
    files.most_unreadable = 1
    with pytest.raises(InputError, match="2 images cannot be read so far"):
        files.prepared(96)


def test_a_part_for_each_process_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeing, "_of_machine", lambda: 800)
    monkeypatch.setattr(freeing, "_of_group", lambda: 1000)
    assert freeing.free_bytes() == 800
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert freeing.free_bytes() == 200
    monkeypatch.setattr(freeing, "_of_group", lambda: 400)
    assert freeing.free_bytes() == 100
    monkeypatch.undo()
    free = freeing.free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_a_setting_says_so(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        for _ in photos(tmp_path / part, 8):
            pass
    found = data.load(Source(str(tmp_path), workers=0, hold="never"))
    assert not found.train.prepared(96).is_held  # type: ignore[attr-defined]
    found = data.load(Source(str(tmp_path), workers=0))
    assert isinstance(found.train.prepared(96), HeldImages)
    digits = data.load(Source("digits")).train
    assert digits.prepared(48) is digits


def test_labels_of_any_shape_pass_through(tmp_path: Path) -> None:
    masks = torch.arange(6 * 4).view(6, 2, 2)
    pixels = torch.zeros((6, 3, 8, 8), dtype=torch.uint8)
    files = FileImages(photos(tmp_path), masks, PLAIN)
    for images in (MemoryImages(pixels, masks, PLAIN), files, files.prepared(90)):
        for seed in (None, 1):
            ((_, y),) = images.stream([Request([5, 1], 8, seed)])
            assert torch.equal(y, masks[[5, 1]])
    assert torch.equal(files.subset([3, 0]).labels, masks[[3, 0]])
    real = torch.rand(6)
    assert MemoryImages(pixels, real, PLAIN).subset([2]).labels.tolist() == [real[2]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    gpu = torch.device("cuda")
    text = "crop+flip+color+erase:0.5"
    request = [Request([4, 0, 2, 2], 96, 1)]
    files = files_of(tmp_path, text)
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    small = MemoryImages(pixels, [0] * 6, PLAIN, "shift+flip+color+erase:0.5")
    for images in (files, small):
        ((x, _),) = images.prepared(96).stream(request)
        ((u, y),) = images.prepared(96, gpu).stream(request)
        assert u.device.type == y.device.type == "cuda"
        assert (x - u.cpu()).abs().max() < 2 / 255
