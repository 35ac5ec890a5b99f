"""The docs: what they say to run runs, what they name exists, what they link to is there, and their
tables are those of the files that commands wrote.

Blocks of the pages of HOW_TO run as written, in one new folder a page. A comment in the line before
a fence says otherwise: `<!-- test: long -->` (only with `-m long`), `needs WHAT` (where there is
such a command or data set), `skip, WHY`, `file NAME` (written to that file, not run).
"""

import contextlib
import gzip
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest.mock import patch
from urllib.parse import unquote

import figures
import numpy as np
import pytest
import torch
from PIL import Image

from onceforall.cli import app
from onceforall.supernet import scoring

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HOW_TO = (
    "ten-minutes.md",
    "photos.md",
    "your-device.md",
    "published-supernet.md",
    "any-network.md",
    "how-it-works.md",
    "coming-from.md",
)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
OTHERS = {"--max-restarts", "--nnodes", "--nproc-per-node"}  # of torchrun
FENCE = re.compile(
    r"(?:^<!-- test:? ?(?P<how>[^>]*?) ?-->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.M | re.S,
)


def script(name: str) -> ModuleType:
    """A file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


elsewhere, reference, tables = map(script, ("elsewhere", "reference", "tables"))


@dataclass(frozen=True)
class Block:
    """A fenced example."""

    page: str
    line: int
    language: str
    text: str
    how: str  # what the comment before it says

    @property
    def long(self) -> bool:
        return self.how.startswith("long")

    @property
    def needs(self) -> str:
        return self.how.partition("needs ")[2].strip()

    @property
    def runs(self) -> bool:
        return self.language in ("bash", "python") and not self.how.startswith(("skip", "file"))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        how = found["how"] or ""
        yield Block(page.name, line, found["language"], found["text"], how)


# What is run


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page's examples run: with `onceforall` on the path, a folder of images and, where
    they are here, a few of ImageNet's."""
    # some run in this process, others do not: their records are to agree
    monkeypatch.setattr(scoring, "CALIBRATION_IMAGES", 2000)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, line in (("onceforall", " -m onceforall"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable}{line} "$@"\n')
        program.chmod(0o755)
    there = tmp_path / "there"
    there.mkdir()
    (there / "time_onnx.py").write_bytes((DOCS / "examples" / "time_onnx.py").read_bytes())
    return there


PLAIN = re.compile(r"(onceforall [^$*|;&<>`\\]*\n)+")  # nothing that a shell would change


def run(block: Block, folder: Path) -> None:
    """Plain commands in this process, which saves their start; all else as its reader would."""
    programs = folder.parent / "programs"
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if block.language == "bash" and PLAIN.fullmatch(block.text):
        for line in block.text.splitlines():
            with contextlib.chdir(folder), patch.dict(os.environ, environment):
                app(shlex.split(line, comments=True)[1:], standalone_mode=False)
        return
    if block.language == "python":
        (folder / "example.py").write_text(block.text, encoding="utf-8")
        command = [sys.executable, "example.py"]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    where = f"docs/{block.page}:{block.line}"
    assert done.returncode == 0, f"{where}\n{block.text}\n{done.stdout}\n{done.stderr}"


def put_images(folder: Path, each: int = 300) -> None:
    """`images/<class>/<number>.png`: small photos, of Fashion-MNIST."""
    source = Path("/usr/share/datasets/fashion-mnist")
    if not source.is_dir():
        pytest.skip(f"no Fashion-MNIST in {source} to make a folder of images of")
    pixels, labels = (
        np.frombuffer(gzip.decompress((source / name).read_bytes()), np.uint8, offset=offset)
        for name, offset in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8))
    )
    for label in range(10):
        (folder / "images" / f"class{label}").mkdir(parents=True)
        for number, picture in enumerate(pixels.reshape(-1, 28, 28)[labels == label][:each]):
            Image.fromarray(picture).save(folder / "images" / f"class{label}" / f"{number}.png")


def has(what: str, folder: Path) -> bool:
    """Whether there is such a command, or such a folder of images."""
    return what in reference.named_commands() or (folder / what).exists()


