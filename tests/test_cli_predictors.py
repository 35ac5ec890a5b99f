"""The commands fit and predict, from records to predictions."""

import csv
from pathlib import Path

import numpy as np
import pytest
from commands import run

from onceforall import families, records
from onceforall.errors import InputError
from onceforall.records import Record

MINI = families.get("mbv3_mini").space
POPULATION = MINI.sample(np.random.default_rng(0), 60)
BLOCKS = sum(MINI.values(f"stage{s}.depth", POPULATION) for s in (1, 2, 3)).astype(float)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records.csv"
    rng = np.random.default_rng(1)
    shard = rng.integers(0, 3, 60)
    columns = {
        "top1": 60 + BLOCKS + shard + rng.normal(0, 0.1, 60),
        "shard": shard,
        "latency_ms": BLOCKS * np.exp(rng.normal(0, 0.02, 60)),
        "other_ms": 3 * BLOCKS,
    }
    records.write_csv(path, MINI, POPULATION, columns)
    return path


def test_fit_and_predict_accuracy(tmp_path: Path, file: Path) -> None:
    model, out = tmp_path / "a.npz", tmp_path / "out.csv"
    found = run("fit", "accuracy", file, "--space", "mbv3_mini", "--out", model)
    assert {"rmse", "mape", "kendall_tau", "n_train", "n_test"} <= set(found)
    assert found["covariates"] == ["shard"]
    assert found["rmse"] < 0.5
    assert run("predict", model, file, "--out", out)["n"] == 60
    with out.open() as opened:
        rows = list(csv.DictReader(opened))
    with file.open() as opened:
        given = list(csv.DictReader(opened))
    assert [{k: r[k] for k in given[0]} for r in rows] == given  # as they were written
    error = [float(r["prediction"]) - float(r["top1"]) for r in rows]
    assert np.std(error) < 0.4
    assert all(float(r["uncertainty"]) > 0 for r in rows)
    with pytest.raises(InputError, match="exists already"):
        run("predict", model, file, "--out", out)
    none = tmp_path / "none.npz"
    found = run(
        "fit", "accuracy", file, "--space", "mbv3_mini", "--out", none, "--covariates", "none"
    )
    assert found["covariates"] == []
    assert found["rmse"] > 0.5  # the levels are a point apart


