"""EfficientNet-Lite0 is timm's, bit for bit, and its padding is TensorFlow's."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onceforall import families
from onceforall.costs import cost
from onceforall.export import export
from onceforall.families.layers import ConvNormAct, MBConv, SameConv2d


def given_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fresh batch norms compute nothing of their own: numbers that no two channels share."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.1, generator=generator)
    return network.eval()


def test_the_largest_network_is_timms() -> None:
    timm = pytest.importorskip("timm")
    theirs = given_statistics(timm.create_model("tf_efficientnet_lite0"))
    family = families.get("efficientnet_lite0")
    ours = family.build(family.space.largest()).eval()
    pairs = list(zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True))
    assert [v.shape for (_, v), _ in pairs] == [w.shape for _, w in pairs]
    ours.load_state_dict({name: w for (name, _), w in pairs})
    for size in (96, 80, 79):  # even all the way; odd before the last stride; odd from the start
        x = torch.randn(1, 3, size, size)
        with torch.inference_mode():
            assert torch.equal(ours(x), theirs(x))


def test_published_counts() -> None:
    """Google publishes 4.7 M parameters; the MACs are those of PyTorch's own counter."""
    family = families.get("efficientnet_lite0")
    with torch.device("meta"):
        network = family.build(family.space.largest())
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.empty(1, 3, 224, 224))
    counted = cost(network, (3, 224, 224))
    assert not counted.uncovered
    assert counted.params == 4_652_008
    assert counted.macs == counter.get_total_flops() // 2 == 385_187_552


@pytest.mark.parametrize(
    ("size", "kernel", "pads"),
    [(8, 3, (0, 1)), (8, 5, (1, 2)), (7, 3, (1, 1)), (7, 5, (2, 2)), (1, 3, (1, 1))],
)
def test_same_padding_by_hand(size: int, kernel: int, pads: tuple[int, int]) -> None:
    """Under stride 2: so many rows before the image, so many behind it."""
    conv = SameConv2d(2, 4, kernel, stride=2)
    x = torch.randn(1, 2, size, size)
    want = F.conv2d(F.pad(x, pads * 2), conv.weight, stride=2)
    assert torch.equal(conv(x), want)
    assert cost(conv, (2, size, size)).output_shape == tuple(want.shape[1:])


def test_without_stride_it_is_an_ordinary_convolution() -> None:
    assert type(ConvNormAct(2, 4, 5, same_padding=True).conv) is nn.Conv2d
    assert type(ConvNormAct(2, 4, 5, stride=2, same_padding=True).conv) is SameConv2d


@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize("size", [16, 23])
def test_exported_files_pad_alike(size: int, format: str, tmp_path: Path) -> None:
    network = nn.Sequential(
        ConvNormAct(3, 4, 3, stride=2, act="relu6", same_padding=True),
        MBConv(4, 6, 5, expand=3, stride=2, act="relu6", same_padding=True),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    network(torch.zeros(2, 3, size, size))
    done = export(given_statistics(network), (3, size, size), tmp_path / "file", format)
    assert done.max_abs_diff < 1e-4  # `export` itself compares with PyTorch
