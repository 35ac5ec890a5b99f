"""A chosen network as files: calibrated, timed, evaluated on the test set, exported, checked.

Knows what is known of the supernet (`Evidence`); nothing of how a network was chosen.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onceforall import devices
from onceforall.costs import cost
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.export import copied
from onceforall.files import read_json, write_json, write_text
from onceforall.pipeline.collecting import shape_of
from onceforall.pipeline.evidence import Evidence
from onceforall.pipeline.limits import TOLD, Limits
from onceforall.pipeline.recording import BUSY, calibration_facts, digest
from onceforall.records import Record
from onceforall.report.card import markdown
from onceforall.space import Arch
from onceforall.supernet import Metric, SuperNet, save_network

CARD = "card.json"


@dataclass(frozen=True)
class Card:
    """What is known of a delivered network: predicted beside measured."""

    name: str
    arch: Arch
    params: int
    macs: int
    peak_activation_bytes: int
    metric: Metric
    predicted: float | None  # the metric of the file on validation images
    validation: float
    test: float
    latency_predicted_ms: float | None
    latency_measured_ms: float  # of the network as delivered, after it was chosen
    latency_qualified_ms: float | None = None  # as a candidate; None: it was none
    disturbed: bool = False  # whether the machine was busy otherwise while it was measured
    limits: dict[str, float] = field(default_factory=dict)
    device: str = ""
    folder: str = ""
    file: str = "network.onnx"  # in the folder: checked, scored on the test set, timed
    file_bytes: int | None = None
    file_digest: str | None = None
    precision: str = "fp32"  # of the file
    runs_in: str = "fp32"  # on the device
    max_abs_diff: float | None = None  # of the exported file's outputs, against PyTorch
    agreement: float | None = None  # share of images whose first class is PyTorch's
    told: dict[str, float] = field(default_factory=dict)  # by the device: SRAM, flash, energy
    precision_change: float | None = None  # of what is predicted, by the file's precision
    precision_archs: int = 0  # whose files and networks were scored before, by which it is known
    prior: str | None = None  # of the score predictor: its file's name and digest
    uncovered: tuple[str, ...] = ()  # operations that MACs and activations leave out

    def __repr__(self) -> str:
        text = self.metric.text
        foreseen = "" if self.predicted is None else f" ({text(self.predicted)} predicted)"
        time = self.latency_predicted_ms
        early = "" if time is None else f" ({time:.4g} predicted)"
        return (
            f"Card({self.name} on {self.device}: {self.metric.label} {text(self.validation)}"
            f" validation{foreseen}, {text(self.test)} test; {self.latency_measured_ms:.4g} ms"
            f"{early}; {self.folder}/{self.file})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the metric's values have its name, as in `top1_test`."""
        found: dict[str, Any] = {}
        for key, value in vars(self).items():
            if key in ("predicted", "validation", "test"):
                found[f"{self.metric.name}_{key}"] = value
            elif key != "metric":
                found[key] = value
        return {**found, "arch": str(self.arch), "uncovered": list(self.uncovered)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], metric: Metric) -> Card:
        """The card that `to_dict` wrote."""
        found = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        for key in ("predicted", "validation", "test"):
            found[key] = data[f"{metric.name}_{key}"]
        found |= {"metric": metric, "uncovered": tuple(data["uncovered"])}
        return cls(**{**found, "arch": Arch.parse(data["arch"])})


@dataclass(frozen=True)
class Chosen:
    """An arch, by the latency of the file that is to be delivered, or of the network on a device
    that runs networks of this process."""

    latency: Record
    qualified_ms: float | None = None  # its latency when it was a candidate

    @property
    def arch(self) -> Arch:
        return self.latency.arch


