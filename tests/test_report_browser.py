"""The report in a real browser: Chromium without a window, driven by Playwright."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, card, log, recorded_run

from onceforall.files import write_json
from onceforall.report import gather, write_explorer

playwright = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium is installed")
QUIET = (  # no connections of Chromium's own
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LINES = [
    {"step": 10, "phase": "largest", "loss": 2.0, "train_top1": 30.0, "images_per_second": 900.0},
    {"step": 20, "phase": "all", "loss": float("nan"), "train_top1": 60.0},
    {"step": 20, "phase": "all", "ended": True, "top1_largest": 61.0, "top1_smallest": 55.0},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=FOUND, args=list(QUIET))
        yield opened
        opened.close()


class Opened:
    """A page, and what it complained of or asked for while it was used."""

    def __init__(self, browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> None:
        viewport = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=viewport, color_scheme=scheme, accept_downloads=True)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.address = path.as_uri()

    def check_quiet(self) -> None:
        assert self.errors == []
        assert [url for url in self.requests if not url.startswith(("data:", "blob:"))] == [
            self.address
        ]

    def painted(self, chart: str) -> int:
        """How many colours a chart's canvas has."""
        return self.page.evaluate(
            """(id) => {
              const canvas = document.querySelector(`#${id} canvas`);
              const {width, height} = canvas;
              const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
              return new Set(new Uint32Array(data.buffer)).size;
            }""",
            chart,
        )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = recorded_run(tmp_path_factory.mktemp("runs") / "pets", 60)
    log(folder, LINES)
    write_explorer(gather(folder), folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Opened]]:
    pages: list[Opened] = []

    def open_one(path: Path = report, **given: Any) -> Opened:
        pages.append(Opened(browser, path, **given))
        return pages[-1]

    yield open_one
    for one in pages:
        one.page.close()


def test_all_of_it_is_drawn(opened: Callable[..., Opened]) -> None:
    found = opened()
    page = found.page
    assert page.title() == "pets: onceforall report"
    for chart in ("front-chart", "records-chart"):
        assert found.painted(chart) > 10
    assert page.locator("#trust-body canvas").count() == 3
    assert page.locator("#training-body canvas").count() == 3
    assert "1 reading of the loss is no number" in page.inner_text("#training-say")
    assert page.locator("#networks-table tbody tr").count() == 3
    assert page.locator("#proposals-table tbody tr").count() > 3
    assert "60 of 60 networks" in page.inner_text("#records-count")
    assert page.inner_text("#classes") == "Classes: cat, dog."
    found.check_quiet()


def test_the_slider_moves_the_pick_by_keyboard(opened: Callable[..., Opened], report: Path) -> None:
    """At the far left nothing is within the budget but the fastest; at the far right it is the best
    on validation images of all."""
    found = opened()
    page, data = found.page, gather(report.parent)
    networks = sorted(data["networks"], key=lambda n: n["latency_measured_ms"])
    best = max(networks, key=lambda n: n["score_validation"])
    slider = page.locator("#budget")
    slider.focus()
    picks = []
    for key in ("Home", "End"):
        page.keyboard.press(key)
        picks.append(page.inner_text("#pick-say code"))
        assert page.inner_text("#command pre") == next(
            n["command"] for n in networks if n["arch"] == picks[-1]
        )
    assert picks == [networks[0]["arch"], best["arch"]]
    before = page.inner_text("#budget-text")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#budget-text") != before
    assert "ms" in slider.get_attribute("aria-valuetext")
    shares = page.locator("#layers .bar").count()
    assert shares > 5
    assert page.locator("#picture .strip.own .block:not(.absent)").count() > 2
    page.get_by_label("Proposed, predicted").check(force=True)
    slider.focus()
    page.keyboard.press("End")
    assert "not yet measured" in page.inner_text("#pick-say")
    assert page.inner_text("#pick-say code") in {n["arch"] for n in data["proposals"]}
    found.check_quiet()


def test_a_row_of_the_table_picks_it(opened: Callable[..., Opened]) -> None:
    found = opened()
    found.page.locator("#proposals summary").press("Enter")
    rows = found.page.locator("#networks tbody tr")
    for n in (0, 2, rows.count() - 1):
        rows.nth(n).locator("button").press("Enter")
        assert "own" in rows.nth(n).get_attribute("class")
        assert found.page.locator("#networks tr.own").count() == 1
    found.check_quiet()


def test_hostile_names_are_shown_and_do_not_run(
    opened: Callable[..., Opened], tmp_path: Path
) -> None:
    folder = recorded_run(tmp_path / "<img src=x onerror=alert(1)>", 30, [HOSTILE], name=HOSTILE)
    hostile = card(HOSTILE, "mbv3_mini@24/16:3x2/24:3x2/40:3x2", 0.3, 70.0)
    hostile |= {"device": HOSTILE, "runtime": HOSTILE, "limits": {HOSTILE: 1}, "file": HOSTILE}
    write_json(folder / "other" / "card.json", hostile)
    profile = {"device": HOSTILE, "layers": [{"name": HOSTILE, "kind": HOSTILE, "ms": 1.0}]}
    write_json(folder / "other" / "profile.json", profile)
    log(folder, [{**line, "phase": HOSTILE} for line in LINES])
    with (folder / "accuracy.jsonl").open("a") as file:
        file.write(HOSTILE + "\n")  # comes back in a note
    write_explorer(gather(folder), tmp_path / "report.html")
    found = opened(tmp_path / "report.html")
    page = found.page
    page.get_by_label("Device").select_option(HOSTILE)
    page.locator("summary").first.click()
    assert page.inner_text("h1") == "<img src=x onerror=alert(1)>"
    assert HOSTILE in page.inner_text("#classes")
    assert page.inner_text("#pick-title") == f"The pick for {HOSTILE}"
    assert HOSTILE in page.inner_text("#layers")
    box = page.locator("#front-chart").bounding_box()
    for i in range(40):  # over points, whose tips say names
        page.mouse.move(box["x"] + 60 + 30 * i, box["y"] + 40 + 8 * i)
    assert page.locator("img").count() == 0
    assert page.title().startswith("<img")
    found.check_quiet()


