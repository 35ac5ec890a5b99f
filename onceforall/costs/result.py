"""What a network costs, as plain values; units and conventions are at the top of `costs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FLOAT_BYTES = 4

Shape = tuple[int, ...]  # without the batch: (C, H, W) or (features,)


class Row(NamedTuple):
    """One operation of a network, or a module without children with all it does.

    `kind` is the module's class or the function's name; a parameter that belongs to no such module
    has a row of its own, of kind "Parameter".
    """

    name: str
    kind: str
    output_shape: Shape
    macs: int
    params: int
    depthwise: bool = False
    alive_bytes: int = 0  # of activations, at most, while it runs


@dataclass(frozen=True)
class Cost:
    """What a network costs for one input.

    Attributes:
        uncovered: operations that nothing is known of. Where there are any, `macs`, `flops` and
            `peak_activation_bytes` are lower bounds.
    """

    macs: int
    params: int
    peak_activation_bytes: int
    output_shape: Shape
    flops: int  # MMRazor's convention
    rows: tuple[Row, ...]
    uncovered: tuple[str, ...] = ()
