"""Files of other projects: the authors' and MMRazor's, read, written, or precisely refused.

`networks` says which network a file describes; `weight_files` reads and writes weights; `zoo`
has what others published. The face is imported when first asked for, so that listing the zoo
is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceforall.interop.net_config import OFFICIAL, StaticNetwork
    from onceforall.interop.networks import (
        FORMATS,
        WEIGHT_FORMATS,
        from_text,
        read_network,
        rewrite_subnet,
        write_network,
    )
    from onceforall.interop.starting import starting_weights
    from onceforall.interop.weight_files import (
        read_supernet,
        read_weights,
        write_supernet,
        write_weights,
    )

__all__ = [
    "FORMATS",
    "WEIGHT_FORMATS",
    "OFFICIAL",
    "StaticNetwork",
    "from_text",
    "read_network",
    "read_supernet",
    "read_weights",
    "rewrite_subnet",
    "starting_weights",
    "write_network",
    "write_supernet",
    "write_weights",
]

_FILES = {
    "FORMATS": "networks",
    "WEIGHT_FORMATS": "networks",
    "OFFICIAL": "net_config",
    "StaticNetwork": "net_config",
    "from_text": "networks",
    "read_network": "networks",
    "read_supernet": "weight_files",
    "read_weights": "weight_files",
    "rewrite_subnet": "networks",
    "starting_weights": "starting",
    "write_network": "networks",
    "write_supernet": "weight_files",
    "write_weights": "weight_files",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
