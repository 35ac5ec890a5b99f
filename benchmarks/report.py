"""How fluid the report is with 20,000 records, and how large: in Chromium, by Playwright.

    python benchmarks/report.py [CHROMIUM]

Each interaction is done 20 times; a time is that from the event to the end of the next frame, ms.
A frame lasts 16.7 ms where nothing holds it up.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from onceforall import families
from onceforall.costs import cost_tables
from onceforall.files import write_json
from onceforall.records import Record, write_jsonl
from onceforall.report import gather, write_explorer

RECORDS = 20_000
TIMES = 20
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking")
INTERACTIONS = {
    "move the budget": "at('budget').value = 50 * i;"
    " at('budget').dispatchEvent(new Event('input'))",
    "zoom the front": "frontChart.chart.dispatchAction("
    "{type: 'dataZoom', dataZoomIndex: 0, start: i, end: 100 - i})",
    "draw the front": "frontChart.draw()",
    "keep a range of an axis": "parallelChart.chart.dispatchAction({type: 'axisAreaSelect',"
    " parallelAxisId: 'axis1', intervals: [[0.3, 0.5 + i / 20]]})",
}
FRAMES = """() => {
  window.frames_ = [];
  let last = performance.now();
  (function next() {
    const now = performance.now();
    frames_.push(now - last);
    last = now;
    requestAnimationFrame(next);
  })();
}"""


def large_run(folder: Path) -> None:
    """Records of both metrics by a formula, with scatter, and one network delivered."""
    family = families.get("mbv3_mini")
    rng = np.random.default_rng(0)
    population = np.unique(family.space.sample(rng, 2 * RECORDS), axis=0)
    population = population[rng.permutation(len(population))[:RECORDS]]
    macs = cost_tables(family)["macs"](population) / 1e6
    latency = macs * np.exp(rng.normal(0, 0.02, RECORDS))
    score = 80 + 5 * np.log10(macs) + rng.normal(0, 0.1, RECORDS)
    archs = family.space.decode(population)
    device = "onnxruntime-cpu"
    for name, metric, unit, values, of in (
        ("accuracy", "top1", "%", score, ""),
        (f"latency-{device}", "latency_ms", "ms", latency, device),
    ):
        records = [
            Record(arch, metric, float(value), unit, of)
            for arch, value in zip(archs, values, strict=True)
        ]
        write_jsonl(folder / f"{name}.jsonl", records)
    card = {"name": "1ms", "arch": str(archs[0]), "device": device, "params": 1, "macs": 1}
    card |= {"limits": {"latency_ms": 1.0}, "latency_measured_ms": float(latency[0])}
    write_json(folder / "card.json", card | {"top1_validation": float(score[0])})


def timed(page: Page, action: str) -> list[float]:
    """Milliseconds of each time, ascending."""
    found: list[float] = page.evaluate(
        "async () => { const times = [];"
        f" for (let i = 0; i < {TIMES}; i++) {{ const start = performance.now(); {action};"
        " await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));"
        " times.push(performance.now() - start); } return times.sort((a, b) => a - b); }"
    )
    return found


def dragged(page: Page) -> list[float]:
    """Milliseconds of each frame while a range is drawn along an axis, ascending."""
    chart = page.locator("#records-chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.evaluate(FRAMES)
    page.mouse.move(box["x"] + 50, box["y"] + 70)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(box["x"] + 50, box["y"] + 70 + 3 * step)
        page.wait_for_timeout(16)
    found: list[float] = page.evaluate("frames_.slice(3).sort((a, b) => a - b)")
    page.mouse.up()
    return found


def main() -> None:
    chromium = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    result: dict[str, Any] = {"records": RECORDS}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        large_run(Path(folder))
        start = time.monotonic()
        data = gather(Path(folder))
        result["seconds to gather"] = round(time.monotonic() - start, 1)
        path = Path(folder) / "report.html"
        result["bytes"] = write_explorer(data, path)
        browser = started.chromium.launch(executable_path=chromium, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(path.as_uri())
        result["ms to load"] = round(
            page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        )
        page.wait_for_timeout(2000)  # all lines are drawn
        for name, action in INTERACTIONS.items():
            times = timed(page, action)
            result[name] = {
                "median_ms": round(times[TIMES // 2], 1),
                "most_ms": round(times[-1], 1),
            }
        frames = dragged(page)
        result["frames while drawing along an axis"] = {
            "median_ms": round(frames[len(frames) // 2], 1),
            "p95_ms": round(frames[int(0.95 * len(frames))], 1),
        }
        result["chromium"] = browser.version
        browser.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
