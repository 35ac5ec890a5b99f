"""Tables of the pages, rendered from the files that commands wrote.

`python docs/tables.py RUN` takes over a run of `onceforall demo` (docs/demo.json, docs/demo.png)
and renders its table anew wherever a page has `<!-- table: demo -->`; tests/test_docs.py compares.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from onceforall import __version__

DOCS = Path(__file__).parent
PAGES = ("results.md", "ten-minutes.md")
PLACE = re.compile(r"(?s)(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)")


def take(run: Path) -> None:
    """What a demo wrote, without the paths of the machine; with the versions on its cards."""
    found = json.loads((run / "demo.json").read_text(encoding="utf-8"))
    kept = {key: found[key] for key in ("data", "networks", "seconds", "seconds_training")}
    for network in kept["networks"]:
        card = json.loads((run / "networks" / network["name"] / "card.json").read_text())
        network["folder"] = f"networks/{network['name']}"
    kept["made"] = {
        "command": "onceforall demo",
        "version": __version__,
        **{key: card[key] for key in ("runtime", "torch", "processor", "supernet")},
    }
    (DOCS / "demo.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(run / "accuracy-latency.png", DOCS / "demo.png")


def demo() -> str:
    """A row a network: budget, what it costs, what was predicted and what was measured."""
    found = json.loads((DOCS / "demo.json").read_text(encoding="utf-8"))
    lines = ["| budget | params | MACs | top-1 predicted | validation | test | ms predicted |"]
    lines[0] += " measured |"
    lines += ["|---" * 8 + "|"]
    lines += [_row(network) for network in found["networks"]]
    made = found["made"]
    lines += [
        "",
        f"onceforall {made['version']}, {made['runtime']}, torch {made['torch'].split('+')[0]};"
        f" one thread of an {made['processor']}; {found['seconds']:.0f} s in all,"
        f" {found['seconds_training']:.0f} s of it training.",
    ]
    return "\n".join(lines)


def _row(network: dict[str, Any]) -> str:
    cells = [
        network["name"],
        f"{network['params'] / 1e3:.1f}k",
        f"{network['macs'] / 1e6:.2f}M",
        *(f"{network[f'top1_{of}']:.2f}" for of in ("predicted", "validation", "test")),
        *(f"{network[f'latency_{of}_ms']:.4f}" for of in ("predicted", "measured")),
    ]
    return f"| {' | '.join(cells)} |"


TABLES = {"demo": demo}


def rendered(text: str) -> str:
    """A page with its tables made anew."""
    return PLACE.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


if __name__ == "__main__":
    if sys.argv[1:]:
        take(Path(sys.argv[1]))
    for name in PAGES:
        page = DOCS / name
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
