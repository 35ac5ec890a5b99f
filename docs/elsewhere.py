"""Says what built pages would load from other hosts: `python docs/elsewhere.py site`, status 1 if
anything. `make docs` ends with it. Links to other hosts are none; a script, a style, a font or a
picture is. What scripts load as they run is seen where the theme's own does, for some content.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADS = {  # of each element: the attributes whose address is loaded
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
# Kinds of `link` whose address is only named.
NAMED = {"alternate", "author", "canonical", "edit", "license", "me", "next", "prev"}
BROUGHT = {"glightbox", "mermaid", "pyodide"}  # classes for which the theme's script loads code
ELSEWHERE = re.compile(r"(?:https?:)?//[^\s,\"')]+", re.I)
IN_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\s\"')]+)", re.I)


class _Page(HTMLParser):
    """Collects the addresses that a page loads from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.found += IN_STYLE.findall(given.get("style", ""))
        self.found += [f"code for {kind}" for kind in BROUGHT & set(given.get("class", "").split())]
        if tag == "link" and set(given.get("rel", "").lower().split()) <= NAMED:
            return
        for name in LOADS.get(tag, ()):
            value = given.get(name, "")
            for address in value.split(",") if name == "srcset" else [value]:
                if ELSEWHERE.match(address.strip()):
                    self.found.append(address.split()[0])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._in_style = False

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += IN_STYLE.findall(data)


def loaded(path: Path) -> list[str]:
    """What a page, a style or a picture (SVG) loads from other hosts."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".css":
        return IN_STYLE.findall(text)
    page = _Page()
    page.feed(text)
    return page.found


def faults(site: Path) -> Iterator[str]:
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css", ".svg"):
            yield from (f"{path}: loads {address}" for address in loaded(path))


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    sys.stderr.writelines(f"{line}\n" for line in found)
    sys.exit(1 if found else 0)
