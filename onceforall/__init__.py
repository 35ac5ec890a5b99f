"""Train one network once; take from it the best sub-network for each device and budget.

import onceforall

family = onceforall.families.get("ofa_mbv3_w1.0")    # or onceforall.elastic(build, ...)
supernet = onceforall.SuperNet(family)
network = supernet.extract(family.space.smallest())  # an ordinary nn.Module
onceforall.search.search(family.space, objective, limits)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceforall import families, search
    from onceforall.families.elastic import elastic, per_block
    from onceforall.interop.zoo import load
    from onceforall.pipeline import open_run, specialize
    from onceforall.supernet import SuperNet

__version__ = "0.1.0"
__all__ = [
    "SuperNet",
    "__version__",
    "elastic",
    "families",
    "load",
    "open_run",
    "per_block",
    "search",
    "specialize",
]

_ROOMS = {  # imported when first asked for, so that this one is light
    "SuperNet": "onceforall.supernet",
    "elastic": "onceforall.families",
    "load": "onceforall.interop.zoo",
    "open_run": "onceforall.pipeline",
    "per_block": "onceforall.families",
    "specialize": "onceforall.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in ("families", "search"):
        return import_module(f"onceforall.{name}")
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
