"""The published networks: makes `onceforall/interop/zoo.csv` and the table in `docs/published.md`.

    python benchmarks/published.py zoo FOLDER > onceforall/interop/zoo.csv
    python benchmarks/published.py table --out docs/figures/published.json

FOLDER has the authors' configs and numbers: `specialized/<id>/net.config`,
`specialized.csv`, `published_files.csv`. The table needs nothing: it counts the networks
that the zoo knows, and sets them beside what was published.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import figures
import torch

from onceforall.costs import cost
from onceforall.errors import InputError
from onceforall.interop import read_network, zoo

COLUMNS = (
    "id",
    "name",
    "kind",
    "family",
    "device",
    "latency_ms",
    "top1",
    "top5",
    "params_millions",
    "macs_millions",
    "hash",
    "arch",
)
TABLE = {
    "network": "{id}",
    "top-1": "{top1}",
    "params": "{params_published:g} M",
    "params counted": "{params:.3f} M",
    "MACs": "{macs_published:g} M",
    "MACs counted": "{macs:.3f} M",
    "MACs agree": "{agree}",
}
AGREE = ("yes", "in tenths", "no")
DEVICES = {  # by the start of an id
    "pixel1": "Google Pixel1",
    "pixel2": "Google Pixel2",
    "note10": "Samsung Note10",
    "note8": "Samsung Note8",
    "s7edge": "Samsung S7 Edge",
    "LG-G8": "LG G8",
    "1080ti": "NVIDIA 1080 Ti, batch 64",
    "v100": "NVIDIA V100, batch 64",
    "tx2": "Jetson TX2 GPU, batch 16",
    "cpu": "Intel Xeon CPU, batch 1",
}
SUPERNETS = {
    "ofa_mbv3_d234_e346_k357_w1.0": "ofa_mbv3_w1.0",
    "ofa_mbv3_d234_e346_k357_w1.2": "ofa_mbv3_w1.2",
    "ofa_proxyless_d234_e346_k357_w1.3": "ofa_proxyless_w1.3",
    "ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0": "ofa_resnet50",
}
# From the pointer that the authors' repository has in place of the file (Git LFS).
LARGE = {
    "ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0": "sha256:"
    "3406a4c852f4573a58e9a01f35406baa4ad3787044ffadc6ea45571ad2b9123a"
}


def make_zoo(folder: Path) -> None:
    """Prints the zoo's file."""
    with (folder / "published_files.csv").open() as file:
        hashes = {row["path"]: f"git:{row['git_blob_sha1']}" for row in csv.DictReader(file)}
    out = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    out.writeheader()
    for name, family in SUPERNETS.items():
        known = hashes.get(f"ofa/ofa_nets/{name}", LARGE.get(name))
        out.writerow(
            {"id": name, "name": family, "kind": "supernet", "family": family, "hash": known}
        )
    with (folder / "specialized.csv").open() as file:
        for row in csv.DictReader(file):
            out.writerow(_network(folder, row, hashes))


def _network(folder: Path, row: dict[str, str], hashes: dict[str, str]) -> dict[str, str | None]:
    config = folder / "specialized" / row["id"] / "net.config"
    arch = read_network(config).arch if config.is_file() else None
    device = next((d for start, d in DEVICES.items() if row["id"].startswith(start)), None)
    latency = re.search(r"-(\d+)ms", row["id"])
    return {
        **{key: row[key] for key in ("id", "name", "top1", "top5", "params_millions")},
        "macs_millions": f"{float(row['macs_millions']):g}",
        "kind": "network",
        "family": arch.family if arch is not None else "ofa_resnet50",
        "device": device,
        "latency_ms": latency[1] if latency else None,
        "hash": hashes.get(f"ofa/ofa_specialized/{row['id']}/init"),
        "arch": str(arch) if arch is not None else None,
    }


def make_table() -> figures.Table:
    """What was published and what is counted, millions, and whether and in which way they agree."""
    table = figures.Table(TABLE)
    for entry in zoo.entries():
        if entry.arch is None:
            continue
        found = zoo.network(entry)
        with torch.device("meta"):
            network = found.build()
        counted = cost(network, (3, found.arch.resolution, found.arch.resolution))
        params, macs = counted.params / 1e6, counted.macs / 1e6
        how = "no"
        if rounded(params, 1) == entry.params_millions:
            if rounded(macs, 0) == entry.macs_millions:
                how = "yes"
            elif rounded(rounded(macs, 1), 0) == entry.macs_millions:
                how = "in tenths"
        table.add(
            id=entry.id,
            top1=entry.top1,
            params_published=entry.params_millions,
            params=params,
            macs_published=entry.macs_millions,
            macs=macs,
            agree=how,
        )
    agree = {how: [r["id"] for r in table.rows if r["agree"] == how] for how in AGREE}
    missing = [e.id for e in zoo.entries() if e.kind == "network" and e.arch is None]
    table.note = (
        f"Of {len(table.rows)}, {len(agree['yes'])} agree once rounded, {len(agree['in tenths'])}"
        f" once rounded to tenths and then rounded again; not {', '.join(agree['no'])}.\n\n"
        f"Published too, but without a config that is known here: {', '.join(missing)}."
    )
    return table


def rounded(value: float, digits: int) -> float:
    """To so many decimals, halves up."""
    return float(Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("zoo", help="the zoo's file").add_argument("folder", type=Path)
    figures.add_option(kinds.add_parser("table", help="the document's table"))
    given = parser.parse_args()
    try:
        if given.kind == "zoo":
            make_zoo(given.folder)
        else:
            figures.write(given.out, {"published": make_table()})
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
