"""Which network a file describes, whatever its format; and files written in each.

Read: our JSON and text of an arch, the authors' `net.config` (with its `run.config`) and
arch dictionaries, MMRazor's YAML, our checkpoints. The content tells the format, not the
name. Knows no weights but those of our checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onceforall import families
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.families import settings as beside
from onceforall.families.files import without_folder
from onceforall.files import parse_json, read_json, read_text, write_json, write_text
from onceforall.interop import mmrazor, net_config
from onceforall.interop.arch_dict import from_arch_dict, is_arch_dict, to_arch_dict
from onceforall.interop.fields import Fields, shown
from onceforall.interop.net_config import StaticNetwork
from onceforall.interop.tensors import is_torch_file
from onceforall.space import Arch
from onceforall.supernet import checkpoint, weights

DEFAULT_RESOLUTION = 224  # pixels; of a net.config whose run.config is not there
SETTINGS = "settings"  # of the family, beside an arch
FORMATS = ("onceforall", "official", "mmrazor", "arch-dict")
WEIGHT_FORMATS = ("onceforall", "official", "mmrazor", "timm")


def read_network(
    path: Path, resolution: int | None = None, family: str | None = None
) -> StaticNetwork:
    """The network that a file describes.

    Args:
        resolution: in place of the file's, pixels. A `net.config` has it in the `run.config`
            beside it, or in its own field `resolution`; without both it is 224.
        family: of an arch dictionary that does not tell.

    Raises:
        InputError: no such file, of no known format, or not a network; one line that names
            file, field and value.
    """
    return described(path, resolution, family)[0]


def described(
    path: Path, resolution: int | None = None, family: str | None = None
) -> tuple[StaticNetwork, bool]:
    """As `read_network`, and whether the file says the classes and channels of the network: a bare
    arch does not, and is one of its family's usual settings."""
    if path.is_dir() and (path / "net.config").is_file():
        path = path / "net.config"
    if is_torch_file(path):
        raise InputError(
            f"{path}: holds weights, and does not say of which network; name the network"
            " (a net.config, say) and give this file with --weights"
        )
    if is_checkpoint(path):
        found, whole = _of_checkpoint(path), True
    else:
        found, whole = _of_text(read_text(path), path, resolution, family)
    if resolution is not None:
        arch = found.arch.at(resolution)
        found = StaticNetwork(found.family, arch)
    return found, whole


Described = tuple[StaticNetwork, bool]  # and whether its classes and channels are said


def _of_text(text: str, path: Path, resolution: int | None, family: str | None) -> Described:
    start = text.lstrip()[:1]
    if not start:
        raise InputError(f"{path}: is empty")
    if start in '{["':
        return _of_json(parse_json(text, path), path, resolution, family)
    if "\n" not in text.strip() and "@" in text and "/" in text:
        with _naming(path):
            arch = Arch.parse(text)
        return _of_arch(arch, path), False
    data = mmrazor.parse_yaml(text, str(path))
    if mmrazor.is_subnet(data):
        return _of_arch(mmrazor.from_subnet(data, str(path)).arch, path), False
    if isinstance(data, dict):
        return _of_json(data, path, resolution, family)
    raise InputError(f"{path}: {shown(data)} is not a map; no network is described so")


def _of_json(data: Any, path: Path, resolution: int | None, family: str | None) -> Described:
    where = str(path)
    if not isinstance(data, dict):
        raise InputError(f"{where}: {shown(data)} is not a map; no network is described so")
    if is_arch_dict(data):
        return _of_arch(from_arch_dict(data, family, resolution, where), path), False
    if "stages" in data or "genes" in data:
        with _naming(path):
            arch = Arch.from_dict({k: v for k, v in data.items() if k != SETTINGS})
        if SETTINGS not in data:
            return _of_arch(arch, path), False
        made = beside.made_again(arch.family, data[SETTINGS], where)
        return _in_family(made, arch, path), True
    if mmrazor.is_subnet(data):
        return _of_arch(mmrazor.from_subnet(data, where).arch, path), False
    if "name" in data or "blocks" in data:
        size = resolution or _resolution(data, path)
        return net_config.from_config(data, size, where), True
    raise InputError(
        f"{where}: neither an arch, a net.config, an arch dictionary nor an MMRazor sub-network"
    )


