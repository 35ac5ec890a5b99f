"""Trained weights as the start of a supernet's largest network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from onceforall.errors import InputError, choices
from onceforall.progress import say


def load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts a state dict into a network, which then computes what the network it is from computes.
    A classifier of another number of classes stays as it is, which is said.

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
    other = replaced(network, weights)
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
        say(f"{choices(kept)}: of {before} classes; replaced by a fresh one for {now}")


def replaced(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """The parameters that are of another shape than a state dict's."""
    return [n for n, t in network.state_dict().items() if weights[n].shape != t.shape]


def _classifier(network: nn.Module, other: list[str], weights: Mapping[str, Tensor]) -> list[str]:
    """The parameters of the last layer, if they are all that differ, and only in its outputs."""
    layers = [
        (path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    path, last = layers[-1]
    of_last = {f"{path}.{name}": tensor for name, tensor in last.named_parameters()}
    same = all(
        name in of_last and weights[name].shape[1:] == of_last[name].shape[1:] for name in other
    )
    return other if same else []
