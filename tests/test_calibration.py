"""Batch-norm statistics by hand, and that calibrating changes nothing else."""

from functools import partial

import pytest
import torch
from torch import nn

from onceforall.supernet import calibrate, calibration

VALUES = ([1.0, 3.0, 2.0, 2.0], [8.0, 8.0])
BATCHES = [torch.tensor(v).view(-1, 1, 1, 1) for v in VALUES]


def test_both_estimators_by_hand() -> None:
    # means 2 and 8, biased variances 1/2 and 0, of 4 images and 2
    norm = nn.BatchNorm2d(1)
    calibrate(norm, BATCHES, "batch-mean")
    assert norm.running_mean.item() == pytest.approx(4.0)  # type: ignore[union-attr]
    assert norm.running_var.item() == pytest.approx(1 / 3)  # type: ignore[union-attr]
    calibrate(norm, BATCHES, "pooled")
    every = torch.tensor([*VALUES[0], *VALUES[1]])
    assert norm.running_mean.item() == pytest.approx(every.mean().item())  # type: ignore[union-attr]
    assert norm.running_var.item() == pytest.approx(every.var(correction=0).item())  # type: ignore[union-attr]


def test_layers_normalise_by_their_batch_meanwhile() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    x = torch.randn((50, 1, 3, 3)) * 5 + 2
    calibrate(network, [x])
    second = network[1]
    assert second.running_mean.item() == pytest.approx(0, abs=1e-5)  # type: ignore[union-attr]
    assert second.running_var.item() == pytest.approx(1, rel=1e-3)  # type: ignore[union-attr]
    y = network(x)
    assert y.mean().item() == pytest.approx(0, abs=1e-4)
    assert y.var(correction=0).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (nn.BatchNorm1d, [(6, 3), (4, 3)]),
        (nn.BatchNorm1d, [(6, 3, 5), (4, 3, 5)]),
        (nn.BatchNorm2d, [(6, 3, 4, 5), (4, 3, 4, 5)]),
        (nn.BatchNorm2d, [(6, 3, 4, 4), (4, 3, 8, 8)]),  # of different sizes: by their values
        (nn.BatchNorm3d, [(6, 3, 2, 4, 5), (4, 3, 2, 4, 5)]),
    ],
)
def test_batch_norms_of_any_rank(make: type[nn.Module], shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randn(shape, generator=generator) * (1 + i) + 3 * i for i, shape in enumerate(shapes)
    ]
    flat = [x.transpose(0, 1).reshape(3, -1).double() for x in batches]  # (C, values) each
    every = torch.cat(flat, 1)
    norm = make(3)
    calibrate(norm, batches)
    torch.testing.assert_close(norm.running_mean.double(), every.mean(1))  # type: ignore[union-attr]
    torch.testing.assert_close(norm.running_var.double(), every.var(1, correction=0))  # type: ignore[union-attr]
    calibrate(norm, batches, "batch-mean")
    sizes = [x.shape[1] for x in flat]
    within = sum(n * x.var(1, correction=0) for n, x in zip(sizes, flat, strict=True)) / sum(sizes)
    torch.testing.assert_close(norm.running_mean.double(), every.mean(1))  # type: ignore[union-attr]
    torch.testing.assert_close(norm.running_var.double(), within)  # type: ignore[union-attr]


def test_channels_last_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PART", 100)  # numbers: 33 positions of 540, the last 12
    x = torch.randn((9, 3, 6, 10), generator=torch.Generator().manual_seed(0)) * 2 + 50
    norm = nn.BatchNorm2d(3)
    calibrate(norm, [x.contiguous(memory_format=torch.channels_last)])
    flat = x.double().transpose(0, 1).reshape(3, -1)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=0)
    close(norm.running_mean.double(), flat.mean(1))  # type: ignore[union-attr]
    close(norm.running_var.double(), flat.var(1, correction=0))  # type: ignore[union-attr]


def test_weights_and_modes_stay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    norm = network[1]
    norm.momentum = 0.3
    before = {n: p.clone() for n, p in network.named_parameters()}
    calibrate(network, [torch.randn((4, 1, 2, 2))])
    assert not any(m.training for m in network.modules())
    assert (norm.momentum, norm.track_running_stats) == (0.3, True)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
    network.train()(torch.randn((4, 1, 2, 2)))  # and it trains on as ever
    assert norm.num_batches_tracked == 1


def test_a_single_value_has_no_variance() -> None:
    with pytest.raises(ValueError, match="a batch of one image"):
        calibrate(nn.BatchNorm2d(1), [torch.ones((1, 1, 1, 1))])


def test_no_images_or_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="no images"):
        calibrate(nn.BatchNorm2d(1), [])
    with pytest.raises(ValueError, match="estimator: 'best'"):
        calibrate(nn.BatchNorm2d(1), BATCHES, "best")