def deliver(
    evidence: Evidence,
    name: str,
    chosen: Chosen,
    out: Path,
    limits: Limits | None = None,
) -> Card:
    """Evaluates the file of an arch on the test set, puts it in its place, and writes the card
    that says it all."""
    latency, metric = chosen.latency, evidence.metric
    arch = chosen.arch
    family, made = evidence.supernet.family, evidence.file(chosen.arch)
    network = copy.deepcopy(made.network).cpu()
    counts = cost(network, shape_of(family, arch))
    test = evidence.score_file_of(arch, "test")
    folder = out.with_name(f".{out.name}.unfinished")  # becomes `out` when it is whole
    shutil.rmtree(folder, ignore_errors=True)
    exported = copied(made.exported, folder / made.exported.path.name)
    about = {
        "data": evidence.data.facts(),
        "task": evidence.task.name,
        "supernet": digest(evidence.supernet),
        "calibration": calibration_facts(evidence.data),
    }
    save_network(folder / "network.safetensors", network, family, arch, about)
    population = evidence.supernet.space.encode([arch])
    predicted, change = evidence.predict_score(arch)
    given = {} if limits is None else {k: v for k, v in vars(limits).items() if v is not None}
    card = Card(
        name=name,
        arch=arch,
        params=counts.params,
        macs=counts.macs,
        peak_activation_bytes=counts.peak_activation_bytes,
        metric=metric,
        predicted=predicted,
        validation=evidence.validation_score(arch),
        test=test.value,
        latency_predicted_ms=float(evidence.latency_predictor.predict(population).mean[0]),
        latency_measured_ms=latency.value,
        latency_qualified_ms=chosen.qualified_ms,
        disturbed=latency.provenance.get(BUSY, False),
        told={k: latency.provenance[k] for k in TOLD if k in latency.provenance},
        limits=given,
        device=str(evidence.target),
        folder=str(out),
        file=exported.path.name,
        file_bytes=exported.bytes,
        file_digest=exported.digest,
        precision=exported.precision,
        runs_in=evidence.target.precision,
        max_abs_diff=exported.max_abs_diff,
        agreement=exported.agreement,
        precision_change=change.value if change.archs else None,
        precision_archs=change.archs,
        prior=None if evidence.prior is None else evidence.prior.name,
        uncovered=counts.uncovered,
    )
    written = {
        **card.to_dict(),
        "test_images": test.provenance["scored"],
        "data": evidence.data.facts(),
        "supernet": digest(evidence.supernet),
        **devices.provenance(evidence.target),
    }
    write_text(folder / "card.md", markdown(written, metric.name, metric.label, metric.unit))
    write_json(folder / CARD, written)
    folder.rename(out)
    return card


def refuse_other_networks(
    out: Path, supernet: SuperNet, target: Target, limits: Limits, prior: str | None
) -> None:
    """Raises InputError where the folder is there and holds anything but what was delivered of the
    supernet, for the target and the limits, by that prior (its name; None: by none)."""
    if not out.exists():
        return
    wanted = {
        "supernet": digest(supernet),
        "device": str(target),
        "limits": {k: v for k, v in vars(limits).items() if v is not None},
        "prior": prior,
    }
    found = read_json(out / CARD) if (out / CARD).exists() else {}
    for name, value in wanted.items():
        if not isinstance(found, dict) or found.get(name) != value:
            raise InputError(
                f"{out}: exists already, and holds no network of {name} {_named(value)}; name"
                " another folder or remove it first"
            )


def _named(value: Any) -> str:
    return "none" if value is None else str(value)


def delivered_before(
    out: Path,
    supernet: SuperNet,
    target: Target,
    limits: Limits,
    metric: Metric,
    prior: str | None = None,
) -> Card | None:
    """The card of the network that was delivered to the folder; None: none was.

    Raises:
        InputError: as `refuse_other_networks`, or its file is not as it was delivered.
    """
    refuse_other_networks(out, supernet, target, limits, prior)
    if not out.exists():
        return None
    card = Card.from_dict(read_json(out / CARD), metric)
    form = target.delivered_format
    path = out / f"network{form.suffix}"
    missing = [file for file in form.files(path) if not file.exists()]
    if missing or (card.file_digest and form.digest(path) != card.file_digest):
        raise InputError(
            f"{missing[0] if missing else path}: is not as it was delivered; remove {out} to have"
            " it written anew"
        )
    return card


def reference(evidence: Evidence, name: str, arch: Arch, out: Path) -> Card:
    """A given arch, treated as specialised ones are: the largest and the smallest, to compare."""
    evidence.measure_score(arch)
    latency = evidence.time_file(evidence.file(arch))
    evidence.delivered[arch] = latency
    return deliver(evidence, name, Chosen(latency), out)
