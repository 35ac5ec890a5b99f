"""What was measured, as a record: what a score or a latency is of, by the names that records use.

Knows supernets, images and devices by what names them; nothing of when or why they are measured,
nor of files of records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from onceforall import devices
from onceforall.data import Data
from onceforall.devices import Latency, Target
from onceforall.families import Family
from onceforall.families.settings import of_networks
from onceforall.records import Record
from onceforall.space import Arch
from onceforall.supernet import ESTIMATORS, Score, SuperNet, checkpoint, scoring

DIGEST = 16  # hexadecimal digits of the digest that names a supernet
LATENCY = "latency_ms"  # the metric
MEASURED = "measured.jsonl"  # in a run's folder: what predictors are not fitted to
FILE = "file_digest"  # named by records of an exported file
BUSY = "disturbed"  # named by records that were measured while something else kept the machine busy
FEW = "few_rounds"  # named by latencies of fewer rounds of timing than `specialize` takes


def score_record(supernet: SuperNet, arch: Arch, found: Score, facts: Mapping[str, Any]) -> Record:
    """Of what was just scored; `facts` is what it is of."""
    of, settings = found.metric, of_networks(supernet.family)
    return Record(arch, of.name, found.value, of.unit, provenance=facts, settings=settings)


def score_facts(supernet: SuperNet, data: Data, images: int) -> dict[str, Any]:
    """What the score of an arch is of: the supernet, by a digest of its weights, the first `images`
    of validation, those included that cannot be read, and what it was calibrated on."""
    return {
        "supernet": digest(supernet),
        **data.part_facts("validation"),
        "images": images,
        "calibration": calibration_facts(data),
    }


def file_facts(supernet: SuperNet, data: Data, split: str, file_digest: str) -> dict[str, Any]:
    """What the score of an exported file on all images of a split is of."""
    return {
        "supernet": digest(supernet),
        **data.part_facts(split),
        "images": len(getattr(data, split)),
        FILE: file_digest,
    }


def calibration_facts(
    data: Data, images: int | None = None, estimator: str = ESTIMATORS[0]
) -> dict[str, Any]:
    """What batch norms were measured on: so many training images, by a digest of all of them; as
    `calibrated` does it, where the rest is left out."""
    n = min(scoring.CALIBRATION_IMAGES if images is None else images, len(data.train))
    return {"images": n, "images_digest": data.digest("train"), "estimator": estimator}


def digest(supernet: SuperNet) -> str:
    """The name that records have for a supernet: of its weights, wherever they live."""
    return checkpoint.digest(supernet.state_dict())[:DIGEST]


def latency_records(
    family: Family,
    target: Target,
    archs: Sequence[Arch],
    times: Sequence[Latency],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> list[Record]:
    """Of what was just measured on this machine; `more` is what else is known of it."""
    circumstances, settings = {**devices.provenance(target), **more}, of_networks(family)
    return [
        latency_record(target, arch, time, circumstances, settings)
        for arch, time in zip(archs, times, strict=True)
    ]


def latency_record(
    target: Target,
    arch: Arch,
    time: Latency,
    circumstances: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Record:
    """Of what was just measured; `circumstances` is what it is of, `settings` the family's."""
    spread = {"p10_ms": time.p10_ms, "p90_ms": time.p90_ms, "runs": time.runs}
    spread |= {} if time.noise is None else {"noise": time.noise}
    facts = spread | dict(time.facts) | dict(circumstances)
    return Record(arch, LATENCY, time.median_ms, "ms", str(target), facts, settings)
