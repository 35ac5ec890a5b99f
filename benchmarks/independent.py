"""Sub-networks of one supernet against the same archs trained alone, on equal terms.

Both sides draw the same number of training images, `--length` times those of the recipe, with
the same batch size, optimiser, label smoothing and augmentation. A length of 1 compares at equal
images; at the length where another doubling gains nothing, both are trained to convergence. The
learning rate of each side is chosen on validation images (`tune`), with a seed that is used for
nothing else. Archs are drawn at random, anew for each seed, by a generator that training does not
use. The test images are scored once, at the end (`score`).

    python benchmarks/independent.py tune FOLDER --seed 100
    python benchmarks/independent.py train FOLDER --seeds 1 2 3 4 5 --factor 1 --lr 0.2 --length 1
    python benchmarks/independent.py score FOLDER --out docs/figures/independent.json

`train` goes on where it was stopped: networks that are in FOLDER are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import figures
import numpy as np
import torch
from scipy import stats
from torch import nn

from onceforall import data, training
from onceforall.data import Images, Request
from onceforall.families import Family
from onceforall.pipeline import open_run
from onceforall.progress import say, track
from onceforall.space import Arch
from onceforall.supernet import (
    SuperNet,
    calibrate,
    calibrated,
    load_network,
    placing,
    save_network,
    score,
    unlabelled_batches,
)
from onceforall.supernet.scoring import CALIBRATION_IMAGES
from onceforall.supernet.tasks import labels_loss
from onceforall.training import Curriculum, PhaseSettings, Settings, curriculum, load_settings
from onceforall.training.optimizers import optimizer_of
from onceforall.training.scale import family_of

FACTORS = (0.5, 0.75, 1.0, 1.5)  # of the recipe's learning rates
RATES = (0.1, 0.2, 0.4, 0.8)  # peak learning rates of a lone network, a batch of 128
WARMUP = 0.1  # share of a lone network's steps, as in the recipe
COLUMNS = {
    "seed": "{seed}",
    "arch": "{arch}",
    "supernet": "{supernet:.2f}",
    "alone": "{alone:.2f}",
    "difference": "{difference:+.2f}",
    "±": "{half:.2f}",
}
Row = dict[str, Any]
TUNED_ON = 12  # random sub-networks whose mean validation top-1 a supernet is tuned by


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("tune", "train", "score"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "score":
            figures.add_option(command)
            continue
        command.add_argument("--recipe", default="small")
        command.add_argument("--length", type=float, default=1.0, help="of the recipe")
        command.add_argument("--archs", type=int, default=2, help="drawn for a seed")
        command.add_argument("--only", choices=("supernet", "alone"), help="one side")
        command.add_argument("--changes", nargs="*", default=[], help="key=value, of the recipe")
        if name == "tune":
            command.add_argument("--seed", type=int, default=100)
            command.add_argument("--factors", type=float, nargs="*", default=FACTORS)
            command.add_argument("--rates", type=float, nargs="*", default=RATES)
        else:
            command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
            command.add_argument("--factor", type=float, required=True, help="of learning rates")
            command.add_argument("--lr", type=float, required=True, help="of lone networks")
    given = parser.parse_args()
    {"tune": tune, "train": train, "score": score_all}[given.command](given)


# --- the two sides


def settings_of(given: argparse.Namespace, seed: int, factor: float) -> Settings:
    """The recipe, `length` times as long, its learning rates times `factor`."""
    settings = load_settings(given.recipe, [*given.changes, f"seed={seed}"])
    phases = []
    for phase in settings.phases:
        if phase.steps is None:
            raise SystemExit(f"{given.recipe}: phase {phase.name} is not given in steps")
        steps = max(1, round(phase.steps * given.length))
        phases.append(replace(phase, steps=steps, lr=phase.lr * factor))
    return replace(settings, phases=tuple(phases))


def images_of(settings: Settings, found: data.Data) -> int:
    """Training images that the supernet draws, over all phases; each draw counts."""
    plan = _curriculum(settings, found)
    return plan.batches_before(plan.steps) * settings.batch_size


def _curriculum(settings: Settings, found: data.Data) -> Curriculum:
    plans = [phase.plan(len(found.train), settings.batch_size) for phase in settings.phases]
    return curriculum(family_of(settings, found).space, plans)


def archs_of(family: Family, seed: int, n: int) -> list[Arch]:
    """Sub-networks drawn at random: every choice uniform, none favoured."""
    return family.space.decode(family.space.sample(np.random.default_rng((seed, 20)), n))


def supernet_of(folder: Path, settings: Settings, found: data.Data) -> SuperNet:
    """The trained supernet in a folder; trained there first, or gone on with."""
    if not (folder / "supernet.safetensors").exists():
        training.train(folder, settings, found, resume=(folder / "settings.json").exists())
    return open_run(folder).supernet


def train_alone(
    settings: Settings, found: data.Data, arch: Arch, images: int, lr: float
) -> nn.Module:
    """An arch trained from scratch, by itself, on that many images; calibrated."""
    family = family_of(settings, found)
    network = SuperNet(family, torch.Generator().manual_seed(settings.seed)).extract(arch).train()
    fit_alone(network, settings, found, arch, images, lr)
    batches = unlabelled_batches(found.train, arch.resolution, CALIBRATION_IMAGES, network)
    return calibrate(network, batches)


def fit_alone(
    network: nn.Module, settings: Settings, found: data.Data, arch: Arch, images: int, lr: float
) -> None:
    """Trains a network of any code, in place, on that many images at the resolution of `arch`: a
    peak learning rate for a batch, by a warm-up and a cosine."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = images // settings.batch_size
    alone = PhaseSettings("alone", lr=lr, steps=steps, warmup=WARMUP)
    space = family_of(settings, found).space
    plan = curriculum(space, [alone.plan(len(found.train), settings.batch_size)])
    phase = plan.phases[0]
    optimizer = optimizer_of(network, settings)
    place = placing(network)
    train = found.train.prepared(arch.resolution)
    stream = train.stream(_batches(settings, len(train), arch.resolution, steps))
    for step, (batch, labels) in enumerate(track(stream, "alone", steps)):
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate(step)
        loss = labels_loss(network(place(batch)), labels, settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _batches(settings: Settings, n: int, resolution: int, steps: int) -> Iterator[Request]:
    """Epoch after epoch, each in an order of its own."""
    per_epoch = n // settings.batch_size
    order: list[int] = []
    for step in range(steps):
        epoch, i = divmod(step, per_epoch)
        if i == 0:
            order = np.random.default_rng((settings.seed, 1, epoch)).permutation(n).tolist()
        indices = order[i * settings.batch_size : (i + 1) * settings.batch_size]
        yield Request(indices, resolution, settings.seed * 1_000_003 + step * 64)


# --- the commands


def tune(given: argparse.Namespace) -> None:
    """Validation top-1 of each side at each learning rate; no test image is seen."""
    for factor in given.factors if given.only != "alone" else ():
        settings = settings_of(given, given.seed, factor)
        found = data.load(settings.data)
        folder = given.folder / f"tune-{given.recipe}-{given.seed}-x{given.length:g}-{factor:g}"
        supernet = supernet_of(folder, settings, found)
        archs = archs_of(supernet.family, given.seed, TUNED_ON)
        tops = [_scored(calibrated(supernet, a, found), a, found.validation) for a in archs]
        row = {"side": "supernet", "recipe": given.recipe, "length": given.length}
        row |= {"factor": factor, "validation": statistics.mean(tops)}
        _note(given.folder, row | {"images": images_of(settings, found)})
    for i in range(given.archs if given.only != "supernet" else 0):
        for rate in given.rates:
            settings = settings_of(given, given.seed, 1.0)
            found = data.load(settings.data)
            images = images_of(settings, found)
            arch = archs_of(family_of(settings, found), given.seed, given.archs)[i]
            network = train_alone(settings, found, arch, images, rate)
            top1 = _scored(network, arch, found.validation)
            row = {"side": "alone", "arch": str(arch), "length": given.length, "lr": rate}
            _note(given.folder, row | {"validation": top1, "images": images})


def train(given: argparse.Namespace) -> None:
    """Networks of both sides, as files in FOLDER; what they score on test is not looked at."""
    for seed in given.seeds:
        settings = settings_of(given, seed, given.factor)
        found = data.load(settings.data)
        images = images_of(settings, found)
        family = family_of(settings, found)
        here = given.folder / f"x{given.length:g}" / f"seed{seed}"
        archs = archs_of(family, seed, given.archs)
        facts = {"seed": seed, "images": images, "length": given.length, "lr": given.lr}
        facts |= {"factor": given.factor, "recipe": given.recipe, "data": settings.data.name}
        if given.only != "alone":
            supernet = supernet_of(here / "supernet", settings, found)
            for i, arch in enumerate(archs):
                path = here / f"shared-{i}.safetensors"
                if not path.exists():
                    network = calibrated(supernet, arch, found)
                    save_network(path, network, family, arch, facts)
        for i, arch in enumerate(archs if given.only != "supernet" else ()):
            path = here / f"alone-{i}.safetensors"
            if not path.exists():
                alone = train_alone(settings, found, arch, images, given.lr)
                save_network(path, alone, family, arch, facts)


def score_all(given: argparse.Namespace) -> None:
    """Every network in FOLDER on the test images, once; a table for each length."""
    rows = []
    for shared in sorted(given.folder.glob("x*/seed*/shared-*.safetensors")):
        alone = shared.with_name(shared.name.replace("shared", "alone"))
        if not alone.exists():
            say(f"{alone}: not trained yet; left out")
            continue
        network, arch, facts = load_network(shared)
        found = data.load(data.Source(facts["data"]))
        row = {k: facts[k] for k in ("seed", "length", "images", "factor", "lr")}
        row |= {"arch": str(arch), "supernet": _scored(network, arch, found.test)}
        row["alone"] = _scored(load_network(alone)[0], arch, found.test)
        rows.append(row)
    if not rows:
        raise SystemExit(f"{given.folder}: no pair of networks in it")
    tables = {}
    for length in sorted({row["length"] for row in rows}):
        shown = table([row for row in rows if row["length"] == length])
        tables[f"independent-x{length:g}"] = shown
        print(f"\nlength {length:g}\n{shown}")
    figures.write(given.out, tables)


def table(rows: Sequence[Row]) -> figures.Table:
    """Each pair, then means; the interval is Student's over the seeds' means."""
    shown = [{**row, "difference": row["supernet"] - row["alone"]} for row in rows]
    seeds = sorted({row["seed"] for row in rows})
    supernet, alone = (
        [_mean(rows, seed, side) for seed in seeds] for side in ("supernet", "alone")
    )
    differences = [a - b for a, b in zip(supernet, alone, strict=True)]
    mean: Row = {"seed": "mean", "arch": f"95% interval over {len(seeds)} seeds"}
    mean |= {"supernet": statistics.mean(supernet), "alone": statistics.mean(alone)}
    mean["difference"] = statistics.mean(differences)
    mean["half"] = half_width(differences) if len(seeds) > 1 else None
    facts = rows[0]
    note = (
        f"{facts['images']:,} images each; learning rates: of the recipe times {facts['factor']:g},"
        f" alone {facts['lr']:g}."
    )
    return figures.Table(COLUMNS, [*shown, mean], note)


def _mean(rows: Sequence[Row], seed: int, side: str) -> float:
    return statistics.mean(row[side] for row in rows if row["seed"] == seed)


def half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of a mean."""
    if len(values) < 2:
        return float("nan")
    error = statistics.stdev(values) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1)) * error


def _scored(network: nn.Module, arch: Arch, images: Images) -> float:
    return score(network, arch.resolution, images).value


def _note(out: Path, row: Row) -> None:
    """A line on the terminal and in FOLDER/tuning.jsonl."""
    say(json.dumps(row))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "tuning.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
