"""Checkpoints: whole, verified, of the right kind, or refused in one line."""

from pathlib import Path

import pytest
import torch

from onceforall import families
from onceforall.errors import InputError
from onceforall.supernet import SuperNet, checkpoint, weights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "b": torch.ones(2).bool()}


def saved(path: Path) -> Path:
    checkpoint.save(path, "training", TENSORS, {"step": 7})
    return path


def test_round_trip(tmp_path: Path) -> None:
    found = checkpoint.load(saved(tmp_path / "x.safetensors"), "training")
    assert found.facts["step"] == 7
    assert set(found.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensors[name], tensor)


def test_truncated_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.safetensors: "):
            checkpoint.load(cut, "training")


def test_flipped_bits_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for i in range(len(whole)):
        bad.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            found = checkpoint.load(bad, "training")
        except InputError as error:
            assert "bad.safetensors" in str(error)  # noqa: PT017
        else:  # a bit that means nothing, such as white space of the header
            assert found.facts["step"] == 7
            assert all(torch.equal(found.tensors[n], t) for n, t in TENSORS.items())


def test_wrong_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="holds a training, a supernet was expected"):
        checkpoint.load(path, "supernet")
    with pytest.raises(InputError, match="exists already"):
        saved(path)
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none", "training")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "text", "training")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="not a checkpoint of onceforall"):
        checkpoint.load(tmp_path / "plain.safetensors", "training")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, "training", TENSORS, {}, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_supernets_and_networks_come_back(tmp_path: Path) -> None:
    family = families.get("mbv3_mini", in_channels=1, classes=4, resolutions=[16, 20])
    supernet = SuperNet(family, torch.Generator().manual_seed(0))
    weights.save_supernet(tmp_path / "s.safetensors", supernet, {"data": {"name": "x"}})
    again, facts = weights.load_supernet(tmp_path / "s.safetensors")
    assert facts["data"] == {"name": "x"}
    assert again.space == supernet.space
    arch = family.space.smallest()
    x = torch.randn((2, 1, 16, 16))
    network = supernet.extract(arch).eval()
    assert torch.allclose(again.extract(arch).eval()(x), network(x), atol=1e-6)
    weights.save_network(tmp_path / "n.safetensors", network, family, arch, {})
    loaded, found, _ = weights.load_network(tmp_path / "n.safetensors")
    assert found == arch
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert all(p.requires_grad for p in loaded.parameters())


def test_tensors_must_fit_exactly(tmp_path: Path) -> None:
    family = families.get("mbv3_mini")
    network = family.build(family.space.smallest())
    state = network.state_dict()
    name = "classifier.bias"
    for change, message in (
        ({}, f"key '{name}' is missing"),
        ({name: torch.zeros(3)}, rf"key '{name}' is \(3,\), \(10,\) was expected"),
        ({name: state[name], "more": torch.zeros(1)}, "unknown keys: more"),
    ):
        changed = {k: v for k, v in state.items() if k != name} | change
        with pytest.raises(InputError, match=message):
            weights.load_exactly(network, changed, tmp_path)
