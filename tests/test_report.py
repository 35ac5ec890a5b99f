"""A run as plain data and as one file: what is there, what is missing, and nothing that runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run as command
from report_runs import DEVICE, HOSTILE, log, real_run, recorded_run
from typer.testing import CliRunner

from onceforall.cli import app
from onceforall.costs import arch_cost
from onceforall.errors import InputError
from onceforall.families import get
from onceforall.records import Record, read_jsonl, write_jsonl
from onceforall.report import explorer, gather, profile_delivered, write_explorer
from onceforall.report.networks import command as made_by
from onceforall.report.networks import plain, used
from onceforall.space import Arch


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_run(digits_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return recorded_run(tmp_path / "recorded", 60)


def data_in(page: str) -> dict[str, Any]:
    """What a browser reads from the page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_run_of_the_pipeline_is_gathered(run: Path) -> None:
    assert profile_delivered(run) == 2
    assert profile_delivered(run) == 0
    data = gather(run)
    assert data["notes"] == []
    assert data["run"]["finished"]
    assert data["run"]["metric"] == {"name": "top1", "label": "top-1", "unit": "%"}
    assert data["run"]["data"]["classes"] == [str(digit) for digit in range(10)]
    smallest, fitting = sorted(data["networks"], key=lambda n: n["kind"], reverse=True)
    assert (smallest["kind"], fitting["kind"]) == ("reference", "delivered")
    for network in (smallest, fitting):
        card = json.loads((run / network["id"] / "card.json").read_text())
        assert network["latency_measured_ms"] == pytest.approx(card["latency_measured_ms"], 1e-5)
        assert network["score_predicted"] == pytest.approx(card["top1_predicted"], 1e-5)
        assert sum(layer["macs"] for layer in network["layers"]) == card["macs"]
        assert sum(layer["params"] for layer in network["layers"]) == card["params"]
        assert network["score_interval"] > 0 < network["latency_interval_ms"]
        assert all(layer["ms"] >= 0 for layer in network["profile"]["layers"])
    assert fitting["command"] == f"onceforall specialize {run} --max-latency 100ms"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in steps if "loss" in line]
    assert data["training"]["columns"]["loss"] == pytest.approx(losses)
    assert {end["of"] for end in data["training"]["ends"]} >= {"largest", "smallest"}


def test_the_command_shown_for_a_reference_makes_it(run: Path, tmp_path: Path) -> None:
    (smallest,) = (n for n in gather(run)["networks"] if n["kind"] == "reference")
    program, *words = smallest["command"].replace("network.onnx", str(tmp_path / "x.onnx")).split()
    assert program == "onceforall"
    assert Path(command(*words)["path"]).stat().st_size > 1000


def test_records_are_a_table_of_what_was_measured(recorded: Path) -> None:
    """The table's values are the records' means; the space says what each arch costs."""
    path = recorded / "accuracy.jsonl"
    records = read_jsonl(path)
    again = Record(records[0].arch, "top1", records[0].value + 2, "%")
    write_jsonl(path, [*records[:-10], again], overwrite=True)
    data = gather(recorded)
    columns = {column["name"]: column for column in data["table"]["columns"]}
    assert data["table"]["archs"][0] == str(records[0].arch)
    assert columns["top1"]["values"][0] == pytest.approx(records[0].value + 1, 1e-5)
    assert columns["top1"]["measured"] == "1" * 50 + "0" * 10
    assert columns[DEVICE]["measured"] == "1" * 60
    assert None not in columns["top1"]["values"]  # what was not measured is predicted
    macs = arch_cost(get("mbv3_mini"), records[7].arch).macs
    assert columns["macs"]["values"][7] == pytest.approx(macs / 1e6, 1e-5)
    assert columns["depth"]["values"][7] == sum(records[7].arch.depths)
    assert data["score"]["repeats"] == [pytest.approx([records[0].value, records[0].value + 2])]


def test_held_out_predictions_are_those_of_fits_without_the_record(recorded: Path) -> None:
    """The latency is that of the MACs with a percent of scatter, so predictions that had seen the
    records would be nearer; the error is that of the points shown."""
    found = gather(recorded)["devices"][0]["latency"]
    held = {k: np.array(v) for k, v in found["held_out"].items()}
    assert sorted(held["order"]) == list(range(1, 61))
    error = 100 * np.abs(held["predicted"] / held["measured"] - 1).mean()
    assert error == pytest.approx(found["error"]["mape"], rel=1e-3)
    assert 0.5 < error < 5
    inside = np.abs(held["predicted"] - held["measured"]) <= held["interval"]
    assert inside.mean() == pytest.approx(found["error"]["coverage90"], abs=0.02)
    assert found["spread"]["low"] < found["spread"]["high"]
    delivered = gather(recorded)["networks"][0]
    place = [str(r.arch) for r in read_jsonl(recorded / f"latency-{DEVICE}.jsonl")].index(
        delivered["arch"]
    )
    own = held["interval"][list(held["order"]).index(place + 1)]
    assert delivered["latency_interval_ms"] == pytest.approx(own, rel=1e-4)


