"""A gathered run as one HTML file that needs nothing else: `write_explorer`.

The files in `page/` are joined with the data. Nothing in a run is ever markup: data go in as JSON
whose signs that mean something to HTML are escaped, and the page shows them as text. Its policy
lets only the joined scripts run, by their digests, and forbids every connection. Knows files and
plain data; nothing of runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from onceforall.files import write_text
from onceforall.report.networks import plain

MOST_BYTES = 2_000_000  # of the file: it can be mailed
SCRIPTS = (
    "echarts.min.js",
    "base.js",
    "front.js",
    "picture.js",
    "trust.js",
    "training.js",
    "records.js",
    "page.js",
)
_ESCAPED = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


def write_explorer(data: Mapping[str, Any], path: Path, *, overwrite: bool = False) -> int:
    """Writes the page of what `gather` gave; returns its size in bytes.

    Where that would be more than `MOST_BYTES`, the texts of the records' archs are left out, and
    then evenly as many records as it takes; the page says so.

    Raises:
        InputError: something is at `path` already, or no file can be made there.
    """
    text = page(data)
    for shown in _smaller(data):
        if len(text.encode()) <= MOST_BYTES:
            break
        text = page(shown)
    write_text(path, text, overwrite=overwrite)
    return path.stat().st_size


def page(data: Mapping[str, Any]) -> str:
    """The HTML."""
    scripts = [_read(name) for name in SCRIPTS]
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    ]
    html = _read("page.html")
    for mark, content in {
        "{{policy}}": (
            f"default-src 'none'; script-src {' '.join(digests)}; style-src 'unsafe-inline';"
            " img-src data: blob:; base-uri 'none'; form-action 'none'"
        ),
        "{{style}}": _read("page.css"),
        "{{licence}}": escape(_read("echarts.LICENSE"), quote=False),
        "{{scripts}}": "\n".join(f"<script>{script}</script>" for script in scripts),
        "{{data}}": escaped(data),  # last: what a run says is not searched for marks
    }.items():
        html = html.replace(mark, content, 1)
    return html


def escaped(data: Any) -> str:
    """JSON that can stand in HTML, whatever the data hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


def _read(name: str) -> str:
    return (resources.files("onceforall.report") / "page" / name).read_text(encoding="utf-8")


def _smaller(data: Mapping[str, Any]) -> Any:
    """The same data with less and less of the table of records."""
    table = data.get("table")
    if not table:
        return
    step = 1
    while len(table["archs"]) > step or step == 1:
        columns = [
            column
            | {"values": plain(column["values"][::step], 4)}
            | ({"measured": column["measured"][::step]} if "measured" in column else {})
            for column in table["columns"]
        ]
        yield {**data, "table": {"archs": None, "columns": columns, "total": table["total"]}}
        step += 1
