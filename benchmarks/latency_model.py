r"""A latency model of this machine's CPU after a few minutes of measuring: `ofa_mbv3_w1.0`, 128 to
224 px. What it predicts is compared with the times of 40 random networks that it has not seen; they
are timed before and after, in three visits each, and how far these two lie apart is the noise that
no model can be below. Beside it the look-up table whose sums of single layers stand for a network
(`--blocks`). `--raw FOLDER` keeps every time of it.

    python benchmarks/latency_model.py onnxruntime-cpu openvino-cpu --seconds 170 --blocks \
        --out docs/figures/latency-model.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import figures
import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from onceforall import devices, families
from onceforall.devices import Target
from onceforall.families import Family
from onceforall.pipeline import collecting
from onceforall.pipeline.latency_models import collect_until_predicted
from onceforall.predictors import fit_latency
from onceforall.space import Arch

HELD_OUT = 40
VISITS = 3  # of the held-out networks, before and after
TARGET = 0.5  # percent: never reached, so that all of the time is used
RESOLUTIONS = (128, 160, 192, 224)
COLUMNS = {
    "device": "{device}",
    "records": "{records}",
    "measured for": "{seconds_measuring} s",
    "tau": "{model_tau:.3f}",
    "MAPE": "{model_mape:.1f}%",
    "noise: tau, MAPE between the two times": "{noise_tau:.3f}, {noise_mape:.1f}%",
    "sums of layers: tau, MAPE": "{blocks_tau:.3f}, {blocks_mape:.1f}%",
    "scaled": "{blocks_scaled_mape:.1f}%",
    "measured in": "{seconds_blocks} s",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="+")
    parser.add_argument("--seconds", type=float, default=180, help="of measuring")
    figures.add_option(parser)
    parser.add_argument("--raw", type=Path, help="a folder for the times themselves")
    parser.add_argument("--blocks", action="store_true", help="time single layers, too")
    asked = parser.parse_args()
    family = families.get("ofa_mbv3_w1.0", resolutions=list(RESOLUTIONS))
    table = figures.Table(COLUMNS)
    for device in asked.device:
        found, raw = judged(family, Target(device), asked.seconds, asked.blocks)
        table.add(**found)
        if asked.raw is not None:
            asked.raw.mkdir(parents=True, exist_ok=True)
            (asked.raw / f"{device}.json").write_text(json.dumps(raw), encoding="utf-8")
    figures.write(asked.out, {"latency-model": table}, "onnxruntime", "openvino")


def judged(
    family: Family, target: Target, seconds: float, blocks: bool
) -> tuple[dict[str, object], dict[str, object]]:
    """The model of one device, and how far it is off; and the times."""
    space = family.space
    tests = space.decode(space.sample(np.random.default_rng(77), HELD_OUT))
    first = timed(family, target, tests)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        done = collect_until_predicted(family, target, path, error=TARGET, seconds=seconds, seed=1)
        labels = collecting.latency_labels(family, target, path)
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    start = time.monotonic()
    predictor = fit_latency(labels)
    fitting = time.monotonic() - start
    second = timed(family, target, tests)
    predicted = predictor.predict(space.encode(tests)).mean
    measured = (first + second) / 2
    found: dict[str, object] = {
        "device": str(target),
        "records": len(labels),
        "seconds_measuring": round(done.seconds),
        "noise_of_one": round(done.noise, 2),
        "seconds_fitting": round(fitting),
        **{f"model_{k}": v for k, v in errors(predicted, measured).items()},
        **{f"noise_{k}": v for k, v in errors(second, first).items()},
    }
    raw: dict[str, object] = {
        "archs": [str(arch) for arch in tests],
        "before": first.tolist(),
        "after": second.tolist(),
        "predicted": predicted.tolist(),
        "records": records,
    }
    if blocks:
        start = time.monotonic()
        table = collecting.block_latencies(family, target, RESOLUTIONS)
        sums = table(space.encode(tests))
        scaled = sums * np.exp(np.mean(np.log(measured / sums)))  # its best case: one free factor
        found["seconds_blocks"] = round(time.monotonic() - start)
        raw["sums"] = sums.tolist()
        found |= {f"blocks_{k}": v for k, v in errors(sums, measured).items()}
        found |= {f"blocks_scaled_{k}": v for k, v in errors(scaled, measured).items()}
    return found, raw


def timed(family: Family, target: Target, archs: list[Arch]) -> NDArray[np.float64]:
    """Milliseconds of each."""
    found: list[float] = []
    for i in range(0, len(archs), devices.TOGETHER):
        group = archs[i : i + devices.TOGETHER]
        pairs = [(family.build(a).eval(), collecting.shape_of(family, a)) for a in group]
        times = devices.measure_many(target, pairs, collecting.ROUNDS, visits=VISITS)
        found += [latency.median_ms for latency in times]
    return np.array(found)


def errors(given: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, float]:
    """Kendall's tau, and the mean absolute error in percent."""
    tau = float(kendalltau(given, true).statistic)
    return {"tau": round(tau, 4), "mape": round(100 * float(np.abs(given / true - 1).mean()), 2)}


if __name__ == "__main__":
    main()
