"""Commands about other people's networks: `zoo` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, emit
from onceforall.columns import Column, table
from onceforall.errors import InputError, choices, suggestion

if TYPE_CHECKING:
    from onceforall.interop import StaticNetwork


def zoo(
    name: Annotated[
        str | None,
        typer.Argument(
            help="An id or a short name; all where it is left out.",
            autocompletion=completing.published,
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch its weights into the cache folder.")
    ] = False,
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified",
            help="Download also what was published without a hash, if its keys and shapes are"
            " those of the network.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Lists the published supernets and networks, or shows one.

    Example: onceforall zoo ofa-note8-22 --download
    """
    from onceforall.interop import zoo as published

    if name is None:
        if download or unverified:
            option = "--download" if download else "--unverified"
            raise InputError(f"{option}: name what to download; `onceforall zoo` lists all")
        entries = [entry.to_dict() for entry in published.entries()]
        emit({"entries": entries, "n": len(entries)}, as_json, _list(entries))
        return
    if unverified and not download:
        raise InputError("--unverified: goes with --download")
    entry = published.get(name)
    if download or entry.file.is_file():
        published.fetch(entry, unverified)
    if download and entry.kind == "network":
        published.network(entry)  # its config, where it is not known here
    shown = entry.to_dict()
    shown["verified"] = entry.hash is not None if shown["cached"] else None
    emit(shown, as_json, "\n".join(f"{k:<16} {'' if v is None else v}" for k, v in shown.items()))


def _list(entries: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    columns: list[Column | str] = [
        Column("id"),
        Column("device", drop=5, left=True),
        Column("ms", drop=6),
        Column("px", drop=3),
        "top-1 %",
        Column("top-5 %", drop=1),
        Column("params M", drop=2),
        Column("MACs M", drop=7),
        Column("here", drop=4, left=True),
    ]
    keys = ("id", "device", "latency_ms", "resolution", "top1", "top5", "params_millions")
    rows = [
        [*(cell(e[k]) for k in keys), cell(e["macs_millions"]), "yes" if e["cached"] else ""]
        for e in entries
    ]
    return table(columns, rows, "--json, or `onceforall zoo ID`")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A network (net.config or its folder, MMRazor YAML, arch dictionary, arch as text"
            " or JSON, published id, FAMILY:largest) or weights (of the authors, of MMRazor, or a"
            " checkpoint).",
            autocompletion=completing.networks,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The file, or for official the folder, to write.")],
    to: Annotated[str, typer.Option(help="onceforall, official, mmrazor, timm, or arch-dict.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the network that SRC describes.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Of an arch dictionary or of supernet weights.",
            autocompletion=completing.families,
        ),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="In place of the one that SRC has, pixels.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Converts archs and weights between our files, the authors' and MMRazor's.

    Examples:

    onceforall convert subnet.yaml folder --to official

    onceforall convert net.config net.safetensors --weights init --to onceforall
    """
    from onceforall import interop
    from onceforall.costs import check_resolution
    from onceforall.files import refuse_existing

    forms = dict.fromkeys((*interop.FORMATS, *interop.WEIGHT_FORMATS))
    if to not in forms:
        raise InputError(f"--to: {to!r} is not one of {choices(forms)}{suggestion(to, forms)}")
    refuse_existing(out)
    path = Path(source)
    kind = "network" if weights is not None else interop.kind_of(path)
    if kind == "supernet":
        done = _convert_supernet(path, out, to, family)
    else:
        found = interop.resolve(source, weights, resolution, family)
        network = found.network
        if family not in (None, network.family.name):
            raise InputError(f"--family {family}: {source} is a network of {network.family.name}")
        if resolution is not None:
            check_resolution(network.family, network.arch)
        if found.weights is None:
            done = {"kind": "arch", **_written(_write_arch(source, network, out, to))}
        else:
            done = {"kind": "network", **_written(_write_weights(network, found.weights, out, to))}
        done |= {"family": network.family.name, "arch": str(network.arch)}
    emit({"format": to, **done}, as_json)


def _written(paths: list[Path]) -> dict[str, Any]:
    return {"path": str(paths[0]), "paths": [str(path) for path in paths]}


def _write_arch(source: str, network: StaticNetwork, out: Path, to: str) -> list[Path]:
    from onceforall import interop

    if to == "mmrazor" and Path(source).is_file():
        copied = interop.rewrite_subnet(Path(source), network, out)
        if copied is not None:
            return [copied]
    return interop.write_network(out, network, to)


def _write_weights(network: StaticNetwork, weights: Path, out: Path, to: str) -> list[Path]:
    from onceforall import interop
    from onceforall.supernet import save_network

    module = interop.read_weights(weights, *network)
    if to == "arch-dict":
        raise InputError("--to arch-dict: has no place for weights")
    if to == "onceforall":
        save_network(out, module, *network, {"source": weights.name})
        return [out]
    if to in ("mmrazor", "timm") or out.suffix:
        interop.write_weights(out, module, *network, to)
        return [out]
    written = interop.write_network(out, network, to)
    interop.write_weights(out / "init", module, *network, to)
    return [out / "init", *written]


def _convert_supernet(path: Path, out: Path, to: str, family: str | None) -> dict[str, Any]:
    from onceforall import families, interop
    from onceforall.supernet import save_supernet

    supernet = interop.read_supernet(path, families.get(family) if family else None)
    if to == "arch-dict":
        raise InputError("--to arch-dict: has no place for weights")
    if to == "onceforall":
        save_supernet(out, supernet, {"source": path.name})
    else:
        interop.write_supernet(out, supernet, to)
    return {"kind": "supernet", "family": supernet.family.name, **_written([out])}
