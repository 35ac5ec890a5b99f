"""Files of other projects: the authors' and MMRazor's, read, written, or precisely refused.

`networks` says which network a file describes; `weight_files` reads and writes weights.
"""

from onceforall.formats.net_config import OFFICIAL, StaticNetwork
from onceforall.formats.networks import (
    FORMATS,
    from_text,
    read_network,
    rewrite_subnet,
    write_network,
)
from onceforall.formats.weight_files import (
    read_supernet,
    read_weights,
    write_supernet,
    write_weights,
)

__all__ = [
    "FORMATS",
    "OFFICIAL",
    "StaticNetwork",
    "from_text",
    "read_network",
    "read_supernet",
    "read_weights",
    "rewrite_subnet",
    "write_network",
    "write_supernet",
    "write_weights",
]