def test_proposals_are_a_front_within_the_space(recorded: Path) -> None:
    data = gather(recorded)
    latencies = [n["latency_predicted_ms"] for n in data["proposals"]]
    assert len(latencies) > 3
    assert latencies == sorted(latencies)
    for network in data["proposals"]:
        assert Arch.parse(network["arch"]) in get("mbv3_mini").space
        assert network["limits"]["latency_ms"] >= network["latency_predicted_ms"]
        assert f"--max-latency {network['limits']['latency_ms']:.12g}ms" in network["command"]
    assert len(data["devices"][0]["cloud"]["latency"]) == 4000


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("onnxruntime-cpu", ""),
        ("onnxruntime-cpu-threads2", " --threads 2"),
        ("openvino-cpu-batch8-int8", " --device openvino-cpu --batch 8 --precision int8"),
        ("my board", " --device 'my board'"),
    ],
)
def test_commands_name_the_device_as_it_was_used(tmp_path: Path, device: str, options: str) -> None:
    limits, run, arch = {"latency_ms": 0.05, "macs": 300e6}, tmp_path / "a b", "my_net@24/depth=2"
    asked = f"--max-latency 0.05ms --max-macs 300000000{options}"
    assert made_by(run, device, limits, arch) == (
        f"onceforall specialize my_net --weights WEIGHTS --data IMAGES --out '{run}' {asked}"
    )
    run.mkdir()
    (run / "settings.json").touch()
    assert made_by(run, device, limits, arch) == f"onceforall specialize '{run}' {asked}"
    assert used("openvino-cpu-threads2-int8") == {
        "device": "openvino-cpu",
        "threads": 2,
        "precision": "int8",
    }


