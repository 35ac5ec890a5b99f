"""The published once-for-all supernets and networks: facts, and verified downloads.

The facts lie in `zoo.csv`, one row a file: what its authors published, where it is, its
hash, and its arch where that is known. Files are fetched from the authors' address (or a
mirror of it, ONCEFORALL_ZOO) into the cache folder: resumed where they were cut off,
verified, and only then given their name. A file put there by hand is as good.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onceforall.errors import InputError, suggestion
from onceforall.files import cache_folder
from onceforall.progress import bar
from onceforall.space import Arch

if TYPE_CHECKING:
    from torch import nn

AUTHORS = "https://raw.githubusercontent.com/han-cai/files/master/"
LARGE_FILES = "https://media.githubusercontent.com/media/han-cai/files/master/"  # Git LFS
POINTER = re.compile(rb"version https://git-lfs\.github\.com/\S+\noid sha256:([0-9a-f]{64})\n")
POINTER_BYTES = 1024  # no pointer is longer
TIMEOUT_S = 30
CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class Published:
    """One published network or supernet. What its authors do not say is None."""

    id: str
    name: str
    kind: str  # "supernet" or "network"
    family: str
    device: str | None
    latency_ms: float | None
    top1: float | None  # ImageNet, percent
    top5: float | None
    params_millions: float | None
    macs_millions: float | None
    path: str  # of its weights, below the authors' address
    hash: str | None  # "git:" + SHA-1 of a git blob, or "sha256:" + ...
    arch: Arch | None

    @property
    def url(self) -> str:
        """Where its weights are."""
        authors = LARGE_FILES if (self.hash or "").startswith("sha256:") else AUTHORS
        return os.environ.get("ONCEFORALL_ZOO", authors).rstrip("/") + "/" + self.path

    @property
    def file(self) -> Path:
        """Where its weights are kept on this machine."""
        return cache_folder() / "zoo" / self.id / Path(self.path).name

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "family": self.family,
            "device": self.device,
            "latency_ms": self.latency_ms,
            "top1": self.top1,
            "top5": self.top5,
            "params_millions": self.params_millions,
            "macs_millions": self.macs_millions,
            "arch": None if self.arch is None else str(self.arch),
            "resolution": None if self.arch is None else self.arch.resolution,
            "url": self.url,
            "hash": self.hash,
            "path": str(self.file),
            "cached": self.file.is_file(),
        }


@cache
def entries() -> tuple[Published, ...]:
    """All published supernets and networks."""
    text = resources.files("onceforall.interop").joinpath("zoo.csv").read_text(encoding="utf-8")
    return tuple(_entry(row) for row in csv.DictReader(text.splitlines()))


def _entry(row: dict[str, str]) -> Published:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    folder = "ofa/ofa_nets/" if row["kind"] == "supernet" else "ofa/ofa_specialized/"
    return Published(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        family=row["family"],
        device=row["device"] or None,
        latency_ms=number("latency_ms"),
        top1=number("top1"),
        top5=number("top5"),
        params_millions=number("params_millions"),
        macs_millions=number("macs_millions"),
        path=folder + row["id"] + ("" if row["kind"] == "supernet" else "/init"),
        hash=row["hash"] or None,
        arch=Arch.parse(row["arch"]) if row["arch"] else None,
    )


def find(name: str) -> Published | None:
    """The entry of an id (with `@` or `-`) or of a short name; a family's name is its supernet."""
    plain = name.replace("@", "-")
    return next((e for e in entries() if plain in (e.id, e.name)), None)


def get(name: str) -> Published:
    """As `find`, but there must be one.

    Raises:
        InputError: there is none; names the nearest.
    """
    found = find(name)
    if found is None:
        ids = [e.id for e in entries()] + [e.name for e in entries()]
        near = suggestion(name.replace("@", "-"), ids)
        raise InputError(f"{name!r} is not published; `onceforall zoo` lists all{near}")
    return found


def network(entry: Published) -> Any:
    """The `StaticNetwork` of a published network; offline where its arch is known.

    Raises:
        InputError: its arch is not known here, and its config cannot be had.
    """
    from onceforall import families
    from onceforall.interop.net_config import StaticNetwork
    from onceforall.interop.networks import read_network

    if entry.kind != "network":
        raise InputError(f"{entry.id} is a supernet; name a network of it: {entry.family}:largest")
    if entry.arch is not None:
        return StaticNetwork(families.get(entry.arch.family), entry.arch)
    for name in ("net.config", "run.config"):
        beside = entry.file.with_name(name)
        if not beside.is_file():
            _fetch(f"{entry.url.rsplit('/', 1)[0]}/{name}", beside, None)
    return read_network(entry.file.with_name("net.config"))


