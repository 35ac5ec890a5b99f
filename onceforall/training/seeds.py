"""Seeds: what is drawn for one purpose has nothing to do with what is drawn for another.

A seed is a hash of what it is for, so that seeds of neighbouring steps, ranks and runs do
not meet. Knows no generators.
"""

from __future__ import annotations

import hashlib


def seed_of(purpose: str, *numbers: int) -> int:
    """The seed of a purpose at these numbers, from 0 to 2^63 - 1: `seed_of("dropout", seed, step,
    rank)`. The same on every machine."""
    text = " ".join([purpose, *map(str, numbers)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
