"""Scores of int8 files, predicted beside measured: with and without what int8 is known to change.

Archs are drawn at random from a run's space and taken one after the other, as `specialize` takes
its candidates: predicted first, by a predictor of fp32 scores and by the networks and int8 files
that were scored before; then measured on all validation images.

    python benchmarks/int8_scores.py runs/mine onnxruntime-cpu openvino-cpu --archs 20
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from onceforall.devices import Target
from onceforall.pipeline import Run, gather_evidence, open_run

RECORDS = 40  # of fp32 scores, that the predictor is fitted on
LATENCIES = 12  # which nothing here depends on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("devices", nargs="+")
    parser.add_argument("--archs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    run = open_run(args.run)
    for device in args.devices:
        measured(run, device, args.archs, args.seed)


def measured(run: Run, device: str, n: int, seed: int) -> None:
    target, started = Target(device, precision="int8"), time.monotonic()
    found = gather_evidence(
        run, run.data(), target, score_samples=RECORDS, latency_samples=LATENCIES
    )
    space = found.supernet.space
    known = {row.tobytes() for row in found.score_labels.population}
    drawn = space.sample(np.random.default_rng(seed), 2 * n)
    archs = space.decode(np.array([row for row in drawn if row.tobytes() not in known][:n]))
    rows = []
    for arch in archs:
        predicted, change = found.predict_score(arch)
        network = found.measure_score(arch)
        rows.append((predicted - change.value, predicted, network, found.scores[arch]))
        print(f"{arch} {' '.join(f'{value:.2f}' for value in rows[-1])}", flush=True)
    fp32, int8, network, file = np.array(rows).T
    unit = found.metric.difference
    print(f"{target}: {len(rows)} archs, {time.monotonic() - started:.0f} s")
    lost = file - network
    print(f"  int8 changes {lost.mean():+.3f} {unit}, standard deviation {lost.std():.3f}")
    for name, values in (("without the change", fp32), ("with it", int8)):
        for what, part in (("all", slice(None)), ("after five", slice(5, None))):
            error = values[part] - file[part]
            print(
                f"  {name}, {what}: off by {np.abs(error).mean():.3f} {unit} on average,"
                f" bias {error.mean():+.3f}, rmse {np.sqrt((error**2).mean()):.3f}"
            )


if __name__ == "__main__":
    main()