def test_the_policy_stops_what_would_be_let_in(opened: Callable[..., Opened]) -> None:
    """The second lock: markup that did get in would not run, and could fetch nothing."""
    page = opened().page
    page.evaluate(
        """document.body.insertAdjacentHTML("beforeend",
             "<img src=x onerror=\\"document.title='run'\\">")"""
    )
    refused = page.evaluate("fetch('https://example.org').then(() => false, () => true)")
    assert refused
    assert page.title() == "pets: onceforall report"


@pytest.mark.parametrize("width", [1400, 800, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_in_both_themes(
    opened: Callable[..., Opened], width: int, scheme: str
) -> None:
    found = opened(width=width, scheme=scheme)
    page = found.page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = page.evaluate(
        """["color", "backgroundColor"].map((name) =>
             getComputedStyle(document.documentElement)[name].match(/\\d+/g).map(Number)
               .reduce((a, b) => a + b))"""
    )
    assert (ink < paper) is (scheme == "light")
    found.check_quiet()


def test_a_theme_that_changes_is_followed(opened: Callable[..., Opened]) -> None:
    found = opened()
    drawn = "document.querySelector('#front-chart canvas').toDataURL()"
    light = found.page.evaluate(drawn)
    found.page.emulate_media(color_scheme="dark")
    found.page.wait_for_function(f"(light) => {drawn} !== light", arg=light)
    found.page.emulate_media(media="print")
    assert found.page.pdf()[:4] == b"%PDF"
    found.check_quiet()


def test_ranges_of_axes_are_typed_or_drawn(opened: Callable[..., Opened], report: Path) -> None:
    """Counted by hand from the records that the report is of."""
    found = opened()
    page = found.page
    columns = gather(report.parent)["table"]["columns"]
    middle = sorted(columns[0]["values"])[20]
    page.get_by_label("Axis").select_option("0")
    page.get_by_label("least value").fill(str(middle))
    page.get_by_label("least value").press("Tab")
    page.wait_for_function("document.querySelector('#records-count').innerText.startsWith('40 of')")
    page.get_by_role("button", name="Clear").click()
    assert page.inner_text("#records-count").startswith("60 of 60")
    chart = page.locator("#records-chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 60)  # along the first axis: the better half
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + 120, steps=4)
    page.mouse.move(box["x"] + 50, box["y"] + 200, steps=4)
    page.mouse.up()
    page.wait_for_function(
        "!document.querySelector('#records-count').innerText.startsWith('60 of')"
    )
    assert "within top-1" in page.inner_text("#records-count")
    found.check_quiet()


def test_what_is_shown_can_be_taken_away(opened: Callable[..., Opened], report: Path) -> None:
    found = opened()
    page, data = found.page, gather(report.parent)

    def taken(name: str) -> str:
        with page.expect_download() as waiting:
            page.get_by_role("button", name=name).click()
        return Path(waiting.value.path()).read_text(encoding="utf-8")

    assert json.loads(taken("Everything as JSON")) == json.loads(json.dumps(data))
    networks = taken("Networks as CSV").splitlines()
    assert networks[0].startswith("name,kind,device,precision,arch,params")
    assert len(networks) == 1 + len(data["networks"]) + len(data["proposals"])
    records = taken("Selected records as CSV").splitlines()
    assert len(records) == 61
    assert records[1].startswith(f'"{data["table"]["archs"][0]}"')
    page.locator("summary").first.click()
    shown = json.loads(taken("Card as JSON"))
    assert shown["arch"] == page.inner_text("#pick-say code")
    found.check_quiet()


@pytest.mark.slow
@pytest.mark.long
def test_many_records_are_all_there(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """As many as a search could ever label; how fluid that is, `benchmarks/report.py` measures."""
    folder = recorded_run(tmp_path / "many", 20_000)
    assert write_explorer(gather(folder), folder / "report.html") <= 2_000_000
    found = opened(folder / "report.html")
    page = found.page
    assert "20,000 of 20,000 networks" in page.inner_text("#records-count")
    page.get_by_label("Axis").select_option("0")
    page.get_by_label("most value").fill("79")
    page.get_by_label("most value").press("Tab")
    count = "document.querySelector('#records-count').innerText"
    page.wait_for_function(f"/^[1-9]/.test({count}) && !{count}.startsWith('20,000 of')")
    found.check_quiet()


def test_a_run_of_almost_nothing(opened: Callable[..., Opened], tmp_path: Path) -> None:
    folder = recorded_run(tmp_path / "one", 1)
    found = opened(_written(folder))
    assert "No accuracy predictor" in found.page.inner_text("#notes")
    found.check_quiet()
    empty = tmp_path / "begun"
    empty.mkdir()
    (empty / "settings.json").write_text("{}")
    found = opened(_written(empty))
    assert "nothing to choose from yet" in found.page.inner_text("#front-say")
    found.check_quiet()


def _written(folder: Path) -> Path:
    write_explorer(gather(folder), folder / "report.html")
    return folder / "report.html"
