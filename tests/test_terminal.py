"""What is printed fits the terminal: tables by themselves, and those of the commands."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from typer.testing import CliRunner

from onceforall.cli import app, estimating, profiling
from onceforall.cli.common import command, emit
from onceforall.columns import LEAST, Column, table, terminal_width
from onceforall.report.terminal import network_table, network_tables
from onceforall.supernet import TOP1
from onceforall.training.estimate import Plan, Point, Stretch

COLUMNS = [
    Column("name"),
    Column("kind", drop=2, left=True),
    Column("size\nMB", drop=1),
    Column("time\nms"),
]
ROWS = [["small", "conv", "1.5", "0.25"], ["larger", "norm", "12.5", "10.00"]]


@pytest.fixture(params=[80, 100])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def printed(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_numbers_stand_right_under_heads_with_units() -> None:
    assert table(COLUMNS, ROWS, width=80).splitlines() == [
        "              size   time",
        "name    kind    MB     ms",
        "small   conv   1.5   0.25",
        "larger  norm  12.5  10.00",
    ]


def test_what_is_left_out_goes_in_order_and_is_named() -> None:
    whole = 6 + 2 + 4 + 2 + 4 + 2 + 5
    assert "also" not in table(COLUMNS, ROWS, width=whole)
    first = table(COLUMNS, ROWS, width=whole - 1).splitlines()
    assert first[1] == "name    kind     ms"
    assert first[-1] == "also: size MB (--json)"
    both = table(COLUMNS, ROWS, "--json, or demo.json", width=15).splitlines()
    assert both[2] == "small    0.25"
    assert both[-1] == "also: kind, size MB (--json, or demo.json)"


def test_long_texts_go_below() -> None:
    columns = [Column("#"), "score", Column("file", below=True), Column("arch", below=True)]
    rows = [["1", "9.5", "a" * 20, "b" * 20], ["2", "8.0", "c" * 20, "d" * 30]]
    wide = table(columns, rows, width=80).splitlines()
    assert len(wide) == 3
    assert wide[1].startswith("1    9.5")
    one = table(columns, rows, width=60).splitlines()
    assert one[3:] == ["", f"1  {'a' * 20}  {'b' * 20}", f"2  {'c' * 20}  {'d' * 30}"]
    each = table(columns, rows, width=40).splitlines()
    assert each[4:] == [f"1  {'a' * 20}", f"   {'b' * 20}", f"2  {'c' * 20}", f"   {'d' * 30}"]


@given(
    st.lists(st.lists(st.text("ab→字 ", max_size=30), min_size=4, max_size=4), max_size=5),
    st.integers(60, 140),
)
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], columns: int) -> None:
    """Where what must stay can be made to fit: numbers are never cut."""
    for row in rows:
        row[3] = row[3][:LEAST]
    for line in table(COLUMNS, rows, width=columns).splitlines():
        assert cell_len(line) <= columns
    assert len(table(COLUMNS, rows, width=1000).split("\n")) == 2 + len(rows)


def test_no_terminal_has_a_hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert terminal_width() == 100
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal_width() == 72


@pytest.mark.parametrize(
    "arguments",
    [["zoo"], ["info", "mbv3_mini:largest"], ["info", "ofa_mbv3_w1.0:largest"]],
    ids=" ".join,
)
def test_tables_of_commands_fit(arguments: list[str], width: int) -> None:
    lines = printed(*arguments)
    body = lines[: lines.index("")] if "" in lines else lines
    assert len(body) > 3
    assert max(map(cell_len, body)) <= width


def test_devices_fit(width: int) -> None:
    lines = printed("devices")
    rows = len(json.loads("".join(printed("devices", "--json")))["devices"])
    assert max(map(cell_len, lines[: rows + 1])) <= width


def card(name: str, device: str = "onnxruntime-cpu", **others: Any) -> dict[str, Any]:
    """What is printed of a card, of a large network with long names."""
    return {
        "name": name,
        "params": 7_664_920,
        "macs": 566_123_456,
        "top1_predicted": 75.123,
        "top1_validation": 75.5,
        "top1_test": 74.25,
        "latency_predicted_ms": 20.51,
        "latency_measured_ms": 20.123,
        "folder": "runs/of-a-long-name/specialized/onnxruntime-cpu-threads2-int8/20ms",
        "file": "network.onnx",
        "arch": "ofa_mbv3_w1.0@224/" + "/".join(["24:7x6,7x6,7x6,7x6"] * 5),
        "uncovered": [],
        "device": device,
    } | others


def test_networks_fit(width: int) -> None:
    rows = [card("20ms"), card("20ms-300M-macs-5M-params", uncovered=["fft"])]
    lines = network_table(rows, TOP1).splitlines()
    body = lines[: lines.index("")]
    assert max(map(cell_len, body)) <= width
    assert [line.split()[-1] for line in body[2:]] == ["20.1230", "20.1230"]
    below = "\n".join(lines[lines.index("") :])
    for row in rows:  # whole, to be copied
        assert f"{row['folder']}/network.onnx" in below
        assert row["arch"].partition("@")[2] in below


def test_devices_have_tables_of_their_own_and_the_beaten_are_named() -> None:
    rows = [card("20ms", picked=True), card("20ms", "onnxruntime-cpu-int8", picked=False)]
    text = network_tables(rows, TOP1)
    assert text.startswith("onnxruntime-cpu\n")
    assert "\n\nonnxruntime-cpu-int8\n" in text
    assert text.endswith(f"better in another precision: {rows[1]['folder']}/network.onnx")


def test_where_the_time_goes_fits(width: int) -> None:
    layers = [
        {"name": "/blocks/blocks.0/" * n + "conv/Conv", "kind": "FusedConvActivation", "ms": 0.01}
        for n in (1, 9)
    ]
    text = profiling.shown({"layers": layers, "total_ms": 0.02, "device": "onnxruntime-cpu"})
    assert max(map(cell_len, text.splitlines())) <= width
    assert "50.0" in text


def test_estimates_fit(width: int) -> None:
    few, many = Point(4, 0.2255, 0.1, 1e9), Point(16, 1.014, 0.6488, 1e9)
    stretch = Stretch("expand-2", lambda _: 115_730, 1, few, many, 3.07e7, lambda _: 9, 0.0815)
    text = estimating._phases([stretch], 64)
    assert max(map(cell_len, text.splitlines())) <= width
    plan = Plan(512, 4, 381_596, 2.303e4, 9e10, 0.01, 0.02, 3699.0, 57_580.35)
    text = estimating._plans([plan])
    assert max(map(cell_len, text.splitlines())) <= width
    assert "57,580.35" in text


def test_what_comes_next_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    then = command("fit", "accuracy", Path("my runs/accuracy.jsonl"), "--max-latency", "...")
    assert then == "onceforall fit accuracy 'my runs/accuracy.jsonl' --max-latency ..."
    emit({"n": 12_345}, False, then=then)
    assert capsys.readouterr().out == f"n  12,345\nnext: {then}\n"
    emit({"n": 1}, False, "one", then)
    assert capsys.readouterr().out == f"one\nnext: {then}\n"
    emit({"n": 1}, True, "one", then)
    assert capsys.readouterr().out == '{"n": 1}\n'
