"""What a network costs, as plain values; units and conventions are at the top of `costs`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

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


def by_layer(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Sums over the parts of each layer of a network: of each top module, and of each one in a
    numbered list of them."""
    layers: dict[str, dict[str, Any]] = {}
    for row in rows:
        first, *inner = row.name.split(".")
        name = f"{first}.{inner[0]}" if inner and inner[0].isdigit() else first
        between = name not in layers and not inner and row.name.startswith(row.kind)
        if layers and between:  # an operation between layers belongs to the one before
            name = next(reversed(layers))
        new = name not in layers
        entry = layers.setdefault(name, {"name": name, "macs": 0, "params": 0})
        if new or not (between or row.kind == "Parameter"):
            entry["output"] = "x".join(str(n) for n in row.output_shape)
        entry["macs"] += row.macs
        entry["params"] += row.params
    return list(layers.values())
