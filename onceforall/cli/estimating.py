"""What `train --estimate` prints: a run's time, memory and money on so many devices."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from onceforall.cli.common import emit
from onceforall.columns import Column, table
from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from onceforall.training import Group, Settings
    from onceforall.training.estimate import Links, Plan, Stretch


@dataclass(frozen=True)
class Wanted:
    """Options of an estimate."""

    price_per_hour: float | None
    bandwidth: float | None  # GB/s
    per_device: int | None  # images
    images: int | None

    def refuse(self) -> None:
        """Raises InputError where one is given and no estimate is asked for."""
        for name, value in vars(self).items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option}: {value:g} goes with --estimate")


def estimated(config: str, changes: list[str], group: Group, wanted: Wanted, as_json: bool) -> None:
    """Measures and prints; nothing is written."""
    from onceforall import data
    from onceforall.training import load_settings, scale, source_of
    from onceforall.training.estimate import DEVICES, Links, plan
    from onceforall.training.probing import imagined, measure
    from onceforall.training.validation import CALIBRATION, IMAGES

    if group.size > 1:
        raise InputError("--estimate: is made by one process; start it without torchrun")
    name = config
    if name == scale.AUTO:
        name = scale.recipe_for(data.size_of(source_of(changes)), changes)
    settings = load_settings(name, changes)
    found = data.load(settings.data) if wanted.images is None else None
    found = found or imagined(settings, wanted.images or 0)
    links = Links() if wanted.bandwidth is None else Links(wanted.bandwidth, wanted.bandwidth)
    if not links.within:
        raise InputError("--bandwidth: 0 is not above 0")
    stretches, precision = measure(settings, found, group, wanted.per_device)
    plans = [
        plan(
            stretches,
            settings.batch_size,
            devices,
            links,
            each=wanted.per_device,
            price=wanted.price_per_hour,
            calibration=min(CALIBRATION, len(found.train)),
            validation=min(IMAGES, len(found.validation)),
        )
        for devices in DEVICES
    ]
    about = _about(settings, name, precision, len(found.train), wanted, links, group)
    result = {
        "device": _device(group),
        "plans": [vars(p) for p in plans if p is not None],
        "phases": [_measured(at, settings.batch_size) for at in stretches],
        "assumptions": about,
    }
    unshared = [str(d) for d, p in zip(DEVICES, plans, strict=True) if p is None]
    lines = [_phases(stretches, settings.batch_size), "", _plans([p for p in plans if p])]
    if unshared:
        lines += [f"a batch of {settings.batch_size} cannot be shared by {choices(unshared)}"]
    lines += ["", *(fill(f"- {text}", 98, subsequent_indent="  ") for text in about)]
    emit(result, as_json, "\n".join(lines))


def _device(group: Group) -> str:
    import torch

    if group.device.type == "cuda":
        return torch.cuda.get_device_name(group.device)
    threads = torch.get_num_threads()
    return f"this machine's CPU, {threads} thread{'s' if threads > 1 else ''}"


def _about(
    settings: Settings,
    name: str,
    precision: str,
    images: int,
    wanted: Wanted,
    links: Links,
    group: Group,
) -> list[str]:
    """What the numbers stand on."""
    from onceforall.training.estimate import MACHINE

    each = wanted.per_device
    kept = (
        f"each device keeps {each} images, so the batch grows and steps of epochs become fewer;"
        " whether it trains as well is another question"
        if each
        else f"the batch stays {settings.batch_size} images, shared among the devices"
    )
    sent = (
        f"{links.within:g} GB/s between all devices"
        if wanted.bandwidth is not None
        else f"{links.within:g} GB/s within a machine of {MACHINE} devices (NVLink),"
        f" {links.between:g} GB/s between machines"
    )
    chosen = " (precision=auto chose it)" if settings.precision != precision else ""
    return [
        f"recipe {name}, {images:,} training images, {precision}{chosen}; measured on"
        f" {_device(group)}, of which every device is taken to be one",
        f"{kept}; time and memory are lines in a device's images through the two sizes measured",
        f"gradients: a ring's 2(n-1)/n of their bytes at {sent}, beside the backward pass of a"
        " step's last network alone; the time a message takes to start is left out",
        "images are taken to come as quickly as they are asked for (the column images/s)",
        "phases are trained to their ends; looks at validation images are counted, starting,"
        " checkpoints and channels' sorting are not",
    ]


def _phases(stretches: list[Stretch], batch: int) -> str:
    columns: list[Column | str] = [
        *("phase", "steps", "images", "ms\na step", "images", "ms\na step"),
        Column("last backward\nms", drop=3),
        Column("gradients\nMB", drop=2),
        Column("validation\nms an image", drop=1),
    ]
    rows = []
    for at in stretches:
        rows.append(
            [
                at.name,
                f"{at.steps(batch):,}",
                *(x for p in (at.few, at.many) for x in (f"{p.images}", f"{1e3 * p.seconds:.4g}")),
                f"{1e3 * at.many.last_backward:.4g}",
                f"{at.gradients / 1e6:.3g}",
                f"{1e3 * at.look:.3g}",
            ]
        )
    return table(columns, rows)


def _plans(plans: list[Plan]) -> str:
    columns: list[Column | str] = [
        *("devices", "images\neach", "steps", "hours", "GiB\neach"),
        Column("communication\n%", drop=2),
        Column("validation\n%", drop=1),
        Column("images/s", drop=3),
    ]
    priced = any(p.dollars is not None for p in plans)
    rows = []
    for p in plans:
        row = [f"{p.devices}", f"{p.each}", f"{p.steps:,}", f"{p.hours:,.4g}"]
        row += [f"{p.memory / 2**30:.1f}" if p.memory else "?"]
        row += [f"{100 * p.communication:.1f}", f"{100 * p.validation:.1f}", f"{p.images:,.0f}"]
        rows.append(row + ([f"{p.dollars:,.2f}"] if p.dollars is not None else []))
    return table([*columns, *(["dollars"] if priced else [])], rows)


def _measured(at: Stretch, batch: int) -> dict[str, Any]:
    return {
        "name": at.name,
        "steps": at.steps(batch),
        "few": vars(at.few),
        "many": vars(at.many),
        "gradient_bytes": at.gradients,
        "validation_seconds_an_image": at.look,
    }
