"""Trained weights as the start of a supernet's largest network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from onceforall.errors import InputError, choices
from onceforall.progress import say


def load(network: nn.Module, weights: Mapping[str, Tensor], *, head: bool = True) -> None:
    """Puts a state dict into a network, which then computes what the network it is from computes.
    A classifier of another number of classes stays as it is, which is said; so does any where
    `head` is false: of as many classes, but others.

    Raises:
        InputError: names the first tensor that is missing, too many, or of another shape.
    """
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise InputError(
                f"weights: {name} {tuple(tensor.shape)} of the largest network is missing"
            )
    extra = [name for name in weights if name not in own]
    if extra:
        raise InputError(
            f"weights: {extra[0]} {tuple(weights[extra[0]].shape)} is not in the largest network;"
            f" it has {choices(list(own)[:5])}, ..."
        )
    other = replaced(network, weights) if head else _head(network)
    kept = _classifier(network, other, weights)
    for name in other:
        if name not in kept:
            raise InputError(
                f"weights: {name} is {tuple(weights[name].shape)}, and"
                f" {tuple(own[name].shape)} in the largest network"
            )
    network.load_state_dict({**weights, **{name: own[name] for name in kept}})
    if kept:
        before, now = len(weights[kept[0]]), len(own[kept[0]])
        others = "other " if before == now else ""
        say(f"{choices(kept)}: of {before} {others}classes; replaced by a fresh one for {now}")


def replaced(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """The parameters that are of another shape than a state dict's."""
    return [n for n, t in network.state_dict().items() if weights[n].shape != t.shape]


def _classifier(network: nn.Module, other: list[str], weights: Mapping[str, Tensor]) -> list[str]:
    """The parameters of the last layer, if they are all that differ, and only in its outputs."""
    own, head = network.state_dict(), _head(network)
    same = all(name in head and weights[name].shape[1:] == own[name].shape[1:] for name in other)
    return other if same else []


def _head(network: nn.Module) -> list[str]:
    """The parameters of the last layer."""
    layers = [
        (path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    path, last = layers[-1]
    return [f"{path}.{name}" for name, _ in last.named_parameters()]
