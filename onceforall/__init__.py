"""Train one network once; take from it the best sub-network for each device and budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceforall.interop.zoo import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

# Imported when first asked for, so that this one is light.
_ROOMS = {"load": "onceforall.interop.zoo"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)