def perform(page: str, folder: Path, long: bool) -> int:
    """Runs the blocks of a page; how many."""
    count = 0
    for block in blocks(DOCS / page):
        if block.how.startswith("file "):
            (folder / block.how.removeprefix("file ")).write_text(block.text, encoding="utf-8")
        if not block.runs or (block.long and not long):
            continue
        if block.needs and not has(block.needs, folder):
            continue
        run(block, folder)
        count += 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO)
def test_examples_run(page: str, folder: Path) -> None:
    if not perform(page, folder, long=False):
        pytest.skip("all that this page runs takes minutes: -m long")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", HOW_TO)
def test_examples_run_to_the_end(page: str, folder: Path) -> None:
    if not any(block.long for block in blocks(DOCS / page)):
        pytest.skip("nothing on this page takes minutes")
    if page == "photos.md":
        put_images(folder)
    samples = Path(os.environ.get("ONCEFORALL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if (samples / "imagenet_samples").is_dir():
        (folder / "imagenet").symlink_to(samples / "imagenet_samples")
    assert perform(page, folder, long=True)


def test_readme_has_what_is_run_elsewhere() -> None:
    """Its lines of Python and its commands are those of the first page, or of the Makefile."""
    page = (DOCS / "ten-minutes.md").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for block in blocks(ROOT / "README.md"):
        for line in block.text.splitlines():
            line = line.split("#")[0].strip()
            made = line.removeprefix("make ")
            assert line in page or (made != line and made in targets), line


# What is named


def commands_of(text: str) -> Iterator[str]:
    """Every `onceforall ...` in fences and in code within lines; lines that go on are joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for code in [f["text"] for f in FENCE.finditer(joined)] + re.findall(r"`([^`\n]+)`", joined):
        for line in code.splitlines():
            found = re.search(r"(?:^|[;(] ?|-m )onceforall ([a-z].*)", line)
            if found:
                yield from (f"{part}" for part in re.split(r" ; onceforall ", found[1]))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_exist(page: Path) -> None:
    known = reference.named_commands()
    every = OTHERS.union(*(reference.options(command) for command in known.values()))
    for path in (ROOT / "benchmarks").glob("*.py"):  # which pages name by their options, too
        every |= set(re.findall(r'"(--[a-z-]+)"', path.read_text(encoding="utf-8")))
    text = page.read_text(encoding="utf-8")
    for line in commands_of(text):
        words = line.split("#")[0].split()
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
        if name is None:
            groups = {n.split()[0] for n in known if " " in n}
            assert words[0] in groups, f"{page.name}: onceforall {line}"
            continue
        named = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
        wrong = named - reference.options(known[name])
        assert not wrong, f"{page.name}: onceforall {line}: {wrong}"
    for option in re.findall(r"`(--[a-z][a-z-]+)[^`]*`", text):
        assert option in every, f"{page.name}: {option}"


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as the site and GitHub make them."""
    without = FENCE.sub("", text)
    heads = re.findall(r"^#+ (.*)$", without, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    generated = {(DOCS / "reference" / name).resolve() for name in reference.pages()}
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        if target in generated and not anchor:
            continue
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    named = re.findall(r"'([\w/-]+\.md)'", str(nav))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.glob("*.md")}
    assert sorted(named) == sorted(written | {f"reference/{name}" for name in reference.pages()})


# What is made from the code, and from files that commands wrote


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tables_are_those_of_the_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == len(tables.PLACE.findall(text))
    assert tables.rendered(text) == text


def test_every_table_of_a_file_is_on_a_page() -> None:
    places = [p for page in PAGES for p in tables.PLACE.findall(page.read_text(encoding="utf-8"))]
    assert set(tables.tables()) == {name for _, name, _ in places}


def test_a_table_is_rendered_from_its_rows(tmp_path: Path) -> None:
    """By hand: values rounded as its columns say, nothing where a row lacks one, a note below."""
    rows = [{"name": "a", "macs": 1234, "top1": 70.128}, {"name": "b", "macs": 5, "top1": None}]
    columns = {"network": "{name}", "MACs": "{macs:,}", "top-1, %": "{top1:.2f}"}
    found = {
        "made": {"command": "python x.py", "versions": {"torch": "2.0"}, "processor": "EPYC"},
        "tables": {"x": {"columns": columns, "rows": rows, "note": "Of two."}},
    }
    (tmp_path / "file.json").write_text(json.dumps(found))
    with patch.object(tables, "FIGURES", tmp_path):
        page = "<!-- table: x -->\nold\n<!-- end of table -->\n"
        page += "<!-- table: file made -->\nold\n<!-- end of table -->\n"
        table, how = re.findall(r"<!-- table: [^\n]*\n(.*?)\n<!-- end", tables.rendered(page), re.S)
    assert table.splitlines() == [
        "| network | MACs | top-1, % |",
        "| --- | --- | --- |",
        "| a | 1,234 | 70.13 |",
        "| b | 5 |  |",
        "",
        "Of two.",
    ]
    assert how == "`python x.py` (torch 2.0; EPYC)"


@pytest.mark.parametrize("path", sorted((DOCS / "figures").glob("*.json")), ids=lambda p: p.name)
def test_files_of_figures_have_no_paths_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"""["' =](?:/[^"' ]|\.\./)[^"' ]*""", text)


def test_what_made_figures_is_said_without_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/a/b/costs.py", "/data/run", "--out", "x.json", "--draws", "2", "../shared/data"]
    monkeypatch.setattr(sys, "argv", words)
    assert figures.made()["command"] == "python benchmarks/costs.py run --draws 2 DATA"
    assert figures.made()["versions"]["torch"] == torch.__version__.partition("+")[0]


LOADING = (
    '<script src="https://x.org/a.js"></script>',
    '<link rel="stylesheet" href="//x.org/a.css">',
    '<link rel="preconnect" href="https://x.org/">',
    '<img src="HTTP://x.org/a.png">',
    '<img srcset="a.png 1x, https://x.org/a.png 2x">',
    '<svg><image xlink:href="https://x.org/a.png"/></svg>',
    "<style>@import 'https://x.org/a.css';</style>",
    '<p style="background: url(https://x.org/a.png)">',
    '<iframe src="https://x.org"></iframe>',
)
NOT_LOADING = (
    '<a href="https://x.org/a.js">https://x.org</a>',
    '<link rel="canonical" href="https://x.org/">',
    '<script src="assets/a.js"></script><script>"https://x.org/a.js"</script>',
    '<img src="../a.png">',
    '<img src="data:image/png;base64,//bb">',
    "<code>url(https://x.org/a.png)</code>",
    "<style>p { color: red }</style>url(https://x.org/a.png)",
)


@pytest.mark.parametrize("line", LOADING)
def test_what_a_page_loads_from_other_hosts_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<html><body>{line}</body></html>")
    (fault,) = elsewhere.faults(tmp_path)
    assert fault.lower().startswith(f"{tmp_path}/page.html: loads ".lower())
    assert "//x.org" in fault


def test_content_that_the_theme_loads_code_for_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<pre class="mermaid"><code>graph LR</code></pre>')
    assert [f.rpartition(": ")[2] for f in elsewhere.faults(tmp_path)] == ["loads code for mermaid"]


def test_a_style_that_loads_a_font_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("@font-face { src: url('https://x.org/a.woff2'), url(b.ttf) }")
    assert len(list(elsewhere.faults(tmp_path))) == 1


@pytest.mark.parametrize("line", NOT_LOADING)
def test_links_load_nothing(line: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<html><body>{line}</body></html>")
    assert not list(elsewhere.faults(tmp_path))


def test_every_setting_says_what_it_is() -> None:
    for kind in reference.SETTINGS.values():
        for field, remark in reference.remarks(kind).items():
            assert len(remark) > 5, f"{kind.__name__}.{field} has no comment under it"


def test_the_reference_has_every_command_and_name() -> None:
    pages = reference.pages()
    for name in reference.named_commands():
        assert f"## `onceforall {name}`" in pages["commands.md"]
    import onceforall

    for name in set(onceforall.__all__) - {"__version__", "families", "search"}:
        assert f"### `{name}`" in pages["python.md"]
