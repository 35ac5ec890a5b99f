"""Batch-norm statistics by hand, and that calibrating changes nothing else."""

import pytest
import torch
from torch import nn

from onceforall.calibration import calibrate

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
