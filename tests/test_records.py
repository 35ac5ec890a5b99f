"""Records and their files: both forms, what is refused, and what a killed writer leaves."""

import csv
from pathlib import Path

import numpy as np
import pytest

from onceforall import families, records
from onceforall.errors import InputError
from onceforall.records import Record
from onceforall.space import Arch, Block, Space, Stage

TINY = Space.of_stages(
    "tiny", (16, 32), tuple(Stage((1, 2), (3, 5), (2, 4), (w,)) for w in (8, 16))
)
WIDE = Space.of_stages("wide", (16,), (Stage((1, 2), (3,), (0.25, 0.5), (8, 16)),))
ARCH = Arch.of_stages("tiny", 32, ((Block(5, 4, 8),), (Block(3, 2, 16), Block(5, 2, 16))))
HEADER = "kernel_sizes,expand_ratios,depths,resolution,top1\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_digits_are_read_by_hand(tmp_path: Path) -> None:
    # stage 1: kernels 5,(9), expands 4,(0): the second block is not there, its digits mean nothing
    file = write(tmp_path / "a.csv", HEADER + "5935,4022,12,32,71.5\n")
    labels = records.read_labels(file, TINY, "top1")
    assert TINY.decode(labels.population) == [ARCH]
    assert labels.values.tolist() == [71.5]


def test_absent_blocks_are_written_as_the_smallest_choice() -> None:
    columns = records.arch_columns(TINY, TINY.encode([ARCH]))
    assert columns == {
        "kernel_sizes": ["5335"],
        "expand_ratios": ["4222"],
        "depths": ["12"],
        "resolution": ["32"],
    }


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_csv_round_trip(tmp_path: Path, name: str) -> None:
    space = families.get(name).space
    population = space.sample(np.random.default_rng(0), 30)
    values = np.linspace(60, 80, 30)
    path = tmp_path / "a.csv"
    records.write_csv(path, space, population, {"top1": values, "shard": ["x"] * 30})
    labels = records.read_labels(path, space, "top1")
    assert np.array_equal(labels.population, population)
    assert np.array_equal(labels.values, values)
    assert set(labels.columns["shard"].tolist()) == {"x"}
    with path.open() as file:
        header = next(csv.reader(file))
    assert header[0] == ("arch" if name == "ofa_resnet50" else "kernel_sizes")


def test_what_is_not_one_digit_goes_under_arch() -> None:
    population = WIDE.sample(np.random.default_rng(0), 3)
    columns = records.arch_columns(WIDE, population)
    assert [Arch.parse(text) for text in columns["arch"]] == WIDE.decode(population)