def from_text(text: str) -> StaticNetwork:
    """The network of an arch as text, of its family at its defaults.

    Raises:
        InputError: it is not an arch, or not one of its family.
    """
    written, file = without_folder(text)
    return _of_arch(Arch.parse(written), Path("arch"), file)


def _of_arch(arch: Arch, path: Path, file: str | None = None) -> StaticNetwork:
    """`file` is that of the family, where it is in one."""
    with _naming(path):
        family = families.get(arch.family, **({} if file is None else {"path": file}))
    return _in_family(family, arch, path)


def _in_family(family: Family, arch: Arch, path: Path) -> StaticNetwork:
    with _naming(path):
        family.space.check(arch, resolution=False)
    return StaticNetwork(family, family.space.in_order(arch))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors within name the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def rewrite_subnet(source: Path, network: StaticNetwork, target: Path) -> Path | None:
    """Writes an MMRazor sub-network again, choices of inactive blocks included, if `source` is
    one and `network` is what it says. None: it is not."""
    if source.is_dir() or is_checkpoint(source):
        return None
    data = mmrazor.parse_yaml(read_text(source), str(source))
    if not mmrazor.is_subnet(data):
        return None
    subnet = mmrazor.from_subnet(data, str(source))
    if subnet.arch != network.arch:
        return None
    write_text(target, mmrazor.to_yaml(subnet))
    return target


def _of_checkpoint(path: Path) -> StaticNetwork:
    facts = checkpoint.describe(path)
    if facts["kind"] != "network":
        raise InputError(f"{path}: holds a {facts['kind']}, a network was expected")
    family = weights.family_of(facts, path)
    return StaticNetwork(family, weights.arch_of(facts, path, family))


def _resolution(data: dict[str, Any], path: Path) -> int:
    """Of a net.config: in it, in the run.config beside it, or the usual one."""
    if "resolution" in data:
        return Fields(data, str(path)).whole("resolution")
    beside = path.parent / "run.config"
    if path.name == "net.config" and (beside.exists() or beside.is_symlink()):
        return Fields(read_json(beside), str(beside)).whole("image_size")
    return DEFAULT_RESOLUTION


def is_checkpoint(path: Path) -> bool:
    """Whether a file looks like safetensors, as our checkpoints are: the length of a header, of at
    most 100 MB (no text begins so), and the header, which is JSON."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000


def arch_facts(family: Family, arch: Arch) -> dict[str, Any]:
    """An arch as plain data for JSON, with the settings of its family that are not the usual ones,
    which say its classes and channels; `read_network` reads it."""
    settings = beside.changed(family)
    return {**arch.to_dict(), **({SETTINGS: settings} if settings else {})}


def write_network(path: Path, network: StaticNetwork, form: str) -> list[Path]:
    """Writes the description of a network: `form` is one of FORMATS.

    "official" writes a `net.config` and its `run.config`: into the folder `path`, or, where
    `path` has a suffix, the config there (and its resolution in it), and the `run.config`
    beside it where the config is called `net.config`.

    Raises:
        InputError: the format cannot say this network, or something is there already.
    """
    if form == "mmrazor":
        write_text(path, mmrazor.to_yaml(mmrazor.to_subnet(network.arch)))
        return [path]
    if form == "arch-dict":
        data = {"family": network.arch.family, **to_arch_dict(network.arch)}
        write_text(path, json.dumps(data) + "\n")
        return [path]
    if form == "onceforall":
        if not families.known(network.family.name):
            raise InputError(
                f"{path}: this network is of no family, an arch alone does not say its layers;"
                " convert its weights too, or to official"
            )
        write_json(path, arch_facts(*network))
        return [path]
    if form != "official":
        raise InputError(f"format {form!r} is not one of {', '.join(FORMATS)}")
    config = net_config.to_config(network)
    run = {"image_size": network.arch.resolution}
    if path.suffix and path.name != "net.config":
        write_json(path, {**config, "resolution": network.arch.resolution})
        return [path]
    config_path = path if path.name == "net.config" else path / "net.config"
    run_path = config_path.parent / "run.config"
    for target in (config_path, run_path):
        if target.exists():
            raise InputError(f"{target}: exists already; name another path or remove it first")
    write_json(config_path, config)
    write_json(run_path, run)
    return [config_path, run_path]
