"""From a person's own `build` to a file for a device, by the commands alone: the network that the
docs print, one of timm, and the vision transformer."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from onceforall import families
from onceforall.cli import app
from onceforall.errors import InputError
from onceforall.interop import read_network
from onceforall.supernet import load_network

PAGE = Path(__file__).parent.parent / "docs" / "any-network.md"
DEVICE = "torch-cpu"  # which needs no file: PyTorch takes seconds to write one
LINES = 40  # of the page's file, at most
PHASES = """
data: {name: digits}
batch_size: 32
phases:
  - {name: largest, steps: 10, lr: 0.05}
  - {name: all, steps: 10, lr: 0.05, archs: 3, rule: sandwich, open: {all: 9}, distil: 1.0}
"""
TIMM = """
import onceforall
from timm.models.convnext import ConvNeXt


def build(width, depth3, kernel, classes=10, in_channels=1):
    return ConvNeXt(
        in_chans=in_channels,
        num_classes=classes,
        depths=(1, 1, depth3, 1),
        dims=(width, width, 2 * width, 2 * width),
        kernel_sizes=kernel,
        patch_size=2,
        conv_mlp=True,
        ls_init_value=0.5,
    )


family = onceforall.elastic(
    build,
    width=(8, 16),
    depth3=(1, 2, 3),
    kernel=onceforall.per_block((3, 5), 4),
    resolution=(32, 36),
)
"""


def printed() -> str:
    """The file that docs/any-network.md prints."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "class MyNet" in block]
    return str(found)


def test_the_printed_file_is_short() -> None:
    assert len(printed().splitlines()) <= LINES


