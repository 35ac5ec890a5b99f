"""Latencies of networks on a device, taken in turns, on a machine that is watched meanwhile.

Knows networks and their files, and a `Target`; nothing of archs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from onceforall.devices.target import Network, Shape, Target
from onceforall.devices.timing import ROUNDS, Latency, time_calls

ATTEMPTS = 8  # at timing on an undisturbed machine
PAUSE_SECONDS = 1.0  # between two of them
DISTURBED = 1.1  # the anchor's time, as a multiple of its fastest
PROBES = 12  # of the anchor, before its first use
TOGETHER = 12  # networks timed in turns: as many as are prepared at a time


def measure(
    target: Target,
    network: Network,
    shape: Shape,
    rounds: int = ROUNDS,
    calibration: Tensor | None = None,
) -> Latency:
    """Latency of one network, or of the exported file of one, for images of `shape` (C, H, W)."""
    return measure_many(target, [(network, shape)], rounds, calibration)[0]


def measure_many(
    target: Target,
    networks: Sequence[tuple[Network, Shape]],
    rounds: int = ROUNDS,
    calibration: Tensor | None = None,
) -> list[Latency]:
    """Latencies of networks that are timed in turns, so that they can be compared.

    A small anchor network is timed with them where they run on this machine. While it is slower
    than it has been seen to be, the machine is disturbed, and the networks are timed again after a
    pause; of all attempts the one with the fastest anchor counts. `calibration`: training images
    for networks that are written in int8.
    """
    if target.known.estimated:
        rounds = 1
    if not target.known.here:
        return time_calls([target.prepare(n, shape, calibration) for n, shape in networks], rounds)
    anchor = _anchor(target)
    calls = [anchor.call, *(target.prepare(n, shape, calibration) for n, shape in networks)]
    best: list[Latency] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        found = time_calls(calls, rounds)
        anchor.fastest_ms = min(anchor.fastest_ms, found[0].median_ms)
        if not best or found[0].median_ms < best[0].median_ms:
            best = found
        anchor.latest_ms = best[0].median_ms
        if not anchor.disturbed:
            break
    return best[1:]


def disturbed(target: Target) -> bool:
    """Whether the machine was slower than it had been seen to be in all attempts of the last
    `measure_many`: its latencies are above those that were taken before."""
    return target.known.here and _anchor(target).disturbed


@dataclass
class _Anchor:
    """A call whose time tells the state of the machine."""

    call: Callable[[], object]
    fastest_ms: float
    latest_ms: float = 0.0  # in the attempt that counted

    @property
    def disturbed(self) -> bool:
        return self.latest_ms > DISTURBED * self.fastest_ms


@cache
def _anchor(target: Target) -> _Anchor:
    """Probed over some seconds, so that a short disturbance does not set the standard. In ONNX
    Runtime where a file for the device itself is slow to make: it is the machine that is asked."""
    if target.format is not None and target.format.slow:
        return _anchor(Target(threads=target.threads))
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
    call = target.prepare(network, (3, 32, 32))
    fastest = float("inf")
    for _ in range(PROBES):
        fastest = min(fastest, time_calls([call], 1)[0].median_ms)
        time.sleep(PAUSE_SECONDS / 4)
    return _Anchor(call, fastest)
