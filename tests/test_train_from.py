"""Training that starts from the weights of a trained network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from onceforall import data, families, training
from onceforall.data import Source
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.interop import starting_weights
from onceforall.supernet import SuperNet, load_network, load_supernet, save_network, save_supernet
from onceforall.training import load_settings

RECIPE = """
family: {family}
data: {{name: digits}}
resolutions: [8]
batch_size: 64
label_smoothing: 0
weights: {weights}
phases:
  - {{name: start, steps: {steps}, lr: {lr}, distil: {distil}}}
  - {{name: open, steps: 1, lr: 0.001, open: {{all: 2}}, distil: 1.0}}
"""


def family(classes: int = 10) -> Family:
    return families.get("mbv3_mini", in_channels=1, classes=classes, resolutions=[8])


def recipe(tmp_path: Path, weights: Path, steps: int = 1, lr: float = 1e-9, distil: float = 1.0):  # type: ignore[no-untyped-def]
    path = tmp_path / "recipe.yaml"
    given = {"family": "mbv3_mini", "weights": weights, "steps": steps, "lr": lr}
    path.write_text(RECIPE.format(**given, distil=distil))
    return load_settings(str(path))


def trained(classes: int = 10) -> dict[str, Tensor]:
    """Weights and statistics that no fresh network has."""
    made = family(classes)
    generator = torch.Generator().manual_seed(7)
    network = made.fresh(made.space.largest(), generator)
    return {
        n: t + 0.1 * torch.rand(t.shape, generator=generator) if t.is_floating_point() else t
        for n, t in network.state_dict().items()
    }


def test_the_largest_and_the_teacher_are_the_given_network(tmp_path: Path) -> None:
    """At a learning rate of almost nothing the largest network's weights stay the file's."""
    path = tmp_path / "w.pth"
    torch.save(trained(), path)
    digits = data.load(Source("digits"))
    training.train(tmp_path / "run", recipe(tmp_path, path), digits)
    supernet, _ = load_supernet(tmp_path / "run" / "supernet.safetensors")
    teacher, arch, _ = load_network(tmp_path / "run" / "teacher.safetensors")
    assert arch == supernet.space.largest()
    for name, tensor in trained().items():
        assert torch.equal(teacher.state_dict()[name], tensor), name
    # the channels of the second phase are sorted, so they are compared as sets of numbers
    ours = supernet.network.state_dict()["stage1_block1.depthwise.conv.weight"].flatten().sort()[0]
    given = trained()["stage1_block1.depthwise.conv.weight"].flatten().sort()[0]
    assert torch.allclose(ours, given, atol=2e-3)
    assert not torch.allclose(ours, ours.mean(), atol=2e-3)


def test_other_classes_get_a_fresh_classifier_and_no_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(trained(classes=3), path)
    digits = data.load(Source("digits"))
    with pytest.raises(InputError, match=r"the first one has no teacher, as .* of other classes"):
        training.train(tmp_path / "none", recipe(tmp_path, path), digits)
    assert not (tmp_path / "none").exists()
    training.train(tmp_path / "run", recipe(tmp_path, path, distil=0.0), digits)
    said = capsys.readouterr().err
    assert (
        "classifier.weight, classifier.bias: of 3 classes; replaced by a fresh one for 10" in said
    )


def test_a_run_is_resumed_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(trained(), path)
    digits = data.load(Source("digits"))
    settings = recipe(tmp_path, path)
    training.train(tmp_path / "run", settings, digits)
    (tmp_path / "run" / "supernet.safetensors").unlink()
    path.unlink()
    assert training.train(tmp_path / "run", settings, digits, resume=True).steps == 2
    with pytest.raises(InputError, match=f"{path}: no such file"):
        training.train(tmp_path / "new", settings, digits)


def test_files_of_every_kind(tmp_path: Path) -> None:
    made, weights = family(), trained()
    supernet = SuperNet(made, weights=weights)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {})
    largest = made.space.largest()
    save_network(tmp_path / "network.safetensors", supernet.extract(largest), made, largest, {})
    save_file(weights, tmp_path / "plain.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "nested.pth")
    for name in ("supernet.safetensors", "network.safetensors", "plain.safetensors", "nested.pth"):
        found = starting_weights(tmp_path / name, made)
        assert found.keys() == weights.keys(), name
        assert all(torch.equal(found[n], t) for n, t in weights.items()), name
    smallest = made.space.smallest()
    save_network(tmp_path / "small.safetensors", supernet.extract(smallest), made, smallest, {})
    with pytest.raises(InputError, match="not the largest network"):
        starting_weights(tmp_path / "small.safetensors", made)
    with pytest.raises(InputError, match="is of mbv3_mini, not of vit_mini"):
        starting_weights(tmp_path / "supernet.safetensors", families.get("vit_mini"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"odd": torch.zeros(2)}, path)
    digits = data.load(Source("digits"))
    with pytest.raises(InputError, match=r"w\.pth"):
        training.train(tmp_path / "run", recipe(tmp_path, path), digits)
    assert not (tmp_path / "run").exists()


def test_whose_weights_are_expected_is_said(tmp_path: Path) -> None:
    torch.save(trained(), path := tmp_path / "w.pth")
    other = families.get("efficientnet_lite0", classes=10)
    with pytest.raises(
        InputError,
        match=r"w\.pth: .*; weights of the largest network of efficientnet_lite0 are expected,"
        r" and family=\.\.\. names another",
    ):
        starting_weights(path, other)
    with pytest.raises(InputError, match="is a folder; a file of weights is expected"):
        starting_weights(tmp_path, other)


def test_no_teacher_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the first one has no teacher yet"):
        recipe(tmp_path, Path("null"))
