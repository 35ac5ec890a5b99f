"""The families of networks, by name.

A family of your own is found in a file, as `my_net.py:family`, or by the entry point
`onceforall.families`: a name and a function that returns a `Family`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from onceforall import plugins
from onceforall.errors import InputError, choices, suggestion
from onceforall.families import (
    autoformer,
    efficientnet,
    files,
    fixed,
    mobilenetv3,
    proxylessnas,
    resnet,
    vit,
)
from onceforall.families.base import Family, Planned, block_name
from onceforall.families.elastic import elastic, per_block

__all__ = ["Family", "Planned", "block_name", "elastic", "get", "known", "names", "per_block"]

_FAMILIES: dict[str, Callable[..., Family]] = {
    "autoformer_t": autoformer.tiny,
    "efficientnet_lite0": efficientnet.lite0,
    "mbv3_mini": mobilenetv3.mini,
    "ofa_mbv3_w1.0": partial(mobilenetv3.imagenet, "ofa_mbv3_w1.0", 1.0),
    "ofa_mbv3_w1.2": partial(mobilenetv3.imagenet, "ofa_mbv3_w1.2", 1.2),
    "ofa_proxyless_w1.3": partial(proxylessnas.imagenet, "ofa_proxyless_w1.3", 1.3),
    "ofa_resnet50": partial(resnet.imagenet, "ofa_resnet50"),
    "vit": vit.vit,
    "vit_mini": vit.mini,
}


def names() -> list[str]:
    """All families that can be had here, those of plug-ins last."""
    return [*_FAMILIES, *(p.name for p in entry_points(group="onceforall.families"))]


def known(name: str) -> bool:
    """Whether a name is that of a family here, or has the form of one in a person's file."""
    return name in names() or plugins.is_file(name)


def get(name: str, **settings: Any) -> Family:
    """The family of that name; settings such as `classes` and `resolutions` are its own.

    Raises:
        InputError: no such family, or a setting it does not have.
    """
    if plugins.is_file(name):
        return files.family_in(name, **settings)
    make = fixed.fixed if name == fixed.NAME else _FAMILIES.get(name)
    if make is None:
        installed = {p.name: p for p in entry_points(group="onceforall.families")}
        if name not in installed:
            raise InputError(
                f"family: {name!r} is not known; there are {choices(names())}, and FILE.py:NAME for"
                " one in your own file" + suggestion(name, names())
            )
        make = installed[name].load()
    try:
        signature(make).bind(**settings)
    except TypeError as error:  # only what the call gets wrong, nothing that happens inside
        raise InputError(f"family {name}: {error}") from None
    return make(**settings)
