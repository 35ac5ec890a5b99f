"""What a run would take on so many devices: arithmetic on what a few of its steps took on one.

Pure: knows numbers, no networks, no devices, no clock. `probing` measures the numbers.

A device's time for a step is taken to be a line in the images that it has of the batch, through
two measured points; so is its memory. Gradients are averaged by a ring of all devices: of n, each
sends and receives 2(n - 1)/n times their bytes, which takes that over the bandwidth of the slowest
link (Patarasu and Yuan, 2009). It goes on beside the backward pass of a step's last network, as it
does in `ranks.GradientMeans`, and what is left of it delays the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

DEVICES = (1, 8, 64, 512)
MACHINE = 8  # devices of one machine
WITHIN, BETWEEN = 200.0, 25.0  # GB/s a device: NVLink in a machine; a network card of 200 Gbit/s
LEAST = 2  # images that batch norm needs in each process


@dataclass(frozen=True)
class Point:
    """What one step took on one device, on average."""

    images: int  # of the batch that the device had
    seconds: float
    last_backward: float  # seconds, of the backward pass of the step's last network
    memory: float  # bytes, at the peak; 0: not known


@dataclass(frozen=True)
class Stretch:
    """A phase as it was measured.

    Attributes:
        steps: images of a batch over all devices -> steps of the phase.
        batches: that a step takes: more than one where its networks have images of their own.
        few, many: the same steps with fewer and more images.
        gradients: bytes that a step's devices have to average.
        looks: images of a batch -> how often the phase looks at validation images.
        look: seconds an image of all networks that are looked at together, on one device.
    """

    name: str
    steps: Callable[[int], int]
    batches: int
    few: Point
    many: Point
    gradients: float
    looks: Callable[[int], int]
    look: float


@dataclass(frozen=True)
class Links:
    """How quickly devices send to each other, GB/s each."""

    within: float = WITHIN
    between: float = BETWEEN

    def seconds(self, size: float, devices: int) -> float:
        """Of a ring's sum over bytes."""
        if devices == 1:
            return 0.0
        bandwidth = self.within if devices <= MACHINE else self.between
        return 2 * (devices - 1) / devices * size / (bandwidth * 1e9)


@dataclass(frozen=True)
class Plan:
    """A run on so many devices.

    Attributes:
        each: images of a batch that a device has; a step of networks with images of their own
            takes that many for each.
        communication: share of the time in which devices wait for gradients, 0 to 1.
        validation: share of the time that goes into looks at validation images, 0 to 1.
        images: a second that must be read, over all devices.
        dollars: None: no price was given.
    """

    devices: int
    each: int
    steps: int
    hours: float
    memory: float  # bytes a device; 0: not known
    communication: float
    validation: float
    images: float
    dollars: float | None


def along(few: Point, many: Point, images: int, what: Callable[[Point], float]) -> float:
    """A number at so many images, on the line through two points; never less than at a point with
    fewer images, and in proportion where there is one point only."""
    low, high = what(few), what(many)
    if few.images == many.images:
        return low * images / few.images
    slope = max(0.0, (high - low) / (many.images - few.images))
    found = low + slope * (images - few.images)
    return max(found, min(low, low * images / few.images))


def shares(batch: int, devices: int, each: int | None) -> int | None:
    """Images of a batch that a device has; None: the batch cannot be shared so. `each` is that
    number where the batch grows with the devices."""
    if each is not None:
        return each
    share, rest = divmod(batch, devices)
    return None if rest or share < LEAST else share


def plan(
    stretches: Sequence[Stretch],
    batch: int,
    devices: int,
    links: Links,
    *,
    each: int | None = None,
    price: float | None = None,
    calibration: int = 0,
    validation: int = 0,
) -> Plan | None:
    """The whole run on so many devices; None: its batch cannot be shared among them.

    Args:
        batch: images, over all devices; not used where `each` is given.
        each: images that each device has, so that the batch grows with their number.
        price: dollars an hour and device.
        calibration: images that each device runs at a look, for statistics of batch norm.
        validation: images of a look, which the devices share.
    """
    share = shares(batch, devices, each)
    if share is None:
        return None
    total = share * devices
    working = waiting = looking = read = 0.0
    steps = 0
    for at in stretches:
        n = at.steps(total)
        sent = links.seconds(at.gradients, devices)
        beside = along(at.few, at.many, share, lambda p: p.last_backward)
        working += n * along(at.few, at.many, share, lambda p: p.seconds)
        waiting += n * max(0.0, sent - beside)
        looking += at.looks(total) * at.look * (calibration + -(-validation // devices))
        read += n * at.batches * total
        steps += n
    seconds = working + waiting + looking
    hours = seconds / 3600
    return Plan(
        devices=devices,
        each=share,
        steps=steps,
        hours=hours,
        memory=max(along(at.few, at.many, share, lambda p: p.memory) for at in stretches),
        communication=waiting / seconds,
        validation=looking / seconds,
        images=read / (working + waiting),
        dollars=None if price is None else hours * devices * price,
    )
