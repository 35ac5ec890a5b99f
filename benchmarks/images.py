"""How quickly photos come to be trained on: decoded by workers, and held in memory.

    python benchmarks/images.py FOLDER [--images 400] [--workers 2] [--json]

The same images, random parts mirrored and coloured ("crop+flip+color"), in batches of 50, at 128
and 224 pixels: decoded anew for each batch by worker processes (`data.hold=never`), and from
bytes held at R / 0.875 (`always`), in this process alone. The two take turns; images a second of
the wall clock, medians. `decode_s` is how long it takes to decode all of them once, to hold them.

`difference` is what holding changes: the mean absolute difference of pixels, of 255, between the
same random part taken from the held image and from the file at its full size, beside
`neighbours`: the difference between the file's part and itself moved by one pixel of the result.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import functional as tv

from onceforall.data import FileImages, HeldImages, Images, Normalisation, Request, list_images
from onceforall.data.decoding import CROP, _random_area, open_image, reduced, resized_side

BATCH = 50
TEXT = "crop+flip+color"


def rate(images: Images, resolution: int, n: int, seed: int) -> float:
    """Images a second, from the first batch on: workers take a moment to start."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    order = (order * (n // len(order) + 2))[: n + BATCH]
    requests = [
        Request(order[i : i + BATCH], resolution, seed + i) for i in range(0, len(order), BATCH)
    ]
    stream = images.stream(requests)
    next(stream)
    start = time.perf_counter()
    taken = sum(len(y) for _, y in stream)
    return taken / (time.perf_counter() - start)


def differences(paths: list[Path], resolution: int) -> dict[str, float]:
    """Mean absolute differences, of 255."""
    side = resized_side(resolution / CROP)
    rng = random.Random(0)
    held_apart, moved_apart = [], []
    for path in paths:
        image = open_image(path, 3)
        small = reduced(image, side)
        top, left, height, width = _random_area(image.height, image.width, rng)
        across, down = small.width / image.width, small.height / image.height
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        size = (resolution, resolution)
        full = tv.pil_to_tensor(image.resize(size, 2, (left, top, left + width, top + height)))
        held = tv.pil_to_tensor(small.resize(size, 2, box))
        held_apart.append((full.float() - held.float()).abs().mean().item())
        moved_apart.append((full[..., 1:].float() - full[..., :-1].float()).abs().mean().item())
    return {
        "difference": statistics.mean(held_apart),
        "neighbours": statistics.mean(moved_apart),
    }


def measure(folder: Path, n: int, workers: int, repeats: int) -> list[dict[str, Any]]:
    paths = list_images(folder)
    paths = paths.take(range(min(n, len(paths))))
    norm = Normalisation((0.5,) * 3, (0.5,) * 3)
    rows: list[dict[str, Any]] = []
    for resolution in (128, 224):
        files = FileImages(paths, [0] * len(paths), norm, 3, TEXT, workers)
        start = time.perf_counter()
        held = files.prepared(resolution, held=True)
        decode = time.perf_counter() - start
        assert isinstance(held, HeldImages)
        rates: dict[str, list[float]] = {"workers": [], "held": []}
        for seed in range(repeats):
            rates["workers"].append(rate(files, resolution, n, seed))
            rates["held"].append(rate(held, resolution, n, seed))
        row = {f"{name}_images_s": statistics.median(found) for name, found in rates.items()}
        ratios = [h / w for h, w in zip(rates["held"], rates["workers"], strict=True)]
        rows.append(
            {
                "resolution": resolution,
                **row,
                "ratio": statistics.median(ratios),
                "decode_s": decode,
                "megabytes": held.flat.numel() / 1e6,
                **differences(list(paths), resolution),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of images, such as imagenet_samples/val")
    parser.add_argument("--images", type=int, default=400, help="of them, and a turn (default 400)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(given.folder, given.images, given.workers, given.repeats)
    if given.json:
        print(json.dumps({"images": given.images, "workers": given.workers, "rows": rows}))
        return
    print(
        "| px | workers, images/s | held, images/s | ratio | decoding once, s | MB | difference |"
        " neighbours |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['resolution']} | {row['workers_images_s']:.0f} | {row['held_images_s']:.0f} |"
            f" {row['ratio']:.1f} | {row['decode_s']:.1f} | {row['megabytes']:.0f} |"
            f" {row['difference']:.2f} | {row['neighbours']:.2f} |"
        )


if __name__ == "__main__":
    main()
