"""The order in which a training set is gone through.

Knows labels; draws from the generator that it is given.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from onceforall.errors import InputError, choices

BALANCES = ("none", "sampling")


def epoch_order(
    n: int, numbers: np.random.Generator, balance: str = "none", labels: Tensor | None = None
) -> np.ndarray:
    """Numbers of n images in the order of an epoch, (n,).

    Args:
        balance: "none": each image once. "sampling": each class as often as any other (but for one
            image, where n is no multiple); the images of a class equally often but for one, so that
            none comes twice before all of its class have come.
        labels: (n,) classes, for "sampling".

    Raises:
        InputError: not one of BALANCES, or labels that are no classes.
    """
    if balance == "none":
        return numbers.permutation(n)
    if balance not in BALANCES:
        raise InputError(f"data: balance: {balance!r}; there are {choices(BALANCES)}")
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        raise InputError("data: balance: sampling is for images with a class each")
    members = _by_class(labels)
    quota = np.full(len(members), n // len(members))
    quota[numbers.permutation(len(members))[: n % len(members)]] += 1
    order = [_some(rows, int(wanted), numbers) for rows, wanted in zip(members, quota, strict=True)]
    return numbers.permutation(np.concatenate(order))


def _by_class(labels: Tensor) -> list[np.ndarray]:
    """Numbers of the images of each class that there is."""
    found = labels.cpu().numpy()
    order = np.argsort(found, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(found[order])) + 1)


def _some(rows: np.ndarray, wanted: int, numbers: np.random.Generator) -> np.ndarray:
    whole, rest = divmod(wanted, len(rows))
    return np.concatenate([np.tile(rows, whole), numbers.permutation(rows)[:rest]])