def test_fit_latency_with_a_source(tmp_path: Path, file: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(file.read_text().splitlines(keepends=True)[:11]))
    found = run(
        *("fit", "latency", few, "--space", "mbv3_mini", "--out", tmp_path / "l.npz"),
        *("--source", f"{file}:other_ms"),
    )
    assert found["sources"] == ["other_ms"]
    assert found["n"] == 10
    assert found["mape"] < 5
    found = run(
        *("fit", "latency", file, "--space", "mbv3_mini", "--out", tmp_path / "m.npz"),
        *("--source", file, "--metric", "other_ms"),
    )
    assert found["sources"] == ["top1", "latency_ms"]
    assert run("predict", tmp_path / "l.npz", file, "--out", tmp_path / "o.csv")["n"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "none"], "column 'none' is missing"),
        (["--test-fraction", "1.5"], "--test-fraction: 1.5 is not between 0 and 1"),
        (["--source", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--device", "gpu"], "records.csv: has no column 'device' in which 'gpu' could stand"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, file: Path, arguments: list[str], message: str) -> None:
    out = tmp_path / "p.npz"
    with pytest.raises(InputError) as error:
        run("fit", "latency", file, "--space", "mbv3_mini", "--out", out, *arguments)
    assert message in str(error.value)
    assert not out.exists()


def test_devices_in_a_column(tmp_path: Path) -> None:
    path, out = tmp_path / "two.csv", tmp_path / "p.npz"
    device = ["a", "b"] * 30
    values = BLOCKS * np.where(np.array(device) == "a", 1.0, 10.0)
    records.write_csv(path, MINI, POPULATION, {"latency_ms": values, "device": device})
    base = ("fit", "latency", path, "--space", "mbv3_mini", "--out", out)
    with pytest.raises(InputError, match="has records of a, b; name one with --device"):
        run(*base)
    assert run(*base, "--device", "b")["n"] == 30


def test_devices_in_records_of_ours(tmp_path: Path) -> None:
    """One device, named or not; several, one of them named; sources of the same file."""
    archs = MINI.decode(POPULATION[:18])
    values = {"cpu": 1.01 * BLOCKS[:18], "gpu": 10.1 * BLOCKS[:18]}
    made = {
        device: [
            Record(arch, "latency_ms", ms, "ms", device, {"runtime": device, "p10_ms": 0.9 * ms})
            for arch, ms in zip(archs, times, strict=True)
        ]
        for device, times in values.items()
    }
    one, two, out = tmp_path / "one.jsonl", tmp_path / "two.jsonl", tmp_path / "p.npz"
    records.write_jsonl(one, made["cpu"])
    records.write_jsonl(two, [r for pair in zip(*made.values(), strict=True) for r in pair])
    base = ("--space", "mbv3_mini", "--out")
    for i, device in enumerate((["--device", "cpu"], [])):
        found = run("fit", "latency", one, *base, tmp_path / f"{i}.npz", *device)
        assert (found["n"], found["metric"]) == (18, "latency_ms")
    for device in values:
        file = tmp_path / f"{device}.npz"
        found = run("fit", "latency", two, *base, file, "--device", device)
        assert (found["n"], found["metric"]) == (18, f"latency_ms@{device}")
        run("predict", file, two, "--out", tmp_path / f"{device}.csv")
        with (tmp_path / f"{device}.csv").open() as opened:
            rows = [row for row in csv.DictReader(opened) if row["device"] == device]
        predicted = [float(row["prediction"]) for row in rows]
        assert predicted == pytest.approx(values[device].tolist(), rel=0.25)
    for file, device, message in (
        (one, ["--device", "gpu"], "one.jsonl: column 'device' has no 'gpu'; it has cpu"),
        (two, ["--device", "tpu"], "two.jsonl: column 'device' has no 'tpu'; it has cpu, gpu"),
        (two, [], "two.jsonl: has records of latency_ms on cpu, gpu; name one with --device"),
    ):
        with pytest.raises(InputError) as error:
            run("fit", "latency", file, *base, out, *device)
        assert message in str(error.value)
    found = run("fit", "latency", two, *base, out, "--device", "cpu", "--source", two)
    assert found["sources"] == ["latency_ms@gpu"]  # not what is fitted


def test_no_archs_and_levels_that_were_unknown_levels(tmp_path: Path, file: Path) -> None:
    model = tmp_path / "a.npz"
    run("fit", "accuracy", file, "--space", "mbv3_mini", "--out", model)
    lines = file.read_text().splitlines()
    none, foreign, without = (tmp_path / f"{name}.csv" for name in ("none", "foreign", "without"))
    none.write_text(lines[0] + "\n")
    assert run("predict", model, none, "--out", tmp_path / "0.csv")["n"] == 0
    records.write_csv(foreign, MINI, POPULATION[:3], {"shard": ["0", "9", ""]})
    records.write_csv(without, MINI, POPULATION[:3], {})
    found = run("predict", model, foreign, "--out", tmp_path / "1.csv")
    assert found["unknown_levels"] == {"shard": ["9"]}
    assert run("predict", model, without, "--out", tmp_path / "2.csv")["unknown_levels"] == {}
    found = []
    for name in ("1", "2"):
        with (tmp_path / f"{name}.csv").open() as opened:
            found.append([float(row["prediction"]) for row in csv.DictReader(opened)])
    assert found[0][0] != pytest.approx(found[1][0], abs=0.1)
    assert found[0][1:] == pytest.approx(found[1][1:])


def test_what_cannot_be_an_accuracy_or_a_source(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "out.npz"
    values = np.linspace(0.5, 0.9, 60)
    records.write_csv(tmp_path / "share.csv", MINI, POPULATION, {"top1": values})
    fitting = ("--space", "mbv3_mini", "--out")
    assert (
        run("fit", "accuracy", tmp_path / "share.csv", *fitting, tmp_path / "s.npz")["unit"] == ""
    )
    records.write_csv(tmp_path / "typo.csv", MINI, POPULATION, {"top1": [*values[1:], 7213]})
    with pytest.raises(InputError, match="top1: 7213 is not between 0 and 100"):
        run("fit", "accuracy", tmp_path / "typo.csv", *fitting, out)
    with pytest.raises(InputError, match="latency_ms is what is fitted"):
        run("fit", "latency", file, *fitting, out, "--source", f"{file}:other_ms,latency_ms")
    assert not out.exists()
