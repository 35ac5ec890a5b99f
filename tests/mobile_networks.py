"""Small networks with what runtimes for phones get wrong, for tests of their formats."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from onceforall import interop
from onceforall.data import FileImages, Normalisation, in_order, list_folder
from onceforall.families.layers import ConvNormAct, MBConv, SameConv2d

SHAPE = (3, 19, 19)  # of its images: odd sizes, where paddings and poolings differ
CLASSES = 5


class Parts(nn.Module):
    """Of every kind of layer that our convolutional families have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 8, 3, 2, act="h_swish", same_padding=True)  # 19 -> 10
        self.gated = MBConv(8, 8, 5, 2, act="h_swish", se=True)
        self.clipped = MBConv(8, 12, 3, 3, 2, act="relu6")  # 10 -> 5
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True)  # 5 -> 3
        self.largest = nn.MaxPool2d(3, 2, 1)  # 3 -> 2
        self.tail = ConvNormAct(12, 16, act="relu")
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        y = self.clipped(self.gated(self.stem(x)))
        return self.head(self.tail(self.largest(self.pool(y))))


class Deciding(nn.Module):
    """Its way depends on the values in the image: no exporter can write it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


def parts() -> Parts:
    """With statistics and weights as those of a trained network, each batch norm of its own."""
    generator = torch.Generator().manual_seed(0)
    network = Parts()
    for parameter in network.parameters():
        parameter.data.uniform_(-0.5, 0.5, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                tensor.data.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    assert isinstance(network.stem.conv, SameConv2d)
    return network.eval()


def images(n: int, seed: int = 1) -> Tensor:
    return torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


def trained(data_dir: Path) -> tuple[nn.Module, int]:
    """ProxylessNAS's w0.3-r176 with its ImageNet weights, and its resolution."""
    source = data_dir / "proxyless"
    family, arch = interop.read_network(source / "proxyless-w0.3-r176_imagenet.json")
    network = interop.read_weights(source / "proxyless-w0.3-r176_imagenet.pth", family, arch)
    return network.eval(), arch.resolution


def photos(data_dir: Path, size: int, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(N, 3, size, size) and (N,) labels: real images, one of a class."""
    listed, _ = list_folder(data_dir / "imagenet_samples" / "val")
    normalisation = Normalisation((0.5,) * 3, (0.5,) * 3)
    files = FileImages(listed.paths, listed.labels, normalisation).subset(list(indices))
    found = list(files.stream(in_order(len(files), 50, size)))
    return torch.cat([x for x, _ in found]), torch.cat([labels for _, labels in found])
