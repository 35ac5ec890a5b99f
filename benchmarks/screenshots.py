"""Pictures of a run's report for the docs, by Chromium: `docs/report-1400.png` and others.

    python benchmarks/screenshots.py RUN/report.html [CHROMIUM]

The first screen at 1400, 800 and 400 pixels, the wide one also in dark, in 256 colours: a page of
flat tones loses nothing that is seen, and each file stays below 300 KB.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHOTS = (  # name, width, height, theme
    ("report-1400", 1400, 1860, "light"),
    ("report-1400-dark", 1400, 1860, "dark"),
    ("report-800", 800, 1860, "light"),
    ("report-400", 400, 1600, "light"),
)
MOST_BYTES, NO_DITHER = 300_000, Image.Dither.NONE
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking")


def main() -> None:
    page_file = Path(sys.argv[1]).resolve()
    chromium = sys.argv[2] if len(sys.argv) > 2 else shutil.which("chromium")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=list(QUIET))
        for name, width, height, theme in SHOTS:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if theme == "dark" else "light",
            )
            page.goto(page_file.as_uri())
            page.wait_for_timeout(500)  # the charts are drawn
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=NO_DITHER)
            path = DOCS / f"{name}.png"
            picture.save(path, optimize=True)
            size = path.stat().st_size
            print(f"{path.name}: {size:,} bytes")
            if size > MOST_BYTES:
                raise SystemExit(f"{path}: more than {MOST_BYTES:,} bytes")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
