"""Which estimator of batch-norm statistics is the better one, on real networks and images.

    python benchmarks/calibrating.py published FOLDER [--draws 4] [--out FILE]
    python benchmarks/calibrating.py run RUN [--draws 4] [--archs 3] [--out FILE]

`published`: FOLDER has the authors' ProxylessNAS network with its ImageNet weights
(`proxyless/`) and 1000 ImageNet images (`imagenet_samples/val/`). `run`: sub-networks of a
supernet that was trained here, on its own data.

Images to calibrate on and images to evaluate on are disjoint. In each draw n images are
taken at random, in random batches, for both estimators the same; each is compared with the
statistics that all images to calibrate on have in one batch, the limit of both:

- top-1 on the images to evaluate on;
- logits: root mean square of the difference, relative to that of the logits themselves;
- means, in standard deviations; variances, as the mean of their ratio (below 1: too small).
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import figures
import numpy as np
import torch
from torch import Tensor, nn

from onceforall.data import FileImages, Images, Normalisation, Request, list_folder, load
from onceforall.interop import read_network, read_weights
from onceforall.pipeline import open_run
from onceforall.supernet import ESTIMATORS, calibrate

EVALUATED = 250  # images at a time
COLUMNS = {
    "images": "{images}",
    "batch": "{batch}",
    "estimator": "{estimator}",
    "top-1, points": "{top1:+.2f} ({spread:.2f})",
    "logits": "{logits:.4f}",
    "means": "{means:.4f}",
    "variances": "{variances:.4f}",
}


class Case(NamedTuple):
    """A network, images for its statistics, and labelled images that it has not seen."""

    network: nn.Module
    pool: Tensor  # (N, C, R, R)
    images: Tensor
    labels: Tensor


class Row(NamedTuple):
    """How far one calibration is from that with all images."""

    top1: float
    logits: float
    means: float
    variances: float


def study(
    case: Case, settings: list[tuple[int, int]], draws: int, seed: int
) -> dict[tuple[int, int, str], list[Row]]:
    """Rows by images, batch (`settings`) and estimator; `top1` as the difference from all's."""
    whole = calibrate(copy.deepcopy(case.network), [case.pool])
    want, top1 = judged(whole, case)
    rows: dict[tuple[int, int, str], list[Row]] = defaultdict(list)
    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(len(case.pool))
        for n, batch in settings:
            batches = case.pool[torch.as_tensor(order[:n])].split(batch)
            for estimator in ESTIMATORS:
                network = calibrate(copy.deepcopy(case.network), batches, estimator)
                got, own = judged(network, case)
                difference = (got - want).square().mean() / want.square().mean()
                rows[n, batch, estimator].append(
                    Row(own - top1, float(difference.sqrt()), *apart(network, whole))
                )
    return rows


@torch.inference_mode()
def judged(network: nn.Module, case: Case) -> tuple[Tensor, float]:
    """Logits, and top-1 in percent."""
    logits = torch.cat([network(part) for part in case.images.split(EVALUATED)])
    return logits, 100 * float((logits.argmax(1) == case.labels).float().mean())


def apart(network: nn.Module, whole: nn.Module) -> tuple[float, float]:
    """Of means, the root mean square over all channels in standard deviations; of variances, the
    geometric mean of their ratio."""
    means, ratios = [], []
    for a, b in zip(network.modules(), whole.modules(), strict=True):
        if isinstance(a, nn.BatchNorm2d) and isinstance(b, nn.BatchNorm2d):
            assert a.running_mean is not None
            assert b.running_mean is not None
            assert a.running_var is not None
            assert b.running_var is not None
            alive = b.running_var > 1e-8
            means.append((a.running_mean - b.running_mean)[alive].square() / b.running_var[alive])
            ratios.append((a.running_var[alive] / b.running_var[alive]).clamp(min=1e-6).log())
    return float(torch.cat(means).mean().sqrt()), float(torch.cat(ratios).mean().exp())


def taken(images: Images, indices: list[int], resolution: int) -> tuple[Tensor, Tensor]:
    """Some images and their labels."""
    ((x, labels),) = images.stream([Request(indices, resolution)])
    return x.contiguous(memory_format=torch.channels_last), labels


def of_published(folder: Path) -> list[Case]:
    """The same network twice, the halves of the images changing places."""
    config = folder / "proxyless" / "proxyless-w0.3-r176_imagenet.json"
    described = read_network(config)
    network = read_weights(config.with_suffix(".pth"), *described)
    files, _ = list_folder(folder / "imagenet_samples" / "val")
    images = FileImages(
        files.paths, files.labels, Normalisation((0.5,) * 3, (0.5,) * 3), 3, workers=0
    )
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    halves = [taken(images, part, 176) for part in (order[::2], order[1::2])]
    return [Case(network, halves[i][0], *halves[1 - i]) for i in (0, 1)]


def of_run(folder: Path, archs: int) -> list[Case]:
    """Sub-networks as they are extracted: with no statistics of their own."""
    run = open_run(folder)
    data = load(run.source)
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(archs):
        arch = run.supernet.space.random(rng)
        pool = rng.permutation(len(data.train))[:2000].tolist()
        x, _ = taken(data.train, pool, arch.resolution)
        held = list(range(min(2000, len(data.validation))))
        cases.append(
            Case(
                run.supernet.extract(arch).eval(), x, *taken(data.validation, held, arch.resolution)
            )
        )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    published, run = kinds.add_parser("published"), kinds.add_parser("run")
    published.add_argument("folder", type=Path)
    run.add_argument("folder", type=Path)
    run.add_argument("--archs", type=int, default=3)
    for kind in (published, run):
        kind.add_argument("--draws", type=int, default=4)
        kind.add_argument("--images", type=int, nargs="+", default=[50, 200, 500])
        kind.add_argument("--batches", type=int, nargs="+", default=[10, 25, 50, 100])
        figures.add_option(kind)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = (
        of_published(given.folder)
        if given.kind == "published"
        else of_run(given.folder, given.archs)
    )
    settings = [(n, batch) for n in given.images for batch in given.batches if batch <= n]
    rows: dict[tuple[int, int, str], list[Row]] = defaultdict(list)
    said = []
    for seed, case in enumerate(cases):
        _, before = judged(case.network, case)
        _, top1 = judged(calibrate(copy.deepcopy(case.network), [case.pool]), case)
        said.append(
            f"{len(case.pool)} images to calibrate on, {len(case.images)} to evaluate on:"
            f" top-1 {before:.2f}% as it came, {top1:.2f}% calibrated on all"
        )
        print(said[-1], flush=True)
        for key, found in study(case, settings, given.draws, seed).items():
            rows[key] += found
    note = f"Means (standard errors of top-1) of {len(cases)} cases x {given.draws} draws"
    table = figures.Table(COLUMNS, note=f"{note}: {'; '.join(said)}.")
    print()
    for (n, batch, estimator), found in rows.items():
        table.add(
            images=n,
            batch=batch,
            estimator=estimator,
            **dict(zip(Row._fields, np.mean(found, axis=0).tolist(), strict=True)),
            spread=float(np.std([row.top1 for row in found], ddof=1)) / len(found) ** 0.5,
        )
    figures.write(given.out, {f"calibrating-{given.kind}": table})


if __name__ == "__main__":
    main()
