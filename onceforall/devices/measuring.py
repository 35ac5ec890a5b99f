"""Latencies of networks on a device, taken in turns, on a machine that is watched meanwhile.

Knows networks and their files, and a `Target`; nothing of archs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from onceforall.devices.target import Network, Shape, Target
from onceforall.devices.timing import ROUNDS, Latency, over_visits, time_calls

ATTEMPTS = 8  # at timing on an undisturbed machine
PAUSE_SECONDS = 1.0  # between two of them
DISTURBED = 1.1  # the anchor's time, as a multiple of its fastest
VISITS = 5  # of a network whose latency is to be stated
PROBES = 12  # of the anchor, before its first use
TOGETHER = 12  # networks timed in turns: as many as are prepared at a time


def measure(
    target: Target,
    network: Network,
    shape: Shape,
    rounds: int = ROUNDS,
    calibration: Tensor | None = None,
    visits: int = VISITS,
) -> Latency:
    """Latency of one network, or of the exported file of one, for images of `shape` (C, H, W)."""
    return measure_many(target, [(network, shape)], rounds, calibration, visits)[0]


def measure_many(
    target: Target,
    networks: Sequence[tuple[Network, Shape]],
    rounds: int = ROUNDS,
    calibration: Tensor | None = None,
    visits: int = 1,
) -> list[Latency]:
    """Latencies of networks that are timed in turns, so that they can be compared.

    A small anchor network is timed with them where they run on this machine. While it is slower
    than it has been seen to be, the machine is disturbed, and the networks are timed again after a
    pause; of all attempts the one with the fastest anchor counts.

    Of `visits` more than one each opens the files anew, a pause after the one before it: where a
    runtime happens to put its buffers, and how fast the machine happens to be for some seconds,
    differ between them as they differ between one run of a program and the next, and the noise
    says by how much. `calibration`: training images for networks that are written in int8.
    """
    if target.known.estimated:
        rounds = visits = 1
    with TemporaryDirectory() as folder:
        opened = [
            (target.written(network, shape, Path(folder, str(i)), calibration), shape)
            for i, (network, shape) in enumerate(networks)
        ]
        found: list[list[Latency]] = []
        anchors: list[float] = []
        for visit in range(visits):
            time.sleep(PAUSE_SECONDS if visit else 0)
            found.append(_visit(target, opened, rounds))
            anchors += [_anchor(target).latest_ms] if target.known.here else []
    if anchors:
        _anchor(target).latest_ms = median(anchors)
    return [over_visits(each) for each in zip(*found, strict=True)]


def _visit(target: Target, networks: Sequence[tuple[Network, Shape]], rounds: int) -> list[Latency]:
    """Of networks that are opened now; of several attempts the least disturbed one."""
    calls = [target.prepare(network, shape) for network, shape in networks]
    if not target.known.here:
        return time_calls(calls, rounds)
    anchor = _anchor(target)
    best: list[Latency] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        found = time_calls([anchor.call, *calls], rounds)
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
    latest_ms: float = 0.0  # in the attempt that counted; the median over visits

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