def test_a_resolution_beyond_the_space_is_added(tmp_path: Path) -> None:
    labels = records.read_labels(
        write(tmp_path / "a.csv", HEADER + "5335,4222,12,20,1\n5335,4222,12,32,2\n"), TINY, "top1"
    )
    assert labels.space.resolution == (16, 20, 32)
    assert [a.resolution for a in labels.space.decode(labels.population)] == [20, 32]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("5335,4222,12,32,nan", "line 2: top1: 'nan' is not a finite number"),
        ("5335,4222,12,32,", "line 2: top1: '' is not a finite number"),
        ("5335,4222,12,32,-3", "line 2: top1: '-3' is not above 0"),
        ("533,4222,12,32,1", "line 2: kernel_sizes: '533' is not 4 digits"),
        ("5335,42x2,12,32,1", "line 2: expand_ratios: '42x2' is not 4 digits"),
        ("7335,4222,12,32,1", "line 2: kernel_sizes: stage 1 block 1 is 7; it can be 3, 5"),
        ("5335,4222,13,32,1", "line 2: depths: stage 2 depth is 3; it can be 1, 2"),
        ("5335,4222,12,3.2,1", "line 2: resolution: '3.2' is not a positive whole number"),
        ("5335,4222,12,32", "line 2: 4 cells, but the header has 5"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, row: str, message: str) -> None:
    file = write(tmp_path / "a.csv", HEADER + row + "\n")
    with pytest.raises(InputError, match=r"a\.csv") as error:
        records.read_labels(file, TINY, "top1", positive=True)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "has no records"),
        ("kernel_sizes,expand_ratios,resolution,top1\n", "column 'depths' is missing"),
        ("arch,top1,top1\n", "column 'top1' is there twice"),
        ("arch,other\ntiny@32/8:3x2/16:3x2,1\n", "column 'top1' is missing; it has other"),
        ("arch,top1\ntiny@32/9:3x2/16:3x2,1\n", "line 2: arch: stage 1: width 9"),
        ('arch,top1\n"tiny,1\n', "line 2"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        records.read_labels(write(tmp_path / "a.csv", text), TINY, "top1")
    assert message in str(error.value)


def test_duplicates_that_agree_are_one_and_others_are_kept_and_told(tmp_path: Path) -> None:
    rows = ["5335,4222,12,32,70", "5335,4222,12,32,70", "5335,4222,12,32,72", "3335,4222,12,32,1"]
    # the second block of stage 1 is not there: other digits are the same arch
    rows.append("5935,4922,12,32,72")
    labels = records.read_labels(
        write(tmp_path / "a.csv", HEADER + "\n".join(rows) + "\n"), TINY, "top1"
    )
    assert labels.values.tolist() == [70, 72, 1]
    assert "1 archs were measured more than once" in labels.warnings[0]
    assert "differs by 2 (median)" in labels.warnings[0]
    assert "2 rows" in labels.warnings[1]


def test_a_torn_last_row_is_left_out(tmp_path: Path) -> None:
    text = HEADER + "5335,4222,12,32,70\n5335,4222,1"
    labels = records.read_labels(write(tmp_path / "a.csv", text), TINY, "top1")
    assert labels.values.tolist() == [70]


def test_jsonl_survives_a_kill_at_any_byte(tmp_path: Path) -> None:
    made = [Record(ARCH, "top1", 70.0 + i, "%", provenance={"shard": i % 2}) for i in range(3)]
    whole = tmp_path / "whole.jsonl"
    records.write_jsonl(whole, made)
    content = whole.read_bytes()
    ends = [i for i, byte in enumerate(content, 1) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        kept = sum(end <= cut for end in ends)
        assert records.read_jsonl(path) == made[:kept]
        with records.appending(path) as file:
            records.add(file, made[0])
        assert records.read_jsonl(path) == [*made[:kept], made[0]]


def test_jsonl_and_csv_give_the_same_labels(tmp_path: Path) -> None:
    archs = TINY.decode(TINY.sample(np.random.default_rng(1), 8))
    made = [
        Record(a, "latency_ms", 1.0 + i, "ms", "cpu", {"run": i % 2}) for i, a in enumerate(archs)
    ]
    records.write_jsonl(tmp_path / "a.jsonl", made)
    columns = {"latency_ms": [r.value for r in made], "run": [i % 2 for i in range(8)]}
    records.write_csv(tmp_path / "a.csv", TINY, TINY.encode(archs), columns)
    a = records.read_labels(tmp_path / "a.jsonl", TINY, "latency_ms")
    b = records.read_labels(tmp_path / "a.csv", TINY, "latency_ms")
    assert np.array_equal(a.population, b.population)
    assert np.array_equal(a.values, b.values)
    assert a.columns["run"].tolist() == b.columns["run"].tolist()


def test_devices_are_told_apart(tmp_path: Path) -> None:
    made = [Record(ARCH, "latency_ms", 1.0 + i, "ms", d) for i, d in enumerate(("cpu", "gpu"))]
    path = tmp_path / "a.jsonl"
    records.write_jsonl(path, made)
    for ask in (("latency_ms@gpu", ""), ("latency_ms", "gpu")):
        labels = records.read_labels(path, TINY, ask[0], device=ask[1])
        assert (labels.metric, labels.values.tolist()) == ("latency_ms@gpu", [2.0])
    with pytest.raises(InputError, match=r"of latency_ms on cpu, gpu; name one with --device, or"):
        records.read_labels(path, TINY, "latency_ms")
    with pytest.raises(InputError, match="column 'device' has no 'tpu'; it has cpu, gpu"):
        records.read_labels(path, TINY, "latency_ms", device="tpu")
    with pytest.raises(InputError, match="no records of 'latency_ms@tpu'; it has latency_ms@cpu"):
        records.read_labels(path, TINY, "latency_ms@tpu")
    assert records.read_archs(path, TINY).latencies() == []  # 1.0 and 2.0: counts, perhaps
    text = "arch,latency_ms,device\n" + "".join(
        f'"{ARCH}",{v},{d}\n' for v, d in ((1, "a"), (2, "b"))
    )
    parts = records.by_device(
        records.read_labels(write(tmp_path / "a.csv", text), TINY, "latency_ms")
    )
    assert [(p.metric, p.values.tolist()) for p in parts] == [
        ("latency_ms@a", [1.0]),
        ("latency_ms@b", [2.0]),
    ]


def test_latencies_of_a_file_of_several_devices_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    spread = {"p10_ms": 0.7, "p90_ms": 2.9}
    made = [
        Record(ARCH, "latency_ms", 1.5 + i, "ms", d, spread) for i, d in enumerate(("cpu", "gpu"))
    ]
    records.write_jsonl(path, [*made, Record(ARCH, "joule", 0.5, "J", "gpu")])
    found = records.read_archs(path, TINY).latencies()
    assert found == ["latency_ms@cpu", "latency_ms@gpu", "joule"]
    values = [records.read_labels(path, TINY, name).values.tolist() for name in found]
    assert values == [[1.5], [2.5], [0.5]]


@pytest.mark.parametrize(
    ("of", "field"),
    [
        ({"supernet": "aa"}, "supernet"),
        ({"runtime": "rt 1", "machine": "x", "processor": "p"}, "runtime"),
        ({"machine": "x"}, "machine"),
        ({"processor": "p"}, "processor"),
    ],
)
def test_labels_of_different_things_are_not_mixed(
    tmp_path: Path, of: dict[str, str], field: str
) -> None:
    """Of one device; a record that does not say is of neither. What may vary is a covariate."""
    path = tmp_path / "a.jsonl"
    same = [Record(ARCH, "ms", float(i), "ms", "cpu", {**of, "images": i}) for i in (1, 2)]
    for other in ({**of, field: "other"}, {k: v for k, v in of.items() if k != field}):
        records.write_jsonl(path, same, overwrite=True)
        assert len(records.read_labels(path, TINY, "ms")) == 2
        with records.appending(path) as file:
            records.add(file, Record(ARCH, "ms", 3.0, "ms", "gpu", {**of, field: "third"}))
        assert len(records.read_labels(path, TINY, "ms", device="cpu")) == 2
        with records.appending(path) as file:
            records.add(file, Record(ARCH, "ms", 4.0, "ms", "cpu", other))
        with pytest.raises(InputError) as error:
            records.read_labels(path, TINY, "ms", device="cpu")
        named = sorted({of[field], other.get(field, "")})
        message = ", ".join(name or "one that they do not name" for name in named)
        assert f"{path}: {field}: its records of ms@cpu are of {message}; keep" in str(error.value)
        assert len(records.read_labels(path, TINY, "ms", device="gpu")) == 1


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "mine")
    with pytest.raises(InputError, match="exists already"):
        records.write_csv(path, TINY, TINY.encode([ARCH]), {"top1": [1]})
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "x"}, "'x' is not a number"),
        ({"value": float("inf")}, "not a finite number"),
        ({"arch": "tiny"}, "is not an arch"),
        ({"more": 1}, "unknown key 'more'"),
        ({"unit": 3}, "unit: 3 is not a text"),
        ({"provenance": []}, "provenance: [] is not an object"),
    ],
)
def test_bad_records_are_named(change: dict[str, object], message: str) -> None:
    data = {**Record(ARCH, "top1", 70.0, "%").to_dict(), **change}
    with pytest.raises(InputError) as error:
        Record.from_dict(data)
    assert message in str(error.value)


