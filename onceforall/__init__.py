"""Train one network once; take from it the best sub-network for each device and budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceforall.families import elastic, per_block
    from onceforall.interop.zoo import load
    from onceforall.pipeline import open_run, specialize
    from onceforall.supernet import SuperNet

__version__ = "0.1.0"
__all__ = ["SuperNet", "__version__", "elastic", "load", "open_run", "per_block", "specialize"]

_ROOMS = {  # imported when first asked for, so that this one is light
    "SuperNet": "onceforall.supernet",
    "elastic": "onceforall.families",
    "load": "onceforall.interop.zoo",
    "open_run": "onceforall.pipeline",
    "per_block": "onceforall.families",
    "specialize": "onceforall.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)
