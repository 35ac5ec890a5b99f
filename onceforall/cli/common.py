"""What all commands share: the `--json` option, how results are printed, and what comes next."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def emit(
    data: dict[str, Any], as_json: bool, text: str | None = None, then: str | None = None
) -> None:
    """Prints the result: one JSON object, or `text` (by default a line a field) and then the
    command that is likely to be wanted next."""
    if as_json:
        print(json.dumps(data))
        return
    if text is not None:
        print(text)
    else:
        width = max((len(key) for key in data), default=0)
        for key, value in data.items():
            shown = f"{value:,}" if isinstance(value, int) else value
            print(f"{key:<{width}}  {shown}")
    if then is not None:
        print(f"next: {then}")


def command(*words: object) -> str:
    """A command of ours, ready to be typed; "..." is for the person to fill in."""
    return shlex.join(["onceforall", *map(str, words)])