@pytest.mark.data
def test_the_published_records_are_read_whole(data_dir: Path) -> None:
    space = families.get("ofa_mbv3_w1.0").space
    labels = records.read_labels(data_dir / "accuracy" / "ofa_mbv3_w1.0.csv", space, "top1")
    assert (len(labels), sorted(set(labels.columns["shard"].tolist()))) == (1566, list("0123"))
    path = data_dir / "latency" / "gpu_latency_ms.csv"
    assert len(records.read_labels(path, space, "2080ti_1", positive=True)) == 3500
    assert len(records.read_archs(path, space).latencies()) == 9


def test_records_keep_the_settings_of_their_family(tmp_path: Path) -> None:
    """Records of networks with other classes are not mixed; those that name none go with any."""
    own = Record(ARCH, "top1", 71.0, "%")
    assert "settings" not in own.to_dict()
    named = Record(ARCH.at(16), "top1", 61.0, "%", settings={"classes": 5})
    assert Record.from_dict(named.to_dict()).settings == {"classes": 5}
    path = tmp_path / "a.jsonl"
    records.write_jsonl(path, [own, named])
    assert records.read_labels(path, TINY, "top1").settings == {"classes": 5}
    with pytest.raises(InputError, match=r"a.jsonl: settings: classes: .* with 5, .* of 7"):
        records.read_labels(path, TINY, "top1", settings={"classes": 7})
    records.write_jsonl(
        tmp_path / "b.jsonl", [named, Record(ARCH, "top1", 1, "%", settings={"classes": 6})]
    )
    with pytest.raises(InputError, match=r"b.jsonl: settings: classes: .* with 6, .* of 5"):
        records.read_labels(tmp_path / "b.jsonl", TINY, "top1")
