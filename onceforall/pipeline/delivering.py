"""A chosen network as files: calibrated, timed, evaluated on the test set, exported, checked.

Knows what is known of the supernet (`Evidence`); nothing of how a network was chosen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from onceforall import devices
from onceforall.costs import cost
from onceforall.export import Exported, export
from onceforall.files import write_json
from onceforall.pipeline.collecting import digest, shape_of
from onceforall.pipeline.evidence import Evidence
from onceforall.pipeline.limits import Limits
from onceforall.space import Arch
from onceforall.supernet import Metric, calibrated, save_network, score


@dataclass(frozen=True)
class Card:
    """What is known of a delivered network: predicted beside measured."""

    name: str
    arch: Arch
    params: int
    macs: int
    peak_activation_bytes: int
    metric: Metric
    predicted: float | None  # the metric on validation images
    validation: float
    test: float
    latency_predicted_ms: float | None
    latency_measured_ms: float  # of the network as delivered, after it was chosen
    latency_qualified_ms: float | None = None  # as a candidate; None: it was none
    disturbed: bool = False  # whether the machine was busy otherwise while it was measured
    limits: dict[str, float] = field(default_factory=dict)
    device: str = ""
    folder: str = ""
    max_abs_diff: float | None = None  # of the exported file's outputs, against PyTorch
    uncovered: tuple[str, ...] = ()  # operations that MACs and activations leave out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the metric's values have its name, as in `top1_test`."""
        found: dict[str, Any] = {}
        for key, value in vars(self).items():
            if key in ("predicted", "validation", "test"):
                found[f"{self.metric.name}_{key}"] = value
            elif key != "metric":
                found[key] = value
        return {**found, "arch": str(self.arch), "uncovered": list(self.uncovered)}


@dataclass(frozen=True)
class Timed:
    """A calibrated network, and its latency as it was measured for the card."""

    arch: Arch
    network: nn.Module
    latency_ms: float
    disturbed: bool  # whether the machine was busy otherwise
    qualified_ms: float | None = None  # its latency when it was a candidate


def calibrated_and_timed(evidence: Evidence, arch: Arch) -> Timed:
    network = calibrated(evidence.supernet, arch, evidence.data)
    (time,) = evidence.measure_latencies([network], [arch])
    return Timed(arch, network, time, devices.disturbed(evidence.target))


def deliver(
    evidence: Evidence, name: str, timed: Timed, out: Path, limits: Limits | None = None
) -> Card:
    """Evaluates a calibrated network on the test set, exports it, checks the file, and writes the
    card that says it all."""
    arch, metric = timed.arch, evidence.metric
    family = evidence.supernet.family
    test = score(timed.network, arch.resolution, evidence.data.test, metric)
    network = copy.deepcopy(timed.network).cpu()
    shape = shape_of(family, arch)
    counts = cost(network, shape)
    facts = {"arch": str(arch), "resolution": arch.resolution, **evidence.data.facts()}
    exported: Exported = export(network, shape, out / "network.onnx", "onnx", facts)
    about = {"data": evidence.data.facts(), "task": evidence.task.name}
    save_network(out / "network.safetensors", network, family, arch, about)
    population = evidence.supernet.space.encode([arch])
    given = {} if limits is None else {k: v for k, v in vars(limits).items() if v is not None}
    card = Card(
        name=name,
        arch=arch,
        params=counts.params,
        macs=counts.macs,
        peak_activation_bytes=counts.peak_activation_bytes,
        metric=metric,
        predicted=float(evidence.score_predictor.predict(population).mean[0]),
        validation=evidence.scores[arch],
        test=test.value,
        latency_predicted_ms=float(evidence.latency_predictor.predict(population).mean[0]),
        latency_measured_ms=timed.latency_ms,
        latency_qualified_ms=timed.qualified_ms,
        disturbed=timed.disturbed,
        limits=given,
        device=str(evidence.target),
        folder=str(out),
        max_abs_diff=exported.max_abs_diff,
        uncovered=counts.uncovered,
    )
    written = {
        **card.to_dict(),
        "test_images": test.images,
        "data": evidence.data.facts(),
        "supernet": digest(evidence.supernet),
        **devices.provenance(evidence.target),
    }
    write_json(out / "card.json", written)
    return card


def reference(evidence: Evidence, name: str, arch: Arch, out: Path) -> Card:
    """A given arch, treated as specialised ones are: the largest and the smallest, to compare."""
    timed = calibrated_and_timed(evidence, arch)
    evidence.measure_score(arch)
    evidence.delivered[arch] = timed.latency_ms
    return deliver(evidence, name, timed, out)
