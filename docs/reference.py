"""Writes the reference pages of the docs site from the code itself: commands, settings, Python.

`make docs` runs it; what it writes (`docs/reference/`) is not kept in the repository, so that it
cannot go stale. It knows no page that was written by hand.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import typer
import yaml

from onceforall.cli import app
from onceforall.data import Source
from onceforall.training import PhaseSettings, Settings
from onceforall.training.config import RECIPES

FOLDER = Path(__file__).parent / "reference"
ROOMS = (
    "onceforall",
    "onceforall.families",
    "onceforall.families.lending",
    "onceforall.space",
    "onceforall.supernet",
    "onceforall.training",
    "onceforall.data",
    "onceforall.costs",
    "onceforall.records",
    "onceforall.predictors",
    "onceforall.search",
    "onceforall.devices",
    "onceforall.export",
    "onceforall.interop",
    "onceforall.report",
    "onceforall.pipeline",
    "onceforall.testing",
)
SETTINGS = {
    "Of a run (`batch_size=64`)": Settings,
    "Of a phase (`phases.0.lr=0.1`)": PhaseSettings,
    "Of data (`data.workers=4`)": Source,
}


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    return {"commands.md": commands(), "settings.md": settings(), "python.md": python()}


# Commands


def named_commands() -> dict[str, Any]:
    """Every command that does something, by what is typed: `records accuracy`."""
    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        parts = getattr(command, "commands", None)
        if parts is None:
            found[name] = command
            return
        for part, inner in parts.items():
            walk(inner, f"{name} {part}".strip())

    walk(typer.main.get_command(app), "")
    return found


def options(command: Any) -> set[str]:
    """What may be typed after it that begins with a dash."""
    given = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
    return given | {"--help"}


def commands() -> str:
    lines = ["# Commands", ""]
    lines += ["What `--help` says of each, made from the program itself.", ""]
    for name, command in sorted(named_commands().items()):
        lines += [f"## `onceforall {name}`", "", _help(command.help or ""), ""]
        lines += ["| what is typed | default | |", "|---|---|---|"]
        lines += [_row(_typed(p), _default(p), p.help or "") for p in command.params if _shown(p)]
        lines.append("")
    return "\n".join(lines)


def _shown(parameter: Any) -> bool:
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def _typed(parameter: Any) -> str:
    option = parameter.param_type_name == "option"
    typed = ", ".join([*parameter.opts, *parameter.secondary_opts] if option else [parameter.name])
    return f"`{typed if option else parameter.metavar or typed.upper()}`"


def _default(parameter: Any) -> str:
    default = parameter.default
    if callable(default) or default in (None, False, (), [], "") or "UNSET" in repr(default):
        return "needed" if parameter.required else ""
    return f"`{default}`"


def _help(text: str) -> str:
    """As Markdown: the lines of examples are code."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\b", ""))
    return "\n\n".join(_paragraph(p) for p in paragraphs)


def _paragraph(text: str) -> str:
    example = re.match(r"(Examples?: )?(onceforall |torchrun )", text)
    if not example:
        return text
    label, line = example.group(1) or "", text[len(example.group(1) or "") :]
    return f"{label.strip()}\n\n```\n{line}\n```" if label else f"```\n{line}\n```"


def _row(*cells: str) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ").strip() for c in cells) + " |"


# Settings


def settings() -> str:
    lines = ["# Settings", "", "What a recipe may say, and what holds where it says nothing;"]
    lines += ["made from the dataclasses. What they are for: [Training](../training.md).", ""]
    for title, kind in SETTINGS.items():
        lines += [f"## {title}", "", "| setting | type | default | |", "|---|---|---|---|"]
        notes = remarks(kind)
        for field in dataclasses.fields(kind):
            cells = (f"`{field.name}`", f"`{field.type}`", _value(field), notes[field.name])
            lines.append(_row(*cells))
        lines.append("")
    lines += ["## The recipes", ""]
    for path in sorted(RECIPES.glob("*.yaml")):
        text = path.read_text(encoding="utf-8").strip()
        yaml.safe_load(text)
        lines += [f"### `{path.stem}`", "", "```yaml", text, "```", ""]
    return "\n".join(lines)


def remarks(kind: type) -> dict[str, str]:
    """The comment that stands under each field of a dataclass, or beside it."""
    found: dict[str, str] = {field.name: "" for field in dataclasses.fields(kind)}
    last = ""
    for line in inspect.getsource(kind).splitlines():
        field = re.match(r"    (\w+): .*?(?:  # (.*))?$", line)
        if field and field.group(1) in found:
            last = field.group(1)
            found[last] = field.group(2) or ""
        elif last and line.startswith("    # "):
            found[last] = f"{found[last]} {line.strip('# ').strip()}".strip()
        elif line.strip():
            last = ""
    return found


def _value(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is dataclasses.MISSING:
        return "needed"
    made = field.default_factory()
    return f"`{made.name}`" if isinstance(made, Source) else f"`{made!r}`"


# Python


def python() -> str:
    lines = ["# Python", "", "What each room offers, from its docstrings.", ""]
    for room in ROOMS:
        module = importlib.import_module(room)
        lines += [f"## `{room}`", "", _with_code(inspect.getdoc(module) or ""), ""]
        for name in public(module):
            lines += _described(name, getattr(module, name), home=room)
    return "\n".join(lines)


def _with_code(text: str) -> str:
    """Paragraphs that are lines of Python, as such."""
    paragraphs = [
        f"```python\n{part}\n```"
        if re.match(r"(import|from) \w+|[\w.]+ = |[\w.]+\(", part)
        else part
        for part in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs).replace("\n```\n\n```python\n", "\n\n")


def public(module: Any) -> list[str]:
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    return [name for name in own if not name.startswith("_")]


def _described(name: str, value: Any, home: str) -> list[str]:
    if inspect.ismodule(value):
        return []
    lines = [f"### `{name}`", ""]
    if inspect.isclass(value) or inspect.isroutine(value):
        kind = "class" if inspect.isclass(value) else "def"
        lines += ["```python", f"{kind} {name}{_signature(value)}", "```", ""]
        lines += [_sections(inspect.getdoc(value) or ""), ""]
    else:
        lines += [f"A `{type(value).__name__}`.", ""]
    if inspect.isclass(value):
        lines += _methods(value)
    return lines


def _methods(kind: type) -> list[str]:
    lines = []
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if isinstance(function, property):
            said = inspect.getdoc(function)
            lines += [f"- `{name}`: {' '.join(said.split())}"] if said else []
        elif inspect.isfunction(function) and not name.startswith("_") and function.__doc__:
            said = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
            lines += [f"- `{name}{_signature(function)}`: {said}"]
    return [*lines, ""] if lines else []


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value)).replace("'", "")
    except (TypeError, ValueError):
        return ""


def _sections(text: str) -> str:
    """Arguments and errors as lists."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.strip() in ("Args:", "Raises:", "Returns:"):
            lines += ["", f"**{line.strip(': ')}**", ""]
            inside = True
        elif inside and re.match(r"    \S", line):
            lines.append(f"- {line.strip()}")
        elif inside and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and not line.strip()
            lines.append(line)
    return "\n".join(lines)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stderr.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()