class Commands:
    """The command line in a folder, in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *arguments: object) -> dict[str, Any]:
        """What the command gives as JSON."""
        self.capsys.readouterr()
        app([*map(str, arguments), "--json"], standalone_mode=False)
        found = json.loads(self.capsys.readouterr().out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    (tmp_path / "nets").mkdir()
    (tmp_path / "my_net.py").write_text(printed())
    (tmp_path / "nets" / "of_timm.py").write_text(TIMM)
    (tmp_path / "recipe.yaml").write_text(PHASES)
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, capsys)


@pytest.mark.parametrize(
    "family",
    [
        "my_net.py:family",
        pytest.param("nets/of_timm.py:family", marks=pytest.mark.long),
        pytest.param("vit_mini", marks=pytest.mark.long),
    ],
)
def test_from_build_to_a_file(commands: Commands, family: str) -> None:
    assert commands("train", "recipe.yaml", f"family={family}", "--out", "run")["steps"] == 20
    scored = commands("records", "accuracy", "run", "--samples", 10, "--images", 40, "--all")
    assert scored["n"] == 10
    timed = commands("records", "latency", "run", "--samples", 10, "--device", DEVICE)
    assert timed["n"] == 10
    commands("fit", "accuracy", scored["path"], "--space", "run", "--out", "top1.npz")
    commands("fit", "latency", timed["path"], "--space", family, "--out", "ms.npz")
    limits = ("--limit", "latency=ms.npz:500ms", "--evaluations", 100)
    free = searched(commands, family, "--limit", "macs=1G", *limits)
    most = free["limits"]["macs"] * 0.7
    found = searched(commands, family, "--limit", f"macs={most}", *limits, "--out", "best.json")
    assert found["limits"]["macs"] <= most
    assert commands("info", "best.json")["macs"] == found["limits"]["macs"] == flops("best.json")
    (commands.folder / "archs.csv").write_text(f'arch\n"{found["arch"]}"\n')
    commands("predict", "top1.npz", "archs.csv", "--out", "predicted.csv")
    assert predicted("predicted.csv") == pytest.approx(found["accuracy"])
    check_specialised(commands, family)


def searched(commands: Commands, family: str, *limits: object) -> dict[str, Any]:
    given = ("--space", family, "--accuracy", "top1.npz", *limits)
    return commands("search", *given)


def flops(path: str) -> float:
    """MACs of the arch in a file, by torch's counter; attention as the matrix products that it
    counts, not as the fused operation of the CPU, which it passes over."""
    network = read_network(Path(path))
    size = network.arch.resolution
    products = sdpa_kernel(SDPBackend.MATH)
    with products, FlopCounterMode(display=False) as counter, torch.no_grad():
        network.family.build(network.arch).eval()(
            torch.zeros(1, network.family.in_channels, size, size)
        )
    return counter.get_total_flops() / 2


def predicted(path: str) -> float:
    header, row = Path(path).read_text().splitlines()
    last = len(header.split(",")) - header.split(",").index("prediction")
    return float(row.split(",")[-last])


def check_specialised(commands: Commands, family: str) -> None:
    """The delivered file is the network that was chosen, and scores what its card says."""
    samples = ("--samples", 10, "--images", 40, "--device", DEVICE)
    done = commands("specialize", "run", *samples, "--max-latency", "500ms", "--max-params", "1G")
    (card,) = done["networks"]
    checkpoint, file = (Path(card["folder"]) / f"network.{end}" for end in ("safetensors", "onnx"))
    scored = commands("evaluate", checkpoint, "--data", "digits")
    assert scored["top1"] == pytest.approx(card["top1_test"])
    described = commands("info", checkpoint)
    assert (described["arch"], described["macs"]) == (card["arch"], card["macs"])
    assert described["arch"].startswith(Path(family).name)
    network, arch, _ = load_network(checkpoint)
    assert sum(p.numel() for p in network.parameters()) == card["params"]
    channels = read_network(checkpoint).family.in_channels
    x = torch.randn((1, channels, arch.resolution, arch.resolution))
    session = onnxruntime.InferenceSession(file)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(theirs, network(x).numpy(), rtol=1e-3, atol=1e-4)
    again = commands("export", checkpoint, "again.pt2", "--format", "pt2")
    assert again["max_abs_diff"] < 1e-4
    timed = commands("measure", checkpoint, "--device", "torch-cpu", "--rounds", 1)
    assert timed["arch"] == card["arch"]


MISTAKES = {
    ("info", "my_net.py:famly:largest"): "my_net.py has no 'famly'; families in it: family",
    ("info", "nets/my_net.py:family:largest"): "no file nets/my_net.py here",
    ("info", "my_net.py:largest"): "name the family in the file, as in my_net.py:family",
    ("info", "my_net.py:family:larger"): "comes largest, smallest or random:SEED",
    ("info", "my_net.py:family@28/depth=9"): "width is missing; it can be 32, 48, 64",
    ("export", "my_net.py:family:largest", "out.onnx"): "has no weights of its own",
    ("search", "--space", "nets/none.py:family", "--accuracy", "p.npz"): "no file nets/none.py",
    ("records", "latency", "my_net.py:family", "--blocks"): "not written as layers by place",
    ("train", "digits", "family=my_net.py:family"): "has no 'expand' to open",
    ("train", "recipe.yaml", "family=broken.py:family"): "ZeroDivisionError",
    ("train", "recipe.yaml", "family=empty.py:family"): "no choice is given",
}  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_are_one_line(commands: Commands, arguments: tuple[str, ...]) -> None:
    (commands.folder / "broken.py").write_text("1 / 0\n")
    (commands.folder / "empty.py").write_text(
        "import onceforall\nfrom torch import nn\nfamily = onceforall.elastic(lambda: nn.Flatten())"
    )
    with pytest.raises(InputError) as error:
        app([*arguments], standalone_mode=False)
    assert MISTAKES[arguments] in str(error.value)
    assert "\n" not in str(error.value)


def test_genes_of_a_file_may_have_any_order(commands: Commands) -> None:
    """As checkpoints sort them: block10 before block2."""
    text = printed().replace("(2, 3, 4)", "(11, 12)").replace("), 4)", "), 12)")
    (commands.folder / "deep.py").write_text(text)
    family = families.get("deep.py:family")
    arch = family.space.random(np.random.default_rng(1))
    shuffled = dict(sorted(arch.to_dict()["genes"].items()))
    assert list(shuffled) != list(arch.genes)
    (commands.folder / "arch.json").write_text(
        json.dumps({"family": arch.family, "genes": shuffled})
    )
    found = read_network(Path("arch.json"))
    assert found.arch == arch
    shapes = {name: p.shape for name, p in family.build(arch).named_parameters()}
    built = found.family.build(type(arch)(arch.family, tuple(shuffled.items())))
    assert {name: p.shape for name, p in built.named_parameters()} == shapes


def test_a_checkpoint_finds_its_file_from_anywhere(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("family=my_net.py:family", "phases=[{name: one, steps: 1, lr: 0.01}]")
    commands("train", "recipe.yaml", *changes, "--out", "run")
    elsewhere = commands.folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    given = ("--weights", "../run/supernet.safetensors")
    commands("export", "../my_net.py:family:smallest", "a.pt2", "--format", "pt2", *given)
    (commands.folder / "my_net.py").rename(elsewhere / "my_net.py")
    commands("export", "my_net.py:family:smallest", "b.pt2", "--format", "pt2", *given)
    (elsewhere / "my_net.py").unlink()
    with pytest.raises(InputError, match=r"my_net.py, and no my_net.py here"):
        commands("records", "accuracy", "../run")


def test_a_network_is_exported_from_a_supernet_with_statistics_of_its_own(
    commands: Commands,
) -> None:
    """Its file scores as the network that `evaluate` calibrates; without images that is said."""
    commands("train", "recipe.yaml", "family=my_net.py:family", "--out", "run")
    given = ("my_net.py:family:largest", "--weights", "run/supernet.safetensors")
    images = ("--calibrate-data", "digits", "--calibrate", 1000)
    commands("export", *given, "own.onnx", *images)
    assert "--calibrate-data" not in commands.capsys.readouterr().err
    own = commands("evaluate", "own.onnx", "--data", "digits")["top1"]
    wanted = commands("evaluate", *given, "--data", "digits", "--calibrate", 1000)["top1"]
    assert own == pytest.approx(wanted, abs=3)  # of calibration on other images
    app(["export", *given, "none.onnx"], standalone_mode=False)
    assert "batch norms have no statistics of its own" in commands.capsys.readouterr().err
    assert commands("evaluate", "none.onnx", "--data", "digits")["top1"] < own - 10
