"""Tables of the pages, rendered from the files that commands wrote (docs/figures/).

A page has a table where it says `<!-- table: NAME -->`; `python docs/tables.py` renders all anew,
and tests/test_docs.py compares. `<!-- table: FILE made -->` is the line that says how a file of
benchmarks' figures was made. `python docs/tables.py RUN` takes over a run of `onceforall demo`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from onceforall import __version__, files

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "benchmarks"))

from figures import Table  # noqa: E402

FIGURES = DOCS / "figures"
PLACE = re.compile(r"(?s)(<!-- table: ([\w -]+) -->\n).*?(<!-- end of table -->)")
DEMO = Table(
    {
        "budget": "{name}",
        "params": "{params_thousands:.1f}k",
        "MACs": "{macs_millions:.2f}M",
        "top-1 predicted": "{top1_predicted:.2f}",
        "validation": "{top1_validation:.2f}",
        "test": "{top1_test:.2f}",
        "ms predicted": "{latency_predicted_ms:.4f}",
        "measured": "{latency_measured_ms:.4f}",
    }
)


def take(run: Path) -> None:
    """What a demo wrote, without the paths of the machine; with the versions on its cards."""
    found = files.read_json(run / "demo.json")
    kept = {key: found[key] for key in ("data", "networks", "seconds", "seconds_training")}
    for network in kept["networks"]:
        card = files.read_json(run / "networks" / network["name"] / "card.json")
        network["folder"] = f"networks/{network['name']}"
    kept["made"] = {
        "command": "onceforall demo",
        "version": __version__,
        **{key: card[key] for key in ("runtime", "torch", "processor", "supernet")},
    }
    files.write_json(FIGURES / "demo.json", kept, overwrite=True)
    shutil.copyfile(run / "accuracy-latency.png", DOCS / "demo.png")


def demo(found: dict[str, Any]) -> str:
    """A row a network: budget, what it costs, what was predicted and what was measured."""
    rows = [
        {**n, "params_thousands": n["params"] / 1e3, "macs_millions": n["macs"] / 1e6}
        for n in found["networks"]
    ]
    made = found["made"]
    note = (
        f"onceforall {made['version']}, {made['runtime']}, torch {made['torch'].split('+')[0]};"
        f" one thread of an {made['processor']}; {found['seconds']:.0f} s in all,"
        f" {found['seconds_training']:.0f} s of it training."
    )
    return str(Table(DEMO.columns, rows, note))


def how(made: dict[str, Any]) -> str:
    """One line: with which command, versions and processor."""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return f"`{made['command']}` ({versions}; {made['processor']})"


def tables() -> dict[str, str]:
    """The text of every table, by its name."""
    found = {}
    for path in sorted(FIGURES.glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        if "tables" not in figures:
            found[path.stem] = demo(figures)
            continue
        found[f"{path.stem} made"] = how(figures["made"])
        found |= {name: str(Table(**table)) for name, table in figures["tables"].items()}
    return found


def rendered(text: str) -> str:
    """A page with its tables made anew."""
    known = tables()
    return PLACE.sub(lambda place: f"{place[1]}{known[place[2]]}\n{place[3]}", text)


if __name__ == "__main__":
    if sys.argv[1:]:
        take(Path(sys.argv[1]))
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        files.write_text(page, rendered(text), overwrite=True)
