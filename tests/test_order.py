"""The order of an epoch."""

import numpy as np
import pytest
import torch

from onceforall.data import epoch_order
from onceforall.errors import InputError

LABELS = torch.tensor([0] * 50 + [1] * 8 + [2] * 2)


def numbers(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_an_epoch_is_a_permutation() -> None:
    assert np.array_equal(epoch_order(60, numbers(3)), numbers(3).permutation(60))


def test_balanced_sampling_takes_each_class_equally_often() -> None:
    for n in (60, 61, 62):
        order = epoch_order(n, numbers(1), "sampling", LABELS)
        assert len(order) == n
        counts = np.bincount(LABELS.numpy()[order], minlength=3)
        assert counts.sum() == n
        assert counts.max() - counts.min() <= 1
        for label in range(3):
            rows = np.flatnonzero(LABELS.numpy() == label)
            often = np.bincount(order, minlength=60)[rows]
            assert often.max() - often.min() <= 1, "one twice before all have come"
    assert not np.array_equal(
        epoch_order(60, numbers(1), "sampling", LABELS),
        epoch_order(60, numbers(2), "sampling", LABELS),
    )


def test_balance_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(InputError, match="balance: 'classes'; there are none, sampling"):
        epoch_order(60, numbers(), "classes", LABELS)
    with pytest.raises(InputError, match="for images with a class each"):
        epoch_order(2, numbers(), "sampling", torch.zeros((2, 4, 4)))
