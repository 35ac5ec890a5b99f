"""Augmentation: against torchvision's functions and augmentation as it was first written."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tf

from onceforall.data import FileImages, MemoryImages, Normalisation, Request, mix, operations
from onceforall.data.augmentation import Augmentation, coloured, erased, parse
from onceforall.data.decoding import _random_area
from onceforall.errors import InputError

PLAIN = Normalisation((0.0,) * 3, (1.0,) * 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 4, channels: int = 3, height: int = 20, width: int = 26) -> Tensor:
    coarse = torch.rand((n, channels, 5, 6), generator=generator(7))
    return F.interpolate(coarse, (height, width), mode="bilinear").clamp(0, 1)


def test_texts_are_parts_in_any_combination() -> None:
    assert parse("none") == Augmentation()
    assert parse("flip+crop+color") == Augmentation(crop=True, flip=True, color=True)
    assert parse("shift+randaugment+erase") == Augmentation(shift=True, randaugment=9, erase=0.25)
    assert parse("randaugment:4.5+erase:1") == Augmentation(randaugment=4.5, erase=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("blur", "'blur' is none of them"),
        ("crop+", "'' is none of them"),
        ("", "'' is none of them"),
        ("none+flip", "'none' is none of them"),
        ("flip+flip", "'flip' is there twice"),
        ("flip:2", "'flip:2' is none of them"),
        ("crop+shift", "one or the other"),
        ("randaugment:31", "randaugment 31 is not from 0 to 30"),
        ("randaugment:nan", "randaugment nan is not from 0 to 30"),
        ("erase:x", "'x' is not a number"),
    ],
)
def test_texts_that_mean_nothing_are_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=r"crop .or shift., flip, color, randaugment") as caught:
        parse(text)
    assert why in str(caught.value)
    assert repr(text) in str(caught.value)


def first_memory(pixels: Tensor, text: str, request: Request) -> Tensor:
    """Small images as they were augmented before parts could be combined."""
    x = pixels[torch.tensor(request.indices)]
    drawn = generator(request.seed or 0)
    if "shift" in text or "crop" in text:
        n, _, size, _ = x.shape
        reach = max(1, size // 14)
        padded = F.pad(x, (reach,) * 4)
        start = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=drawn)
        moved = [
            padded[i, :, int(r) : int(r) + size, int(c) : int(c) + size]
            for i, (r, c) in enumerate(zip(*start[..., 0], strict=True))
        ]
        x = torch.stack(moved)
    if "flip" in text:
        mirrored = torch.rand(len(x), generator=drawn) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    x = x.float() / 255
    if x.shape[-1] != request.resolution:
        x = F.interpolate(x, (request.resolution,) * 2, mode="bilinear", antialias=True)
    return x


OLD = ("none", "flip", "shift", "shift+flip", "crop+flip", "crop+flip+color")


@pytest.mark.parametrize("text", OLD)
def test_small_images_are_augmented_as_they_were(text: str) -> None:
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=generator())
    images = MemoryImages(pixels, list(range(9)), PLAIN, text)
    for size, seed in ((16, 3), (12, 4)):
        request = Request([8, 1, 1, 5], size, seed)
        ((x, y),) = images.stream([request])
        assert torch.equal(x, first_memory(pixels, text, request))
        assert y.tolist() == [8, 1, 1, 5]


@pytest.mark.parametrize("text", OLD)
def test_files_are_augmented_as_they_were(text: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.png"
    pixels = (255 * pictures(1, 3, 90, 120)[0]).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
    ((x, _),) = FileImages([path], [0], PLAIN, 3, text).stream([Request([0], 70, 5)])
    rng = random.Random((5 * 1_000_003 + 0) % 2**63)
    image = Image.open(path)
    if "flip" in text and rng.random() < 0.5:
        image = tv.hflip(image)
    if "color" in text:
        image = tv.adjust_brightness(image, rng.uniform(1 - 32 / 255, 1 + 32 / 255))
        image = tv.adjust_saturation(image, rng.uniform(0.5, 1.5))
    if "crop" in text:
        box = _random_area(image.height, image.width, rng)
        image = tv.resized_crop(image, *box, [70, 70])
    elif "shift" in text:
        square = tv.pad(tv.center_crop(image, [90, 90]), [6] * 4)
        top, left = rng.randint(0, 12), rng.randint(0, 12)
        image = tv.resized_crop(square, top, left, 90, 90, [70, 70])
    else:
        image = tv.center_crop(tv.resize(image, 70), [70, 70])
    assert torch.equal(x[0], tv.pil_to_tensor(image).float() / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "saturation", "contrast"])
def test_colours_are_torchvisions(name: str, channels: int) -> None:
    x = pictures(4, channels)
    factors = torch.tensor([0.0, 0.4, 1.0, 1.8])
    found = getattr(operations, name)(x, factors)
    for i, factor in enumerate(factors.tolist()):
        expected = getattr(tf, f"adjust_{name}")(x[i], factor)
        assert torch.allclose(found[i], expected, atol=1e-5), (name, factor)


def test_tones_are_torchvisions() -> None:
    x = pictures()
    as_bytes = (255 * x).byte()
    found = operations.posterize(as_bytes / 255, torch.tensor([2.0, 4.0, 7.0, 8.0]))
    for i, bits in enumerate((2, 4, 7, 8)):
        levels = tf.posterize(as_bytes[i], bits) // 2 ** (8 - bits)
        # the same level of so many; torchvision's floor of bytes is at most one level below
        ours = (found[i] * 2**bits).round()
        assert (ours - levels).abs().max() <= 1
        assert (ours == levels).float().mean() > 0.95
    found = operations.solarize(x, torch.tensor([0.0, 0.3, 0.6, 1.0]))
    for i, threshold in enumerate((0.0, 0.3, 0.6, 1.0)):
        assert torch.equal(found[i], tf.solarize(x[i], threshold))
    x[2, 1] = 0.5
    found = operations.autocontrast(x)
    for i in range(4):
        assert torch.allclose(found[i], tf.autocontrast(x[i]), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("rotate", {"angle": -30.0}),
        ("translate_x", {"translate": [-150 / 331, 0]}),
        ("translate_y", {"translate": [0, -150 / 331]}),
    ],
)
@pytest.mark.parametrize("side", [-1, 1])
def test_moves_are_torchvisions(kind: str, arguments: dict, side: int) -> None:
    x = pictures(2)
    number = torch.tensor([operations.NAMES.index(kind)] * 2)
    found = operations.applied(x, number, torch.tensor([0.5 * side] * 2))
    given = {"angle": 0.0, "translate": [0.0, 0.0], "scale": 1.0, "shear": [0.0, 0.0]}
    given |= arguments
    given["angle"] = -given["angle"] * 0.5 * side
    across, down = given["translate"]
    given["translate"] = [-across * 0.5 * side * 26, -down * 0.5 * side * 20]
    # torchvision's result moves to where ours comes from: signs are drawn evenly, so either is it
    options = []
    for sign in (1, -1):
        turned = {**given, "angle": sign * given["angle"]}
        turned["translate"] = [sign * v for v in given["translate"]]
        options.append(tf.affine(x, **turned, interpolation=v2.InterpolationMode.BILINEAR))
    assert min(float((found - o).abs().max()) for o in options) < 1e-4
    assert (found - x).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["shear_x", "shear_y"])
def test_shears_are_torchvisions(kind: str) -> None:
    """About the centre, by a share of the distance from it."""
    x = pictures(1)
    number = torch.tensor([operations.NAMES.index(kind)])
    found = operations.applied(x, number, torch.tensor([0.7]))
    degrees = float(np.degrees(np.arctan(0.3 * 0.7)))
    options = []
    for sign in (1, -1):
        shear = [sign * degrees, 0.0] if kind == "shear_x" else [0.0, sign * degrees]
        options.append(
            tf.affine(x, 0.0, [0, 0], 1.0, shear, interpolation=v2.InterpolationMode.BILINEAR)
        )
    assert min(float((found - o).abs().max()) for o in options) < 1e-4


def test_randaugment_changes_some_images_and_strength_0_few() -> None:
    x = pictures(64)
    found = operations.randaugment(x, 9, generator())
    changed = (found - x).abs().amax((1, 2, 3)) > 1e-4
    assert 40 < int(changed.sum()) <= 64  # both are the identity in 1 of 144
    assert torch.equal(found, operations.randaugment(x, 9, generator()))
    assert not torch.equal(found, operations.randaugment(x, 9, generator(1)))
    assert found.min() >= 0
    assert found.max() <= 1
    still = operations.applied(x, torch.arange(64) % 6, torch.zeros(64))  # moves by nothing
    assert torch.allclose(still, x, atol=1e-5)


def test_erasing_is_torchvisions() -> None:
    x = pictures(3)
    boxes = torch.tensor([[2, 0, 5], [3, 1, 20], [4, 0, 15], [6, 9, 6]])
    fill = torch.tensor([0.1, 0.2, 0.3])
    found = operations.erase(x, boxes, fill)
    for i, (top, left, height, width) in enumerate(boxes.T.tolist()):
        value = fill.view(3, 1, 1).expand(3, height, width)
        expected = tf.erase(x[i], top, left, height, width, value) if height else x[i]
        assert torch.equal(found[i], expected)


def test_erased_areas_are_as_published() -> None:
    x = torch.zeros((4000, 1, 40, 40))
    found = erased(x, 0.5, (1.0,), generator())
    share = found.mean((1, 2, 3))
    hit = share > 0
    assert abs(float(hit.float().mean()) - 0.5) < 4 * (0.25 / 4000) ** 0.5
    assert share[hit].min() > 0.01
    assert share[hit].max() < 0.35
    # uniform from 2 to 33%; the longest are cut off at the image's sides, which takes a little
    assert 0.15 < float(share[hit].mean()) < 0.18


def test_colours_are_drawn_as_for_files() -> None:
    x = torch.full((2000, 1, 1, 1), 0.5)
    factors = coloured(x, generator())[:, 0, 0, 0] / 0.5
    assert abs(float(factors.mean()) - 1) < 4 * (32 / 255) / 3**0.5 / 2000**0.5
    assert factors.min() > 1 - 32 / 255
    assert factors.max() > 1 + 31 / 255


def test_every_part_reaches_memory_and_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for i in range(4):
        pixels = (255 * pictures(4, 3, 80, 90)[i]).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(4)]
    small = (255 * pictures(4, 3, 16, 16)).byte()
    request = [Request([0, 1, 2, 3], 66, 3), Request([3, 2, 1, 0], 70, 4)]
    for make in (
        lambda text: FileImages(files, [0] * 4, PLAIN, 3, text),
        lambda text: MemoryImages(small, [0] * 4, PLAIN, text),
    ):
        plain = [x for x, _ in make("flip").stream(request)]
        for text in ("flip+color", "flip+erase:1", "flip+randaugment:20"):
            found = [x for x, _ in make(text).stream(request)]
            again = [x for x, _ in make(text).stream(request)]
            for x, y, z in zip(found, plain, again, strict=True):
                assert torch.equal(x, z)
                assert not torch.equal(x, y)
        evaluated = [Request([0, 1], 66)]
        ((x, _),) = make("flip+color+erase:1+randaugment:30").stream(evaluated)
        ((y, _),) = make("none").stream(evaluated)
        assert torch.equal(x, y)


def test_erased_is_0_once_normalised() -> None:
    norm = Normalisation((0.2, 0.4, 0.6), (0.5,) * 3)
    white = torch.full((8, 3, 16, 16), 255, dtype=torch.uint8)
    ((x, _),) = MemoryImages(white, [0] * 8, norm, "erase:1").stream([Request(range(8), 16, 1)])
    share = (x == 0).all(1).float().mean((1, 2))
    assert share.min() > 0
    assert share.max() < 0.4


def test_mixup_is_the_papers() -> None:
    x, labels = pictures(6), torch.tensor([0, 1, 2, 3, 4, 0])
    images, soft = mix(x, labels, 5, generator(2), mixup=1.0)
    assert soft.shape == (6, 5)
    assert torch.allclose(soft.sum(1), torch.ones(6))
    # the share and the partner, from the labels alone; they must explain the pixels
    share = max(float(row.max()) for row in soft)
    share = share if share < 1 else float(soft[1].max())
    explained = 0
    for i in range(6):
        best = min(
            float((images[i] - (s * x[i] + (1 - s) * x[j])).abs().max())
            for j in range(6)
            for s in (share, 1 - share)
        )
        explained += best < 1e-5
    assert explained == 6
    again = mix(x, labels, 5, generator(2), mixup=1.0)
    assert torch.equal(again[0], images)
    other = mix(x, labels, 5, generator(3), mixup=1.0)
    assert not torch.equal(other[1], soft)


def test_cutmix_gives_each_label_its_share_of_the_pixels() -> None:
    n = 8
    x = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, 30, 20)
    for seed in range(12):
        images, soft = mix(x, torch.arange(n), n, generator(seed), cutmix=1.0)
        for i in range(n):
            pixels = torch.tensor([(images[i, 0] == j).float().mean() for j in range(n)])
            assert torch.allclose(pixels, soft[i], atol=1e-6)
            assert images[i, 0].unique().numel() <= 2
    assert torch.equal(x[3], torch.full((3, 30, 20), 3.0))  # what was given is as it was


def test_mixing_by_halves_and_not_at_all() -> None:
    n = 6
    x = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 1, 8, 8)
    cut = 0
    for seed in range(200):
        images, _ = mix(x, torch.arange(n), n, generator(seed), mixup=0.8, cutmix=1.0)
        cut += bool((images == images.round()).all())
    assert 60 < cut < 140
    images, soft = mix(x, torch.arange(n), n, generator())
    assert images is x
    assert torch.equal(soft, torch.eye(n))
    images, softer = mix(x, 0.5 * torch.eye(n) + 0.5 / n, n, generator(), mixup=1.0)
    assert torch.allclose(softer.sum(1), torch.ones(n))
    with pytest.raises(ValueError, match="an alpha is 0 or above"):
        mix(x, torch.arange(n), n, generator(), mixup=-1.0)


def test_mixups_shares_are_betas() -> None:
    from scipy import stats

    x, labels = torch.zeros((2, 1, 2, 2)), torch.tensor([0, 1])
    found = []
    for seed in range(600):
        _, soft = mix(x, labels, 2, generator(seed), mixup=0.4)
        if soft[0].max() < 1:  # else each is mixed with itself
            found.append(float(soft[0, 0]))
    assert 240 < len(found) < 360
    assert stats.kstest(found, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
