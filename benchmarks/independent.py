"""Sub-networks of a supernet against the same archs trained alone.

Each arch is trained from scratch on the same images, for as many gradient steps as the
whole supernet took (all phases together), every one of them its own; with the batch
size, optimiser, label smoothing and seed of the supernet and the learning rate of its
first phase. Both kinds are calibrated and evaluated alike on the test set.

    python benchmarks/independent.py --seeds 0 1 2 --out independent.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onceforall import config, data, training
from onceforall.accuracy import (
    CALIBRATION_IMAGES,
    accuracy,
    calibrated,
    placing,
    unlabelled_batches,
)
from onceforall.calibration import calibrate
from onceforall.config import Settings
from onceforall.curriculum import curriculum
from onceforall.families import Family
from onceforall.files import write_json
from onceforall.images import Request
from onceforall.losses import supervised
from onceforall.progress import say, track
from onceforall.runs import open_run
from onceforall.space import Arch
from onceforall.supernet import SuperNet


def archs_of(family: Family) -> dict[str, Arch]:
    """Smallest, middle and largest."""
    space = family.space
    middle = space.restrict(
        depth=[s.depth[len(s.depth) // 2] for s in space.stages],
        expand=[s.expand[len(s.expand) // 2] for s in space.stages],
    ).largest()
    return {
        "smallest": space.smallest(),
        "middle": replace(middle, resolution=space.resolution[len(space.resolution) // 2]),
        "largest": space.largest(),
    }


def train_alone(settings: Settings, found: data.Data, arch: Arch, steps: int) -> nn.Module:
    """An arch trained from scratch, by itself."""
    family = training.family_of(settings, found)
    generator = torch.Generator().manual_seed(settings.seed)
    network = SuperNet(family, generator).extract(arch).train()
    network.to(memory_format=torch.channels_last)
    first = replace(settings.phases[0], steps=steps, epochs=None)
    phase = curriculum(family.space, [first.share(len(found.train), settings.batch_size)]).phases[0]
    optimizer = training.sgd(network, settings)
    place = placing(network)
    stream = found.train.stream(_batches(settings, len(found.train), arch.resolution, steps))
    for step, (images, labels) in enumerate(track(stream, "alone", steps)):
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate(step)
        loss = supervised(network(place(images)), labels, settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batches = unlabelled_batches(found.train, arch.resolution, CALIBRATION_IMAGES, network)
    return calibrate(network, batches)


def _batches(settings: Settings, n: int, resolution: int, steps: int) -> Any:
    per_epoch = n // settings.batch_size
    order: list[int] = []
    for step in range(steps):
        epoch, i = divmod(step, per_epoch)
        if i == 0:
            order = np.random.default_rng((settings.seed, 1, epoch)).permutation(n).tolist()
        indices = order[i * settings.batch_size : (i + 1) * settings.batch_size]
        yield Request(indices, resolution, settings.seed * 1_000_003 + step * 64)


def compare(settings: Settings, found: data.Data, folder: Path) -> list[dict[str, Any]]:
    """One seed: a row an arch."""
    outcome = training.train(folder, settings, found)
    supernet = open_run(folder).supernet
    rows = []
    for name, arch in archs_of(supernet.family).items():
        lent = calibrated(supernet, arch, found)
        shared = accuracy(lent, arch.resolution, found.test).top1
        alone = accuracy(
            train_alone(settings, found, arch, outcome.steps), arch.resolution, found.test
        ).top1
        row = {"arch": name, "seed": settings.seed, "supernet": shared, "alone": alone}
        say(f"{name}, seed {settings.seed}: {shared:.2f}% in the supernet, {alone:.2f}% alone")
        rows.append({**row, "spec": str(arch), "steps": outcome.steps})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means and standard deviations over the seeds."""
    lines = [
        "| arch | in the supernet | trained alone | difference |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["arch"] for row in rows):
        mine = [row for row in rows if row["arch"] == name]
        cells = [_spread([row[k] for row in mine]) for k in ("supernet", "alone")]
        difference = _spread([row["supernet"] - row["alone"] for row in mine], sign=True)
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {difference} |")
    return "\n".join(lines)


def _spread(values: list[float], sign: bool = False) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{'+' if sign else ''}.2f} ± {deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="a JSON file of all rows")
    parser.add_argument("changes", nargs="*", help="key=value changes of the recipe")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        settings = config.load(given.recipe, [*given.changes, f"seed={seed}"])
        found = data.load(settings.data)
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(settings, found, Path(folder) / "run")
    if given.out is not None:
        write_json(given.out, rows)
    print(json.dumps({"steps": rows[0]["steps"], "seeds": given.seeds}))
    print(table(rows))


if __name__ == "__main__":
    main()
