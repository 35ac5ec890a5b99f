"""Columns of text that fit a terminal's width: `table`.

What does not fit beside the rest goes below the table or is left out, in an order that is said
with the columns, and the last line says what was left out. Knows nothing of what is shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100  # characters, where no terminal says its width
GAP = "  "  # between columns
LEAST = 12  # characters that are kept of a cell that is cut


@dataclass(frozen=True)
class Column:
    """How a column is shown.

    Attributes:
        head: its name, and the unit; may have two lines.
        drop: where the table is too wide, columns are left out by rising number; 0: never.
        left: aligned left, as text is; numbers are aligned right.
        below: long texts: where the table is too wide, they have lines of their own below it.
    """

    head: str
    drop: int = 0
    left: bool = False
    below: bool = False

    @property
    def name(self) -> str:
        """The head in one line."""
        return " ".join(self.head.split())


def terminal_width() -> int:
    """Characters in a line: of COLUMNS, else of the terminal on stdout; WIDTH where it is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[str]],
    rest: str = "--json",
    width: int | None = None,
) -> str:
    """Rows under heads, no line wider than the terminal; but texts that were put below the table
    are whole, however long. The first column is aligned left and stays.

    Args:
        rest: where what was left out can be found.
        width: characters; the terminal's, if left out.
    """
    width = terminal_width() if width is None else width
    known = [c if isinstance(c, Column) else Column(c) for c in columns]
    shown = list(range(len(known)))
    below: list[int] = []
    dropped: list[int] = []
    for i in (i for i in shown[1:] if known[i].below):
        if _total(known, rows, shown) > width:
            below.append(i)
            shown = [k for k in shown if k != i]
    for i in sorted((i for i in shown[1:] if known[i].drop), key=lambda i: known[i].drop):
        if _total(known, rows, shown) > width:
            dropped.append(i)
            shown = [k for k in shown if k != i]
    lines = _lines(known, rows, shown, width)
    if below:
        lines += ["", *_below(rows, below, width)]
    if dropped:
        names = ", ".join(known[i].name for i in sorted(dropped))
        lines.append(f"also: {names} ({rest})")
    return "\n".join(lines)


def _widths(known: Sequence[Column], rows: Sequence[Sequence[str]], shown: list[int]) -> list[int]:
    from rich.cells import cell_len

    return [
        max(map(cell_len, (*known[i].head.splitlines(), *(row[i] for row in rows))), default=0)
        for i in shown
    ]


def _total(known: Sequence[Column], rows: Sequence[Sequence[str]], shown: list[int]) -> int:
    return sum(_widths(known, rows, shown)) + len(GAP) * (len(shown) - 1)


def _lines(
    known: Sequence[Column], rows: Sequence[Sequence[str]], shown: list[int], width: int
) -> list[str]:
    """The table itself. If it is too wide still, texts are cut, the widest first."""
    from rich.cells import cell_len, set_cell_size

    widths = _widths(known, rows, shown)
    texts = [n for n, i in enumerate(shown) if n == 0 or known[i].left]
    for n in sorted(texts, key=lambda n: -widths[n]):
        over = sum(widths) + len(GAP) * (len(shown) - 1) - width
        if over > 0:
            widths[n] = min(widths[n], max(LEAST, widths[n] - over))
    heads = [known[i].head.splitlines() or [""] for i in shown]
    tall = max(map(len, heads))
    top = [[h[k - tall] if k >= tall - len(h) else "" for h in heads] for k in range(tall)]
    lines = []
    for cells in [*top, *([row[i] for i in shown] for row in rows)]:
        parts = []
        for n, (cell, size) in enumerate(zip(cells, widths, strict=True)):
            if cell_len(cell) > size:
                cell = set_cell_size(cell, size - 1) + "…"
            pad = " " * (size - cell_len(cell))
            parts.append(cell + pad if n in texts else pad + cell)
        lines.append(GAP.join(parts).rstrip())
    return lines


def _below(rows: Sequence[Sequence[str]], below: list[int], width: int) -> list[str]:
    """The long texts: those of a row in one line after its first cell, or a line each, if those of
    any row are too long for that."""
    from rich.cells import cell_len

    size = max(cell_len(row[0]) for row in rows)
    names = [row[0] + " " * (size - cell_len(row[0])) for row in rows]
    texts = [[row[i] for i in below if row[i]] for row in rows]
    lines = [GAP.join([name, *own]) for name, own in zip(names, texts, strict=True)]
    if all(cell_len(line) <= width for line in lines):
        return lines
    blank = " " * size
    return [
        GAP.join([blank if n else name, text])
        for name, own in zip(names, texts, strict=True)
        for n, text in enumerate(own)
    ]
