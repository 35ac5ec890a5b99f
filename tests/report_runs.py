"""Runs for tests of the report: one by the real pipeline, and folders of records and cards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onceforall import families
from onceforall.costs import cost_tables
from onceforall.devices import Target
from onceforall.files import write_json
from onceforall.pipeline import Limits, gather_evidence, open_run, specialize
from onceforall.pipeline.delivering import reference
from onceforall.records import Record, write_jsonl

DEVICE = "onnxruntime-cpu"
HOSTILE = "</script><img src=x onerror=\"document.title='run'\">"


def real_run(trained: Path, folder: Path) -> Path:
    """A copy of a run, recorded, and two networks delivered: the smallest, and one for 100 ms."""
    run = open_run(shutil.copytree(trained, folder))
    evidence = gather_evidence(
        run, run.data(), Target(), score_samples=12, latency_samples=16, images=100
    )
    smallest = evidence.supernet.space.smallest()
    reference(evidence, "smallest", smallest, folder / "networks" / "smallest")
    specialize(evidence, Limits(latency_ms=100.0), folder / "networks" / "100ms")
    return folder


def recorded_run(
    folder: Path,
    n: int,
    classes: Sequence[str] = ("cat", "dog"),
    *,
    device: str = DEVICE,
    name: str = "",
) -> Path:
    """Records of n archs, each of both metrics, and three cards. By hand: the latency is the MACs
    in millions, and the score rises with their logarithm; both scatter by a percent."""
    family = families.get("mbv3_mini")
    rng = np.random.default_rng(0)
    population = np.unique(family.space.sample(rng, 2 * n + 50), axis=0)
    population = population[rng.permutation(len(population))[:n]]
    archs, macs = family.space.decode(population), cost_tables(family)["macs"](population) / 1e6
    latency = macs * np.exp(rng.normal(0, 0.01, n))
    score = 80 + 5 * np.log10(macs) + rng.normal(0, 0.1, n)
    facts = {"p10_ms": 0.1, "p90_ms": 9.0, "runtime": "a runtime 1.0"}
    folder.mkdir(parents=True)
    write_jsonl(
        folder / "accuracy.jsonl",
        [Record(arch, "top1", float(v), "%") for arch, v in zip(archs, score, strict=True)],
    )
    write_jsonl(
        folder / f"latency-{device}.jsonl",
        [
            Record(arch, "latency_ms", float(v), "ms", device, facts)
            for arch, v in zip(archs, latency, strict=True)
        ],
    )
    for place, row in zip(
        ("small", "middle", "big"), np.argsort(macs)[[0, n // 2, -1]], strict=True
    ):
        limit = round(float(latency[row]) * 1.05, 4)
        found = card(name or f"{limit}ms", str(archs[row]), float(latency[row]), float(score[row]))
        found |= {"limits": {"latency_ms": limit}, "device": device}
        found["data"] = {"name": "pets", "classes": list(classes), "channels": 3}
        write_json(folder / "specialized" / device / place / "card.json", found)
    return folder


def card(name: str, arch: str, latency_ms: float, score: float) -> dict[str, Any]:
    return {
        "name": name,
        "arch": arch,
        "params": 1000,
        "macs": 1_000_000,
        "peak_activation_bytes": 2048,
        "top1_predicted": score - 0.1,
        "top1_validation": score,
        "top1_test": score - 0.5,
        "latency_predicted_ms": latency_ms * 0.99,
        "latency_measured_ms": latency_ms,
        "disturbed": False,
        "file": "network.onnx",
        "file_bytes": 4096,
        "precision": "fp32",
        "test_images": 100,
    }


def log(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """The log of a training, as a training writes it: NaN as such."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
