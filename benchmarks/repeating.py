"""Whether a latency is within the noise that was stated when it was measured before.

Each run is a process of its own, `onceforall measure FILE`; runs of the networks take turns. Of all
pairs of runs of a network it is counted how many agree: they differ by no more than the root of the
sum of both noises squared, as 95% of pairs should. `--visits 1` is what a measurement in one go
would have said.

    python benchmarks/repeating.py onnxruntime-cpu --runs 6 --out docs/figures/repeating.json
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import figures

from onceforall import families
from onceforall.devices import VISITS, Target
from onceforall.export import export, format_named
from onceforall.pipeline.collecting import shape_of

COLUMNS = {
    "device": "{device}",
    "network": "{network}",
    "visits": "{visits}",
    "ms, of each run": "{times}",
    "noise stated, %": "{noises}",
    "pairs that agree": "{agree} of {pairs}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="+")
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--visits", type=int, nargs="+", default=[1, VISITS])
    figures.add_option(parser)
    asked = parser.parse_args()
    table = figures.Table(COLUMNS)
    family = families.get("ofa_mbv3_w1.0", resolutions=[128, 224])
    archs = {"smallest": family.space.smallest(), "largest": family.space.largest()}
    for device in asked.device:
        target = Target(device)
        with tempfile.TemporaryDirectory() as folder:
            form = format_named(target.known.formats[0])
            files = {name: Path(folder, f"{name}{form.suffix}") for name in archs}
            for name, file in files.items():
                shape = shape_of(family, archs[name])
                network = family.build(archs[name]).eval()
                export(network, shape, file, form.name, {"resolution": shape[-1]})
            found: dict[tuple[str, int], list[tuple[float, float]]] = {}
            for _ in range(asked.runs):
                for name, file in files.items():
                    for visits in asked.visits:
                        run = measured(device, str(file), visits)
                        found.setdefault((name, visits), []).append(run)
        for (name, visits), runs in found.items():
            table.add(device=device, network=name, visits=visits, **agreeing(runs))
    figures.write(asked.out, {"repeating": table}, "onnxruntime", "openvino")


def measured(device: str, file: str, visits: int) -> tuple[float, float]:
    """Milliseconds and noise, by the command in a process of its own."""
    found = said("measure", file, "--device", device, "--visits", str(visits))
    return found["median_ms"], found["noise"]


def said(*words: str) -> dict[str, Any]:
    """What a command of ours prints with --json."""
    command = [sys.executable, "-m", "onceforall", *words, "--json"]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def agreeing(runs: list[tuple[float, float]]) -> dict[str, object]:
    """What runs of one network gave, and how many pairs of them agree."""
    pairs = list(combinations(runs, 2))
    agree = sum(abs(a - b) <= math.hypot(a * na, b * nb) for (a, na), (b, nb) in pairs)
    return {
        "times": ", ".join(f"{ms:.4g}" for ms, _ in runs),
        "noises": ", ".join(f"{100 * noise:.1f}" for _, noise in runs),
        "pairs": len(pairs),
        "agree": agree,
    }


if __name__ == "__main__":
    main()
