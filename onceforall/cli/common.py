"""What all commands share: the `--json` option, and how results are printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def emit(data: dict[str, Any], as_json: bool, text: str | None = None) -> None:
    """Prints the result: one JSON object, or `text` (by default a line a field)."""
    if as_json:
        print(json.dumps(data))
    elif text is not None:
        print(text)
    else:
        width = max((len(key) for key in data), default=0)
        for key, value in data.items():
            shown = f"{value:,}" if isinstance(value, int) else value
            print(f"{key:<{width}}  {shown}")


def table(headers: list[str], rows: list[list[str]]) -> str:
    """Columns as text; the first is aligned left, the others right."""
    from rich.table import Table

    shown = Table(*headers, box=None, pad_edge=False, show_edge=False, header_style="")
    for column in shown.columns[1:]:
        column.justify = "right"
    for column in shown.columns:
        column.no_wrap = True
    for row in rows:
        shown.add_row(*row)
    return render(shown)


def render(renderable: Any) -> str:
    """What rich would print on a terminal wide enough."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=240, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
