"""What a person names as a network: one resolver for all commands; settings travel with archs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from typer.testing import CliRunner

from onceforall import families, interop, predictors
from onceforall.cli import app
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families.settings import changed, made_again
from onceforall.interop import zoo
from onceforall.predictors.published import Additive
from onceforall.space import Arch, Table
from onceforall.supernet import SuperNet, save_network, save_supernet

USUAL = families.get("mbv3_mini")
GIVEN = {"classes": 7, "in_channels": 2}
OTHER = families.get("mbv3_mini", **GIVEN)
ARCH = OTHER.space.restrict(depth=(2,)).largest()


def params(family: Family, arch: Arch) -> int:
    """Counted by PyTorch."""
    return sum(p.numel() for p in family.build(arch).parameters())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder: the supernet of a family of 7 classes and 2 channels."""
    path = tmp_path / "run"
    path.mkdir()
    save_supernet(path / "supernet.safetensors", SuperNet(OTHER), {})
    return path


@pytest.fixture
def accuracy(tmp_path: Path) -> Path:
    """A predictor of archs, the larger the better."""
    table = Table.build(OTHER.space, lambda place: place.kernel * place.expand, name="top1")
    Additive(table).save(tmp_path / "accuracy.npz")
    return tmp_path / "accuracy.npz"


def test_settings_beside_a_name_make_the_family_again() -> None:
    assert changed(USUAL) == {}
    assert changed(OTHER) == GIVEN
    again = made_again("mbv3_mini", changed(OTHER), "file")
    assert again.settings() == OTHER.settings()
    for settings in ({"classes": 0}, {"clases": 3}, {"classes": "x"}, [1], None):
        with pytest.raises(InputError, match=r"^file: "):
            made_again("mbv3_mini", settings, "file")


def test_info_of_what_search_found_counts_its_own_classes(
    tmp_path: Path, folder: Path, accuracy: Path
) -> None:
    best = tmp_path / "best.json"
    limit = ("--limit", f"params={params(OTHER, ARCH)}")
    found = run("search", "--space", folder, "--accuracy", accuracy, *limit, "--out", best)
    arch = Arch.parse(found["arch"])
    shown = run("info", best)
    assert shown["params"] == params(OTHER, arch) == found["limits"]["params"]
    assert shown["params"] != params(USUAL, arch)
    assert [shown["classes"], shown["in_channels"], shown["assumed"]] == [7, 2, []]
    # an arch by itself is one of the family's own settings, and this is said
    bare = json.loads(best.read_text())
    assert bare.pop("settings") == GIVEN
    old = tmp_path / "old.json"
    old.write_text(json.dumps(bare))
    for named in (old, str(arch)):
        shown = run("info", named)
        assert shown["params"] == params(USUAL, arch)
        assert shown["assumed"] == ["classes", "in_channels"]
    text = CliRunner().invoke(app, ["info", str(old)]).stdout
    assert f"classes     {USUAL.classes}, of images with {USUAL.in_channels} channels (the" in text


def test_a_predictor_says_the_settings_of_its_records(
    tmp_path: Path, folder: Path, accuracy: Path
) -> None:
    records = tmp_path / "records.csv"
    archs = [OTHER.space.random(np.random.default_rng(i)) for i in range(12)]
    rows = [f'"{arch}",{sum(arch.depths) + 0.1 * i}' for i, arch in enumerate(archs)]
    records.write_text("\n".join(["arch,top1", *rows, ""]))
    model, best = tmp_path / "model.npz", tmp_path / "best.json"
    run("fit", "accuracy", records, "--space", folder, "--out", model)
    assert predictors.load(model).on(OTHER.space.at((24,))).settings == GIVEN
    limit = ("--limit", f"params={params(OTHER, ARCH)}")
    settings = ("--evaluations", 200, "--out", best)
    found = run("search", "--accuracy", model, *limit, *settings)
    assert found["limits"]["params"] == params(OTHER, Arch.parse(found["arch"]))
    assert run("info", best)["params"] == found["limits"]["params"]


def test_all_that_names_a_network_becomes_the_same(tmp_path: Path) -> None:
    network = OTHER.build(ARCH).eval()
    checkpoint = tmp_path / "net.safetensors"
    save_network(checkpoint, network, OTHER, ARCH, {"data": {"mean": [0.5]}, "task": "x"})
    for form, name in (("onceforall", "arch.json"), ("official", "folder"), ("official", "n.json")):
        interop.write_network(tmp_path / name, interop.StaticNetwork(OTHER, ARCH), form)
    interop.write_weights(tmp_path / "folder" / "init", network, OTHER, ARCH, "official")
    images = torch.randn(2, 2, 24, 24)
    weights = {"arch.json": checkpoint, "n.json": tmp_path / "folder" / "init"}
    for name in ("net.safetensors", "folder", "folder/init", "arch.json", "n.json"):
        found = interop.resolve(str(tmp_path / name), weights.get(name))
        official = "folder" in name or name == "n.json"  # layers, of no family
        assert found.arch.family == ("fixed" if official else ARCH.family), name
        assert not found.assumed
        assert (found.family.classes, found.family.in_channels) == (7, 2)
        with torch.no_grad():
            assert torch.equal(found.module().eval()(images), network(images)), name
        assert found.data == ({"mean": [0.5]} if found.weights == checkpoint else {})
    text = interop.resolve(str(ARCH), checkpoint, resolution=24)
    assert (text.family.classes, text.arch, text.assumed) == (7, ARCH.at(24), False)
    assert interop.resolve(str(ARCH)).assumed
    assert interop.resolve("mbv3_mini:smallest").arch == USUAL.space.smallest()
    assert interop.resolve("ofa-note8-22").network == zoo.network(zoo.get("ofa-note8-22"))


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    for name, said in (
        (tmp_path / "net.onnx", "an exported file; name what it was exported from"),
        (tmp_path / "w.pth", "holds weights, and does not say of which network"),
        ("nothing", "is no file, no published network"),
        ("mbv3_mini:middle", "after the family comes largest, smallest or random:SEED"),
    ):
        with pytest.raises(InputError, match=said):
            interop.resolve(str(name))
    with pytest.raises(InputError, match="mbv3_mini:largest has no weights of its own"):
        interop.resolve("mbv3_mini:largest").module()


def test_a_checkpoint_is_no_pickle_whatever_its_header_is_long(tmp_path: Path) -> None:
    """Files of safetensors begin with the length of their header, whose first byte may be that of a
    pickle."""
    from onceforall.interop.tensors import is_torch_file

    for length in (0x80, 0x280, 0x2C80):
        header = b"{" + b" " * (length - 2) + b"}"
        (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + header)
        assert not is_torch_file(tmp_path / "a")
    for protocol in (2, 4):
        torch.save(
            {"a": 1}, tmp_path / "b", _use_new_zipfile_serialization=False, pickle_protocol=protocol
        )
        assert is_torch_file(tmp_path / "b")
    torch.save({"a": 1}, tmp_path / "c")
    assert is_torch_file(tmp_path / "c")
