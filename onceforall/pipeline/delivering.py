"""A chosen network as files: calibrated, timed, evaluated on the test set, exported, checked.

Knows what is known of the supernet (`Evidence`); nothing of how a network was chosen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from onceforall import devices
from onceforall.costs import cost
from onceforall.data import Images
from onceforall.export import Exported, Opened, export, moved
from onceforall.files import write_json, write_text
from onceforall.pipeline.collecting import digest, shape_of
from onceforall.pipeline.evidence import Evidence
from onceforall.pipeline.limits import Limits
from onceforall.report.card import markdown
from onceforall.space import Arch
from onceforall.supernet import Metric, calibrated, save_network, score, unlabelled_batches

CALIBRATED_ON = 300  # training images, in int8
COMPARED_ON = 200  # validation images, on which file and network should agree


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
    file: str = "network.onnx"  # in the folder: checked, scored on the test set, timed
    file_bytes: int | None = None
    file_digest: str | None = None
    precision: str = "fp32"  # of the file
    runs_in: str = "fp32"  # on the device
    max_abs_diff: float | None = None  # of the exported file's outputs, against PyTorch
    agreement: float | None = None  # share of images whose first class is PyTorch's
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
    exported: Exported  # its file, which was timed, where the device opens files
    folder: TemporaryDirectory  # of that file, until it is delivered
    latency_ms: float
    disturbed: bool  # whether the machine was busy otherwise
    qualified_ms: float | None = None  # its latency when it was a candidate


def calibrated_and_timed(evidence: Evidence, arch: Arch) -> Timed:
    """Calibrated, exported, checked on real images; the file that will be delivered is timed, or
    the network itself on a device that runs networks of this process."""
    network = calibrated(evidence.supernet, arch, evidence.data)
    target, data = evidence.target, evidence.data
    form = target.delivered_format
    own = copy.deepcopy(network).cpu()
    images = _images(data.train, arch.resolution, CALIBRATED_ON, own)
    facts = {
        "arch": str(arch),
        "resolution": arch.resolution,
        **data.facts(),
        "supernet": digest(evidence.supernet),
        "task": evidence.task.name,
    }
    folder = TemporaryDirectory()
    exported = export(
        own,
        shape_of(evidence.supernet.family, arch),
        Path(folder.name) / f"network{form.suffix}",
        form.name,
        facts,
        precision=target.file_precision(form),
        calibration=images,
        images=_images(data.validation, arch.resolution, COMPARED_ON, own),
    )
    timed = network if target.format is None else exported.path
    (time,) = evidence.measure_latencies([timed], [arch])
    return Timed(arch, network, exported, folder, time, devices.disturbed(target))


def _images(images: Images, resolution: int, n: int, network: nn.Module) -> Tensor:
    """(n, C, H, W) of them, as they are evaluated."""
    return torch.cat(list(unlabelled_batches(images, resolution, n, network)))


def deliver(
    evidence: Evidence, name: str, timed: Timed, out: Path, limits: Limits | None = None
) -> Card:
    """Evaluates the file of a calibrated network on the test set, puts it in its place, and writes
    the card that says it all."""
    arch, metric = timed.arch, evidence.metric
    family = evidence.supernet.family
    network = copy.deepcopy(timed.network).cpu()
    counts = cost(network, shape_of(family, arch))
    file = Opened(timed.exported.path, max(evidence.target.threads, 1))
    test = score(file, arch.resolution, evidence.data.test, metric)
    validation = evidence.scores[arch]
    if timed.exported.precision != "fp32":  # what int8 costs is measured, too
        validation = score(file, arch.resolution, evidence.data.validation, metric).value
    exported = moved(timed.exported, out / timed.exported.path.name)
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
        validation=validation,
        test=test.value,
        latency_predicted_ms=float(evidence.latency_predictor.predict(population).mean[0]),
        latency_measured_ms=timed.latency_ms,
        latency_qualified_ms=timed.qualified_ms,
        disturbed=timed.disturbed,
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
        uncovered=counts.uncovered,
    )
    written = {
        **card.to_dict(),
        "test_images": test.images,
        "data": evidence.data.facts(),
        "supernet": digest(evidence.supernet),
        **devices.provenance(evidence.target),
    }
    write_text(out / "card.md", markdown(written, metric.name, metric.label, metric.unit))
    write_json(out / "card.json", written)
    return card


def reference(evidence: Evidence, name: str, arch: Arch, out: Path) -> Card:
    """A given arch, treated as specialised ones are: the largest and the smallest, to compare."""
    timed = calibrated_and_timed(evidence, arch)
    evidence.measure_score(arch)
    evidence.delivered[arch] = timed.latency_ms
    return deliver(evidence, name, timed, out)
