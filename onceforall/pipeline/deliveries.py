"""Networks for several devices, precisions and budgets from one run: `specialize_all`.

The command `specialize` and `Run.specialize` are this function, each with its own way to say what
is wanted: `targets_of` and `budgets_of`. Knows runs, targets and limits; nothing of how a network
is chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from onceforall.devices import ENERGY, Target, device_named, tells_energy
from onceforall.errors import InputError, choices, suggestion
from onceforall.pipeline.delivering import Card, delivered_before
from onceforall.pipeline.gathering import gather_evidence
from onceforall.pipeline.journal import Journal
from onceforall.pipeline.limits import Limits, refuse_impossible
from onceforall.pipeline.priors import read_prior
from onceforall.pipeline.recording import digest
from onceforall.pipeline.runs import Run
from onceforall.pipeline.specializing import Unmet, specialize
from onceforall.progress import say
from onceforall.search import Infeasible
from onceforall.units import quantity

# "0.05ms", "vela=0.3ms", "300M"; a number is in ms, multiply-adds, parameters, bytes, mJ
Amount = str | float


class Options(TypedDict, total=False):
    """What `specialize_run` takes beside latencies and devices."""

    max_macs: Amount | None
    max_params: Amount | None
    max_activations: Amount | None
    max_sram: Amount | None
    max_flash: Amount | None
    max_file: Amount | None
    max_energy: Amount | None
    threads: int
    batch: int
    out: Path | str | None
    samples: int
    images: int | None
    risk: float
    seed: int
    on: str | None
    prior: Path | str | None


def specialize_run(
    run: Run,
    latencies: Sequence[Amount],
    devices: Sequence[str],
    precisions: Sequence[str],
    *,
    threads: int = 1,
    batch: int = 1,
    out: Path | str | None = None,
    samples: int = 100,
    images: int | None = None,
    risk: float = 1.0,
    seed: int = 0,
    on: str | None = None,
    prior: Path | str | None = None,
    **limits: Amount | None,
) -> list[Card]:
    """As `specialize_all`, of what a person says: names of devices, "0.05ms", max_macs="300M"."""
    targets = targets_of(devices, precisions, threads, batch)
    return specialize_all(
        run,
        budgets_of(targets, latencies, limits),
        None if out is None else Path(out),
        samples=samples,
        images=images,
        risk=risk,
        seed=seed,
        on=on,
        prior=None if prior is None else Path(prior),
    )


def specialize_all(
    run: Run,
    budgets: Mapping[Target, Sequence[Limits]],
    out: Path | None = None,
    *,
    samples: int = 100,
    images: int | None = None,
    risk: float = 1.0,
    seed: int = 0,
    on: str | None = None,
    prior: Path | None = None,
) -> list[Card]:
    """The best network for each target and budget: by target first, in the order given.

    A call that was interrupted is gone on with by the same call: it finds the same networks, and
    measures nothing twice. One network delivered before for the same target and limits is found
    again. A budget that is not met on one target does not keep the others from theirs.

    Args:
        out: the folder, with one a target in it; of a single target, that folder itself. The run's
            own, if left out: RUN/specialized.
        samples: score and latency records that the predictors are fitted on.
        images, risk, seed, on: as `gather_evidence` has them.
        prior: the file of another predictor of scores, whose output is one more feature.

    Raises:
        Infeasible, Unmet: of a budget no precision of a device has a network; after all others
            were delivered.
        InputError: a network's folder holds something else already; a limit on what a target does
            not tell; or as `gather_evidence`.
    """
    base = out or run.folder / "specialized"
    alone = out not in (None, run.folder) and len(budgets) == 1
    folders = {target: base if alone else base / str(target) for target in budgets}
    hint = None if prior is None else read_prior(prior, run.supernet.space)
    by = None if hint is None else hint.name
    before: dict[Target, list[Card | None]] = {}
    for target, folder in folders.items():
        for limits in budgets[target]:
            for name in limits.told:
                known = target.known
                told = name == ENERGY and tells_energy() and not known.gpu
                if known.here and not told:
                    who = "" if name == ENERGY else "; vela does"
                    raise InputError(f"limit {name}: {target} does not tell it here{who}")
        before[target] = [
            delivered_before(folder / str(x), run.supernet, target, x, run.task.metric, by)
            for x in budgets[target]
        ]
    for limits in itertools.chain(*budgets.values()):
        refuse_impossible(run.supernet.family, limits)
    data = run.data()
    arguments = {
        "supernet": digest(run.supernet),
        "images_digest": data.digest("validation"),
        "budgets": {str(target): [str(x) for x in limits] for target, limits in budgets.items()},
        "samples": samples,
        "images": images,
        "risk": risk,
        "seed": seed,
        "prior": by,
    }
    journal = Journal(base, arguments)
    cards: list[Card] = []
    missed: dict[tuple[Target, Limits], Infeasible | Unmet] = {}
    for target, folder in folders.items():
        start = journal.start(str(target))
        found = [card for card in before[target] if card is not None]
        if start is None and len(found) == len(budgets[target]):
            say(
                f"{target}: all was delivered before, to {folder}; to search anew, also with other"
                " options, remove it or name another folder"
            )
            cards += found
            continue
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
            prior=hint,
            start=start,
        )
        journal.begun(evidence)
        for limits in budgets[target]:
            try:
                cards.append(specialize(evidence, limits, folder / str(limits), seed=seed))
            except (Infeasible, Unmet) as error:
                missed[target, limits] = error
                if sum(len(each) for each in budgets.values()) > 1:  # else it is raised alone
                    say(f"{target}: {error}")
    journal.finished()
    by_name = {str(target): target.device for target in budgets}
    met = {(by_name[card.device], card.name) for card in cards}
    for (target, limits), unmet in missed.items():
        if (target.device, str(limits)) not in met:
            raise unmet
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


_LIMITED = {  # what a person calls a limit -> the field of `Limits`, and its unit
    "max_macs": ("macs", "MACs"),
    "max_params": ("params", "parameters"),
    "max_activations": ("peak_activation_bytes", "bytes"),
    "max_sram": ("sram_bytes", "bytes"),
    "max_flash": ("flash_bytes", "bytes"),
    "max_file": ("file_bytes", "bytes"),
    "max_energy": ("energy_mj", "mJ"),
}


def budgets_of(
    targets: Sequence[Target],
    latencies: Sequence[Amount] = (),
    limits: Mapping[str, Amount | None] = MappingProxyType({}),
    spelled: Callable[[str], str] = str,
) -> dict[Target, list[Limits]]:
    """Of each target one budget a latency, each with all the other limits.

    Args:
        latencies: of all targets; or such as "vela=0.3ms", of that device alone.
        limits: all others, by the names that `_LIMITED` has, such as max_macs.
        spelled: how an argument such as max_latency is called where it was given.

    Raises:
        InputError: not a number above 0 with a unit that fits, a device that is none of the
            targets', or a target of which nothing is limited.
    """

    def number(name: str, value: Amount | None, unit: str) -> float | None:
        return None if value is None else quantity(spelled(name), str(value), unit)

    rest: dict[str, float | None] = {}
    for name, value in limits.items():
        if name not in _LIMITED:
            known = choices(_LIMITED)
            raise InputError(f"{name}: is no limit; there are {known}{suggestion(name, _LIMITED)}")
        field, unit = _LIMITED[name]
        rest[field] = number(name, value, unit)
    named = dict.fromkeys(target.device for target in targets)
    times: dict[str, list[float | None]] = {device: [] for device in named}
    for latency in latencies:
        device, equals, value = str(latency).rpartition("=")
        if equals and device not in named:
            raise InputError(
                f"{spelled('max_latency')}: {latency}: no such device is asked for; there are"
                f" {choices(named)}"
            )
        for name in [device] if device else named:
            time = number("max_latency", value, "ms")
            if time not in times[name]:
                times[name].append(time)
    for device in named:
        if not times[device] and latencies and all(value is None for value in rest.values()):
            raise InputError(f"{spelled('max_latency')}: none is for {device}")
    return {
        target: [Limits(latency_ms=time, **rest) for time in times[target.device] or [None]]
        for target in targets
    }


def picked(cards: Sequence[Card]) -> list[bool]:
    """Whether each is, of one budget on one device in several precisions, the network that was
    measured to be the best: on validation images, the test is for none to choose by."""
    groups: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        device = card.device.removesuffix(f"-{card.runs_in}")
        groups.setdefault((device, card.name), []).append(card)
    best = [max(group, key=lambda card: card.validation) for group in groups.values()]
    return [any(card is one for one in best) for card in cards]