def fetch(entry: Published, unverified: bool = False) -> Path:
    """Its weights on this machine: from the cache, or downloaded; verified either way.

    Args:
        unverified: download also what was published without a hash. Then only this is checked:
            that it has the keys and shapes of the network.

    Raises:
        InputError: it cannot be had, or is not what was published; or cannot be verified, and
            `unverified` was not given.
    """
    if entry.file.is_file():
        _verify(entry.file, entry.hash)
    elif entry.hash is not None:
        _fetch(entry.url, entry.file, entry.hash)
    elif unverified:
        _fetch_unverified(entry)
    else:
        raise InputError(
            f"{entry.id}: no hash of its weights is known, a download could not be verified;"
            f" `onceforall zoo {entry.id} --download --unverified` takes what comes if it has the"
            " network's keys and shapes"
        )
    return entry.file


def _fetch_unverified(entry: Published) -> None:
    """Downloads weights of unknown hash. Where the authors' repository has a pointer to a large
    file in their place, it has the file's hash, and that is verified."""
    from onceforall.interop.weight_files import read_weights

    described = network(entry)
    _fetch(entry.url, entry.file, None)
    try:
        pointed = POINTER.match(entry.file.read_bytes()[:POINTER_BYTES])
        if pointed is not None:
            entry.file.unlink()
            large = replace(entry, hash=f"sha256:{pointed[1].decode()}")
            _fetch(large.url, entry.file, large.hash)
        read_weights(entry.file, *described)
    except InputError as error:
        entry.file.unlink(missing_ok=True)
        raise InputError(f"{error}; nothing was kept") from None


def load(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """A supernet or a network with its weights.

    Args:
        name: a published supernet (`ofa_mbv3_w1.0`) or network (`flops-595M_top1-80.0_finetune-75`)
            or any family, or a file that describes a network (a `net.config`, say).
        weights: a file with its weights, of the authors, of MMRazor or ours. None: the published
            ones, downloaded once.

    Returns:
        A `SuperNet` for a supernet or family, else an ordinary network in evaluation mode.

    Raises:
        InputError: not known, cannot be had, or the weights are of something else.
    """
    from onceforall import families, interop

    entry = find(name)
    if entry is None and not families.known(name):
        described = interop.read_network(Path(name))
        if weights is None:
            raise InputError(f"{name}: is not published; give its weights")
        return interop.read_weights(Path(weights), *described)
    if weights is None:
        if entry is None:
            raise InputError(f"{name}: has no published weights; give a file")
        weights = fetch(entry)
    if entry is None or entry.kind == "supernet":
        family = families.get(name if entry is None else entry.family)
        return interop.read_supernet(Path(weights), family)
    return interop.read_weights(Path(weights), *network(entry))


# --- downloading


def _fetch(url: str, target: Path, expected: str | None) -> None:
    """Downloads to a `.part` file beside the target and moves it there when it is verified."""
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part)
    except (OSError, ValueError, HTTPException) as error:  # URLError and HTTPError are OSErrors
        reason = getattr(error, "reason", None) or error
        why = getattr(reason, "strerror", None) or " ".join(str(reason).split())
        raise InputError(
            f"{url}: cannot be downloaded ({why}); fetch it elsewhere and put it at {target}"
        ) from None
    try:
        _verify(part, expected)
    except InputError:
        part.unlink()
        raise InputError(
            f"{url}: what came is not what was published (its hash is not {expected});"
            " nothing was kept"
        ) from None
    part.replace(target)


def _download(url: str, part: Path) -> None:
    """Fetches a file, or the rest of it where a part is there already."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "onceforall"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            return
        raise
    with answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file, bar(part.stem, total, done) as shown:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                shown.advance(len(chunk))
    if total is not None and done < total:
        raise OSError(f"cut off after {done} of {total} bytes; run it again to resume")


def _verify(path: Path, expected: str | None) -> None:
    """Raises InputError where a file is not what was published."""
    if expected is None:
        return
    kind, value = expected.split(":", 1)
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1()
    if kind == "git":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != value:
        raise InputError(
            f"{path}: is not what was published (its hash is not {expected}); remove it"
        )