def test_an_unfinished_run_shows_what_there_is(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    folder.mkdir()
    shutil.copy(run / "settings.json", folder)
    log(
        folder,
        [
            {"step": 20, "phase": "all", "loss": 2.0, "train_top1": 10.0, "images_per_second": 9},
            {"step": 40, "phase": "all", "loss": float("nan"), "train_top1": float("inf")},
        ],
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')  # cut off by a crash
    data = gather(folder)
    assert data["notes"] == ["The training is not finished: this is what there is so far."]
    assert data["training"]["columns"]["loss"] == [2.0, None]
    assert data["training"]["columns"]["step"] == [20, 40]
    assert (data["networks"], data["proposals"], data["score"]) == ([], [], None)
    assert write_explorer(data, tmp_path / "report.html") < 2_000_000


@pytest.mark.parametrize("n", [1, 4])
def test_records_too_few_for_a_predictor(tmp_path: Path, n: int) -> None:
    folder = recorded_run(tmp_path / "few", n)
    data = gather(folder)
    assert any("No accuracy predictor: top1: " in note for note in data["notes"])
    assert len(data["table"]["archs"]) == n
    assert data["proposals"] == []
    assert data["networks"]
    write_explorer(data, tmp_path / "report.html")


def test_records_of_one_kind_alone(recorded: Path) -> None:
    (recorded / f"latency-{DEVICE}.jsonl").unlink()
    shutil.rmtree(recorded / "specialized")
    data = gather(recorded)
    assert (data["devices"], data["networks"]) == ([], [])
    assert data["score"]["error"]["rmse"] > 0
    assert len(data["table"]["archs"]) == 60


def test_damaged_files_are_named_and_the_rest_is_shown(recorded: Path) -> None:
    with (recorded / "accuracy.jsonl").open("a") as file:
        file.write("not JSON\n")
    broken, foreign, (good, *_) = (
        recorded / "broken" / "card.json",
        recorded / "foreign" / "card.json",
        sorted(recorded.rglob("card.json")),
    )
    for path, text in ((broken, '{"arch": '), (foreign, '{"arch": "mbv3_mini@24"}')):
        path.parent.mkdir()
        path.write_text(text)
    (good.parent / "profile.json").write_text('{"layers": [{"name": 1}]}')
    data = gather(recorded)
    notes = "\n".join(data["notes"])
    assert "accuracy.jsonl line 61: not JSON" in notes
    assert f"{broken}: not JSON" in notes
    assert f"{good.parent / 'profile.json'}: not what" in notes
    assert len(data["networks"]) == 3
    assert data["devices"][0]["latency"]["error"]["mape"] > 0


def test_several_devices_have_their_own_predictors(recorded: Path, tmp_path: Path) -> None:
    other = recorded_run(tmp_path / "other", 40, device="openvino-cpu-int8")
    shutil.copy(other / "latency-openvino-cpu-int8.jsonl", recorded)
    shutil.copytree(other / "specialized", recorded / "specialized", dirs_exist_ok=True)
    data = gather(recorded)
    assert [d["name"] for d in data["devices"]] == [DEVICE, "openvino-cpu-int8"]
    assert all(d["latency"]["held_out"] for d in data["devices"])
    assert {n["device"] for n in data["proposals"]} == {DEVICE, "openvino-cpu-int8"}
    assert len(data["networks"]) == 6


def test_a_family_that_is_not_here_is_said(recorded: Path) -> None:
    for path in (recorded / "accuracy.jsonl", recorded / f"latency-{DEVICE}.jsonl"):
        path.write_text(path.read_text().replace("mbv3_mini@", "gone.py:family@"))
    for path in recorded.rglob("card.json"):
        path.write_text(path.read_text().replace("mbv3_mini@", "gone.py:family@"))
    data = gather(recorded)
    assert any("Of the family only its archs' names are known" in note for note in data["notes"])
    assert len(data["networks"]) == 3
    assert data["table"] is None
    write_explorer(data, recorded / "report.html")


def test_nothing_in_a_run_is_markup(tmp_path: Path) -> None:
    folder = recorded_run(
        tmp_path / "<img src=x onerror=1>", 12, [HOSTILE, "a\u2028b"], name=HOSTILE
    )
    page = explorer.page(gather(folder))
    assert HOSTILE not in page
    assert page.count("</script>") == len(explorer.SCRIPTS) + 1
    assert "\u2028" not in page.partition('id="data">')[2].partition("</script>")[0]
    data = data_in(page)
    assert data["run"]["data"]["classes"] == [HOSTILE, "a\u2028b"]
    assert data["networks"][0]["name"] == HOSTILE
    assert data["run"]["name"] == "<img src=x onerror=1>"


def test_the_page_needs_nothing_else_and_may_fetch_nothing(recorded: Path) -> None:
    page = explorer.page(gather(recorded))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src" not in policy[1]
    assert "'unsafe-inline'" not in policy[1].partition("style-src")[0]  # scripts: by digest only
    assert policy[1].count("'sha256-") == len(explorer.SCRIPTS)
    own = page.replace(explorer._read("echarts.min.js"), "")
    assert not re.findall(r'(?:src|href)="(?!#|data:)', own)
    assert "{{" not in page.partition("<script>")[0]


def test_twenty_thousand_records_fit_into_two_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report keeps all of them; only where a file would be too large it thins them, evenly."""
    data = gather(recorded_run(tmp_path / "many", 60))
    table = data["table"]
    for column in table["columns"]:
        column["values"] = np.random.default_rng(0).normal(50, 9, 20_000).tolist()
        if "measured" in column:
            column["measured"] = "1" * 20_000
    table["archs"], table["total"] = ["mbv3_mini@24/" + "x" * 60] * 20_000, 20_000
    path = tmp_path / "report.html"
    size = write_explorer(data, path)
    assert size == path.stat().st_size <= explorer.MOST_BYTES == 2_000_000
    shown = data_in(path.read_text(encoding="utf-8"))["table"]
    assert shown["archs"] is None
    assert len(shown["columns"][0]["values"]) == 20_000
    assert shown["columns"][0]["values"] == plain(table["columns"][0]["values"], 4)
    monkeypatch.setattr(explorer, "MOST_BYTES", size - 400_000)
    assert write_explorer(data, tmp_path / "smaller.html") <= size - 400_000
    thinned = data_in((tmp_path / "smaller.html").read_text(encoding="utf-8"))["table"]
    assert thinned["columns"][0]["values"] == shown["columns"][0]["values"][::2]
    assert thinned["total"] == 20_000


def test_the_command_writes_anew_what_is_its_own_and_says_where(recorded: Path) -> None:
    found = command("report", recorded)
    path = recorded / "report.html"
    assert found == {"path": str(path), "bytes": path.stat().st_size, "networks": 3}
    path.write_text("of before")
    assert command("report", recorded) == found
    assert path.stat().st_size == found["bytes"]
    there = recorded / "pages" / "other.html"
    assert command("report", recorded, "--out", there)["path"] == str(there)
    there.write_text("somebody's")
    with pytest.raises(InputError, match=r"other\.html: exists already; name another path"):
        command("report", recorded, "--out", there)
    assert there.read_text() == "somebody's"
    assert "onceforall report runs/mine" in CliRunner().invoke(app, ["report", "--help"]).stdout


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "no such run"), (tmp_path, "holds no run: no settings")):
        with pytest.raises(InputError, match=why):
            command("report", path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none_become_null() -> None:
    value = {"a": [float("nan"), -float("inf"), 1.23456789, -2.0, 1e-9], "b": (None, True, "x")}
    assert plain(value) == {"a": [None, None, 1.23457, -2, 1e-9], "b": [None, True, "x"]}
    assert json.dumps(plain(value), allow_nan=False)
