"""Files of other projects: the authors' and MMRazor's, read, written, or precisely refused.

`resolving` says which network a person named, `networks` which one a file describes;
`weight_files` reads and writes weights; `latency_tables` and `authors_accuracy` read published
predictors; `zoo` has what others published. The face is imported when first asked for, so that
listing the zoo is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceforall.interop.net_config import OFFICIAL, StaticNetwork
    from onceforall.interop.networks import (
        FORMATS,
        WEIGHT_FORMATS,
        arch_facts,
        from_text,
        read_network,
        rewrite_subnet,
        write_network,
    )
    from onceforall.interop.resolving import Resolved, resolve
    from onceforall.interop.starting import starting_weights
    from onceforall.interop.weight_files import (
        kind_of,
        read_supernet,
        read_weights,
        write_supernet,
        write_weights,
    )

__all__ = [
    "FORMATS",
    "WEIGHT_FORMATS",
    "OFFICIAL",
    "Resolved",
    "StaticNetwork",
    "arch_facts",
    "from_text",
    "kind_of",
    "read_network",
    "read_supernet",
    "read_weights",
    "resolve",
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
    "Resolved": "resolving",
    "StaticNetwork": "net_config",
    "arch_facts": "networks",
    "from_text": "networks",
    "kind_of": "weight_files",
    "read_network": "networks",
    "read_supernet": "weight_files",
    "read_weights": "weight_files",
    "resolve": "resolving",
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
