"""Draws the three pictures of "How it works" as SVG: `python docs/pictures/draw.py`."""

from pathlib import Path

FOLDER = Path(__file__).parent
INK, SOFT, LENT, KEPT, WARM = "#1f2933", "#52606d", "#2f6fd0", "#dbe4f0", "#d9822b"


def text(
    x: float, y: float, words: str, size: int = 14, color: str = INK, at: str = "start"
) -> str:
    style = f'font-size="{size}" fill="{color}" text-anchor="{at}"'
    return f'<text x="{x}" y="{y}" {style}>{words}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, edge: str = "white") -> str:
    return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{fill}" stroke="{edge}"/>'


def grid(
    x: float, y: float, cell: float, columns: int, rows: int, lent: tuple[range, range]
) -> str:
    """Cells of a weight; those of the ranges (columns, rows) are lent."""
    return "".join(
        box(
            x + cell * i,
            y + cell * j,
            cell,
            cell,
            LENT if i in lent[0] and j in lent[1] else KEPT,
        )
        for i in range(columns)
        for j in range(rows)
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{SOFT}" stroke-width="2"'
        ' marker-end="url(#head)"/>'
    )


def save(name: str, width: int, height: int, title: str, *parts: str) -> None:
    head = (
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{SOFT}"/></marker></defs>'
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="sans-serif">',
        f"<title>{title}</title>",
        head,
        box(0, 0, width, height, "#ffffff", "none"),
        *parts,
        "</svg>",
    ]
    (FOLDER / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def lending() -> None:
    half = (range(4), range(4))
    centre = (range(1, 4), range(1, 4))
    save(
        "lending.svg",
        760,
        300,
        "A smaller network is lent part of each weight of the largest one",
        text(20, 28, "The supernet owns the largest network's weights", 16),
        grid(40, 60, 22, 6, 6, half),
        text(106, 215, "channels: the leading ones", 13, SOFT, "middle"),
        grid(240, 71, 22, 5, 5, centre),
        text(295, 215, "kernel: the centre,", 13, SOFT, "middle"),
        text(295, 232, "then a small matrix", 13, SOFT, "middle"),
        *(box(400, 60 + 33 * i, 120, 26, LENT if i < 2 else KEPT) for i in range(4)),
        text(460, 215, "depth: the first blocks", 13, SOFT, "middle"),
        arrow(545, 125, 600, 125),
        box(620, 60, 110, 132, "#f5f8fc", LENT),
        text(675, 115, "build(arch)", 14, INK, "middle"),
        text(675, 138, "an ordinary", 13, SOFT, "middle"),
        text(675, 155, "network", 13, SOFT, "middle"),
        box(40, 258, 14, 14, LENT),
        text(62, 270, "lent to the sub-network", 13),
        box(240, 258, 14, 14, KEPT),
        text(262, 270, "of the largest network alone", 13),
    )


def shrinking() -> None:
    phases = ("largest alone", "+ kernels", "+ depths", "+ expand ratios")
    sizes = ((1,), (1, 0.9), (1, 0.9, 0.7), (1, 0.9, 0.7, 0.45))
    parts = [text(20, 28, "Progressive shrinking: each phase opens smaller networks", 16)]
    for i, (name, widths) in enumerate(zip(phases, sizes, strict=True)):
        x = 30 + 185 * i
        for k, width in enumerate(widths):
            w = 130 * width
            fill = (LENT, "#6f9be0", "#a6c2ee", KEPT)[k]
            parts.append(box(x, 180 - w, w, w, fill))
        parts.append(text(x, 205, name, 14))
        if i < 3:
            parts.append(arrow(x + 138, 115, x + 176, 115))
    parts += [
        text(30, 240, "Every step trains random networks of what is open;", 13, SOFT),
        text(30, 258, "the trained largest network teaches the smaller ones.", 13, SOFT),
        text(400, 240, "Before channels are opened they are sorted,", 13, SOFT),
        text(400, 258, "so that small networks keep the important ones.", 13, SOFT),
    ]
    save("shrinking.svg", 760, 280, "Progressive shrinking", *parts)


def bell(x: float, y: float, spread: float, height: float, color: str, dash: str = "") -> str:
    s = spread
    path = (
        f"M{x - 3 * s},{y} C{x - s},{y} {x - s},{y - height} {x},{y - height}"
        f" S{x + s},{y} {x + 3 * s},{y}"
    )
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="3"{dashed}/>'


def calibration() -> None:
    save(
        "calibration.svg",
        760,
        290,
        "Calibration: each sub-network measures its own batch-norm statistics",
        text(20, 28, "What a layer of one sub-network gives, and what its batch norm expects", 16),
        text(190, 62, "before calibration", 14, SOFT, "middle"),
        bell(150, 200, 35, 110, LENT),
        bell(255, 200, 20, 120, WARM, "6 4"),
        f'<line x1="40" y1="200" x2="340" y2="200" stroke="{SOFT}"/>',
        text(190, 225, "another network's mean and variance:", 13, SOFT, "middle"),
        text(190, 242, "top-1 near chance", 13, SOFT, "middle"),
        arrow(350, 140, 405, 140),
        text(570, 62, "after", 14, SOFT, "middle"),
        bell(570, 200, 35, 110, LENT),
        bell(570, 200, 33, 116, WARM, "6 4"),
        f'<line x1="420" y1="200" x2="720" y2="200" stroke="{SOFT}"/>',
        text(570, 225, "measured on training images of its own run:", 13, SOFT, "middle"),
        text(570, 242, "no weight changes", 13, SOFT, "middle"),
        box(40, 262, 14, 14, LENT),
        text(62, 274, "activations", 13),
        box(160, 262, 14, 14, WARM),
        text(182, 274, "statistics of the batch norm", 13),
    )


if __name__ == "__main__":
    lending()
    shrinking()
    calibration()
