"""Files that are almost right, or not at all: an `InputError` in one line, or a network."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onceforall import families, interop
from onceforall.errors import InputError
from onceforall.families.fixed import Fixed
from onceforall.interop import mmrazor, zoo
from onceforall.interop.arch_dict import to_arch_dict
from onceforall.interop.net_config import to_config

FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NOTE8 = zoo.network(zoo.get("ofa-note8-22"))
RESNET = interop.StaticNetwork(
    families.get("ofa_resnet50"), families.get("ofa_resnet50").space.smallest()
)
VALID: dict[str, Any] = {
    "config": to_config(NOTE8),
    "proxyless": to_config(zoo.network(zoo.get("ofa-cpu-10"))),
    "resnet": to_config(RESNET),
    "dict": {"family": NOTE8.arch.family, **to_arch_dict(NOTE8.arch)},
    "resnet dict": to_arch_dict(RESNET.arch),
    "own": NOTE8.arch.to_dict(),
    "mmrazor": {k: {"chosen": v} for k, v in mmrazor.to_subnet(NOTE8.arch).choices.items()},
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["relu6", "h_swish", "ZeroLayer", "IdentityLayer", "ConvLayer", 0.25, 1.0])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "chosen", "d", "e", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def spots(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in nested data."""
    found = [path] if path else []
    if isinstance(data, dict | list):
        for key in data.keys() if isinstance(data, dict) else range(len(data)):
            found += spots(data[key], (*path, key))
    return found


@st.composite
def almost(draw: Any, kind: str) -> Any:
    """Valid data with one to three places changed, removed, or added to."""
    data = copy.deepcopy(VALID[kind])
    for _ in range(draw(st.integers(1, 3))):
        *steps, last = draw(st.sampled_from(spots(data) or [("name",)]))
        holder = data
        for step in steps:
            holder = holder[step]
        change = draw(st.sampled_from(["set", "set", "remove", "add"]))
        if change == "remove" and not (isinstance(holder, dict) and last not in holder):
            del holder[last]
        elif change == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(values)
        elif change == "add" and isinstance(holder, list):
            holder.insert(last, draw(values))
        else:
            holder[last] = draw(values)
    return data


def read(path: Path) -> None:
    """Reads a file; what is not refused must be a network that can be built and written."""
    refusal = ""
    try:
        found = interop.read_network(path)
    except InputError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert str(path) in refusal
        return
    with torch.device("meta"):
        assert sum(p.numel() for p in found.build().parameters()) > 0
    assert isinstance(found.family, Fixed) or found.family.name in families.names()


@FUZZ
@given(data=st.data(), kind=st.sampled_from(list(VALID)))
def test_almost_right_json(data: Any, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json.dumps(data.draw(almost(kind))))
    read(path)


@FUZZ
@given(data=almost("mmrazor"))
def test_almost_right_yaml(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(yaml.safe_dump(data))
    read(path)


@FUZZ
@given(text=st.text(max_size=80) | st.sampled_from(["[" * 2000, "a: {" * 500, "!!python/x 1"]))
def test_any_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    read(path)


@FUZZ
@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    read(path)


@FUZZ
@given(data=st.data())
def test_cut_and_spliced_text(data: Any, tmp_path: Path) -> None:
    text = json.dumps(VALID["config"])
    a, b = (data.draw(st.integers(0, len(text))) for _ in range(2))
    path = tmp_path / "file"
    path.write_text(text[: min(a, b)] + data.draw(st.text(max_size=3)) + text[max(a, b) :])
    read(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "init"
    interop.write_weights(path, NOTE8.build(), *NOTE8)
    return path


def test_damaged_weights(weights: Path, tmp_path: Path) -> None:
    """A flipped bit anywhere is seen, or changes no weight; so is a cut."""
    whole = weights.read_bytes()
    want = interop.read_weights(weights, *NOTE8).state_dict()
    rng = random.Random(0)
    path = tmp_path / "damaged"
    for i in range(12):
        data = bytearray(whole)
        if i % 3:
            place = (
                rng.randrange(len(data)) if i % 2 else rng.randrange(len(data) - 2000, len(data))
            )
            data[place] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(bytes(data))
        refusal = ""
        try:
            got = interop.read_weights(path, *NOTE8).state_dict()
        except InputError as error:
            refusal = str(error)
        if refusal:
            assert "\n" not in refusal
            assert str(path) in refusal
        else:
            assert all(torch.equal(got[key], tensor) for key, tensor in want.items())
