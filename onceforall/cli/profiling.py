"""Where the time of a network goes on a device, layer by layer: `info --profile`."""

from __future__ import annotations

from typing import Any

from onceforall.columns import Column, table
from onceforall.errors import InputError, choices


def profiled(net: str, device: str, threads: int, resolution: int | None) -> dict[str, Any]:
    """Where the time goes on a device, layer by layer."""
    from onceforall import devices as timing
    from onceforall.cli.devices import refuse_missing, to_time

    target = timing.Target(device, threads)
    refuse_missing(target)
    if not target.known.profiles:
        having = [d.name for d in timing.devices().values() if d.profiles]
        raise InputError(
            f"--profile: {device} does not tell what layers take; {choices(having)} do"
        )
    network, shape, *_ = to_time(net, resolution)
    rows = target.profile(network, shape)
    return {
        "device": str(target),
        "total_ms": sum(ms for _, _, ms in rows),
        "layers": [{"name": name, "kind": kind, "ms": ms} for name, kind, ms in rows],
    }


def shown(found: dict[str, Any], most: int = 25) -> str:
    """The slowest layers, and the sum of each kind."""
    layers, total = found["layers"], found["total_ms"] or 1.0
    slowest = sorted(layers, key=lambda row: -row["ms"])[:most]
    kinds: dict[str, list[float]] = {}
    for row in layers:
        kinds.setdefault(row["kind"], []).append(row["ms"])
    by_kind = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    left = len(layers) - len(slowest)
    return "\n".join(
        [
            table(
                ["layer", Column("kind", drop=1, left=True), "ms", "share %"],
                [
                    [r["name"], r["kind"], f"{r['ms']:.4f}", f"{100 * r['ms'] / total:.1f}"]
                    for r in slowest
                ],
            ),
            *([f"and {left} more (--json has all)"] if left else []),
            "",
            table(
                ["kind", "layers", "ms", "share %"],
                [
                    [k, str(len(v)), f"{sum(v):.4f}", f"{100 * sum(v) / total:.1f}"]
                    for k, v in by_kind
                ],
            ),
            "",
            f"{found['total_ms']:.4g} ms in layers on {found['device']}",
        ]
    )
