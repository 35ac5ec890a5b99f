"""Networks for several devices, precisions and budgets from one run: `specialize_all`.

The command `specialize` and `Run.specialize` are this function, each with its own way to say what
is wanted: `targets_of` and `budgets_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from onceforall.devices import Target, device_named
from onceforall.errors import InputError, choices
from onceforall.pipeline.delivering import Card
from onceforall.pipeline.evidence import gather_evidence
from onceforall.pipeline.limits import Limits, refuse_impossible
from onceforall.pipeline.runs import Run
from onceforall.pipeline.specializing import specialize
from onceforall.units import quantity

Amount = str | float  # "0.05ms", "300M"; a number is in ms, multiply-adds, parameters, bytes


class Options(TypedDict, total=False):
    """What `specialize_run` takes beside latencies and devices."""

    max_macs: Amount | None
    max_params: Amount | None
    max_activations: Amount | None
    threads: int
    batch: int
    out: Path | str | None
    samples: int
    images: int | None
    risk: float
    seed: int
    on: str | None


def specialize_run(
    run: Run,
    latencies: Sequence[Amount],
    devices: Sequence[str],
    precisions: Sequence[str],
    *,
    max_macs: Amount | None = None,
    max_params: Amount | None = None,
    max_activations: Amount | None = None,
    threads: int = 1,
    batch: int = 1,
    out: Path | str | None = None,
    samples: int = 100,
    images: int | None = None,
    risk: float = 1.0,
    seed: int = 0,
    on: str | None = None,
) -> list[Card]:
    """As `specialize_all`, of what a person says: names of devices, "0.05ms", "300M"."""
    return specialize_all(
        run,
        targets_of(devices, precisions, threads, batch),
        budgets_of(latencies, max_macs, max_params, max_activations),
        None if out is None else Path(out),
        samples=samples,
        images=images,
        risk=risk,
        seed=seed,
        on=on,
    )


def specialize_all(
    run: Run,
    targets: Sequence[Target],
    budgets: Sequence[Limits],
    out: Path | None = None,
    *,
    samples: int = 100,
    images: int | None = None,
    risk: float = 1.0,
    seed: int = 0,
    on: str | None = None,
) -> list[Card]:
    """The best network for each target and budget: by target first, in the order given.

    Args:
        out: the folder, with one a target in it; of a single target, that folder itself. The run's
            own, if left out: RUN/specialized.
        samples: score and latency records that the predictors are fitted on.
        images, risk, seed, on: as `gather_evidence` has them.

    Raises:
        Infeasible: no arch meets a budget; says what could be met.
        InputError: a network's folder exists already; or as `gather_evidence`.
    """
    base = out or run.folder / "specialized"
    alone = out not in (None, run.folder) and len(targets) == 1
    folders = {target: base if alone else base / str(target) for target in targets}
    for folder in folders.values():
        for limits in budgets:
            if (folder / str(limits)).exists():
                raise InputError(f"{folder / str(limits)}: exists already; name another --out")
    for limits in budgets:
        refuse_impossible(run.supernet.family, limits)
    data = run.data()
    cards: list[Card] = []
    for target, folder in folders.items():
        evidence = gather_evidence(
            run,
            data,
            target,
            score_samples=samples,
            latency_samples=samples,
            images=images,
            risk=risk,
            seed=seed,
            on=on,
        )
        cards += [
            specialize(evidence, limits, folder / str(limits), seed=seed) for limits in budgets
        ]
    return cards


def targets_of(
    devices: Sequence[str], precisions: Sequence[str], threads: int = 1, batch: int = 1
) -> list[Target]:
    """Every device in every precision that it has of those asked for.

    Raises:
        InputError: a device that has none of them, or that cannot be used here.
    """
    targets = []
    for name in dict.fromkeys(devices):
        known = device_named(name)
        having = [p for p in dict.fromkeys(precisions) if p in known.precisions]
        if not having:
            asked = ",".join(precisions)
            raise InputError(
                f"precision: {known.name} has {choices(known.precisions)}, not {asked!r}"
            )
        missing = known.missing()
        if missing:
            raise InputError(f"device: {known.name} cannot be used here: {missing}")
        targets += [Target(name, threads, batch, precision) for precision in having]
    return targets


def budgets_of(
    latencies: Sequence[Amount] = (),
    macs: Amount | None = None,
    params: Amount | None = None,
    activations: Amount | None = None,
    spelled: Callable[[str], str] = str,
) -> list[Limits]:
    """One budget a latency, each with all the other limits.

    Args:
        spelled: how an argument such as max_latency is called where it was given.

    Raises:
        InputError: not a number above 0 with a unit that fits, or nothing is limited.
    """

    def number(name: str, value: Amount | None, unit: str) -> float | None:
        return None if value is None else quantity(spelled(name), str(value), unit)

    rest = {
        "macs": number("max_macs", macs, "MACs"),
        "params": number("max_params", params, "parameters"),
        "peak_activation_bytes": number("max_activations", activations, "bytes"),
    }
    times = [number("max_latency", latency, "ms") for latency in latencies] or [None]
    return [Limits(latency_ms=time, **rest) for time in times]


def picked(cards: Sequence[Card]) -> list[bool]:
    """Whether each is, of one budget on one device in several precisions, the network that was
    measured to be the best: on validation images, the test is for none to choose by."""
    groups: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        device = card.device.removesuffix(f"-{card.runs_in}")
        groups.setdefault((device, card.name), []).append(card)
    best = [max(group, key=lambda card: card.validation) for group in groups.values()]
    return [any(card is one for one in best) for card in cards]
