"""The command `search`, from the command line to the files it writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from onceforall import cli, families
from onceforall.costs import cost_tables
from onceforall.predictors import fit_accuracy
from onceforall.predictors.published import Additive
from onceforall.records import Labels
from onceforall.space import Arch, Place, Table

FAMILY = "mbv3_mini"
SPACE = families.get(FAMILY).space


def gain(place: Place) -> float:
    return 0.1 * place.kernel + place.expand * (1 + place.stage) + 0.01 * place.resolution


def milliseconds(place: Place) -> float:
    return 1e-5 * place.resolution**2 * place.kernel * place.expand


@pytest.fixture
def predictors(tmp_path: Path) -> tuple[str, str]:
    """An accuracy and a latency in files; in a folder with a colon in its name."""
    folder = tmp_path / "a:b"
    folder.mkdir()
    paths = folder / "accuracy.npz", folder / "latency.npz"
    Additive(Table.build(SPACE, gain, name="top1", unit="%")).save(paths[0])
    Additive(Table.build(SPACE, milliseconds, name="latency", unit="ms")).save(paths[1])
    return str(paths[0]), str(paths[1])


def run(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, *words: str):
    """(exit status, stdout, stderr)"""
    monkeypatch.setattr("sys.argv", ["onceforall", "search", *words])
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture
def command(capsys, monkeypatch):
    return lambda *words: run(capsys, monkeypatch, *words)


def test_one_arch(command, predictors, tmp_path):
    accuracy, latency = predictors
    out = tmp_path / "best.json"
    words = ["--space", FAMILY, "--accuracy", accuracy, "--limit", f"latency={latency}:700us"]
    words += ["--limit", "macs=1.2M", "--limit", "params=40k..90k"]
    status, shown, _ = command(*words, "--json", "--out", str(out))
    assert status == 0
    data = json.loads(shown)
    arch = Arch.parse(data["arch"])
    assert Arch.from_dict(json.loads(out.read_text())) == arch
    assert arch in SPACE
    costs = {name: table.of(arch) for name, table in cost_tables(families.get(FAMILY)).items()}
    assert data["limits"]["latency"] <= 0.7
    assert data["limits"]["macs"] == costs["macs"] <= 1.2e6
    assert 40e3 <= data["limits"]["params"] == costs["params"] <= 90e3
    assert data["method"] == "exact"
    assert data["certificate"]["gap"] == pytest.approx(0, abs=1e-6)
    # nothing among many random archs is better
    population = SPACE.sample(np.random.default_rng(0), 20_000)
    tables = cost_tables(families.get(FAMILY))
    inside = Table.build(SPACE, milliseconds)(population) <= 0.7
    inside &= tables["macs"](population) <= 1.2e6
    inside &= (tables["params"](population) >= 40e3) & (tables["params"](population) <= 90e3)
    assert inside.any()
    assert Table.build(SPACE, gain)(population)[inside].max() <= data["accuracy"] + 1e-9

    status, _, error = command(*words, "--out", str(out))
    assert status == 2
    assert "exists already" in error


def test_text_says_what_was_found(command, predictors):
    status, shown, _ = command("--accuracy", predictors[0], "--limit", "peak_activation_bytes=16kB")
    assert status == 0
    assert "mbv3_mini@" in shown
    assert "peak_activation_bytes" in shown
    assert "proven" in shown


def test_a_second_opinion_stands_beside(command, predictors, tmp_path):
    """A linear model of the same records, another predictor where one is named; a table is asked
    for no other opinion."""
    rng = np.random.default_rng(0)
    population = SPACE.sample(rng, 60)
    values = Table.build(SPACE, gain)(population) + rng.normal(0, 0.01, 60)
    model = fit_accuracy(Labels(SPACE, "top1", population, values), test_fraction=0)
    model.save(tmp_path / "model.npz")
    words = ["--limit", "macs=1.2M", "--evaluations", "500", "--json"]
    found = {}
    for by, more in (("linear", []), ("table", ["--check", predictors[0]])):
        status, shown, _ = command("--accuracy", str(tmp_path / "model.npz"), *words, *more)
        assert status == 0
        found[by] = json.loads(shown)
    linear, table = found["linear"], found["table"]
    assert linear["arch"] == table["arch"]
    assert linear["checked_by"] == "a linear model of the same records"
    assert table["checked_by"] == predictors[0]
    true = Table.build(SPACE, gain).of(Arch.parse(table["arch"]))
    assert table["checked"] == pytest.approx(true)
    assert linear["checked"] == pytest.approx(true, abs=0.2 * np.ptp(values))
    assert linear["checked"] != linear["accuracy"]
    status, shown, _ = command("--accuracy", predictors[0], *words)
    assert json.loads(shown)["checked_by"] is None


def test_resolutions_and_methods(command, predictors):
    accuracy, latency = predictors
    for method in ("guided", "evolution"):
        status, shown, _ = command(
            *("--accuracy", accuracy, "--limit", f"latency={latency}:0.5ms", "--method", method),
            *("--resolutions", "24", "--evaluations", "500", "--seed", "7", "--json"),
        )
        data = json.loads(shown)
        assert status == 0
        assert data["resolution"] == 24
        assert data["evaluations"] <= 500
        assert (data["method"], data["seed"]) == (method, 7)


@pytest.mark.parametrize("values", ["0.3ms,0.5ms,0.7ms", "0.7ms", ""])
def test_a_front(command, predictors, tmp_path, values):
    accuracy, latency = predictors
    out = tmp_path / "front.csv"
    limit = f"latency={latency}" + (f":{values}" if values else "")
    status, shown, _ = command(
        *("--accuracy", accuracy, "--limit", limit, "--limit", "params=..130k", "--pareto"),
        *("--evaluations", "2000", "--json", "--out", str(out)),
    )
    assert status == 0
    front = json.loads(shown)["front"]
    if "," in values:
        assert [
            row["limits"]["latency"] <= b for row, b in zip(front, (0.3, 0.5, 0.7), strict=True)
        ]
    assert all(row["limits"]["params"] <= 130e3 for row in front)
    gains = [row["accuracy"] for row in front]
    assert gains == sorted(gains)
    assert len(set(gains)) > 1
    assert len(out.read_text().splitlines()) == len(front) + 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "macs"], "--limit: 'macs' is not NAME=VALUE"),
        (["--limit", "macs=fast"], "--limit macs: 'fast' is not a number"),
        (["--limit", "macs=nan"], "--limit macs: 'nan' is not a finite number"),
        (["--limit", "macs=1M...2M"], "a range is written LOW..HIGH"),
        (["--limit", "macs="], "no value"),
        (["--limit", "latency=20ms"], "names no predictor"),
        (["--limit", "latency=/no/such/file:20ms"], "/no/such/file: no such file"),
        (["--limit", "macs=1M,2M"], "need --pareto"),
        (["--limit", "macs=1M", "--limit", "macs=2M"], "given twice"),
        (["--limit", "macs=2M..1M"], "exclude each other"),
        (["--limit", "macs=1k"], "limit macs: at most 1000 MACs cannot be met; the smallest value"),
        (["--limit", "macs=5ms"], "--limit macs: '5ms' is not a number with a unit that fits (k,"),
        (["--limit", "params=1M..2MB"], "--limit params: '2MB' is not"),
        (["--limit", "peak_activation_bytes=5ms"], "unit that fits (k, K, M, G, B, kB"),
        (["--resolutions", "20,x"], "--resolutions"),
        (["--risk", "-1"], "--risk"),
        (["--method", "luck"], "method: 'luck'"),
        (["--evaluations", "0"], "evaluations"),
        (["--space", "nowhere"], "--space: 'nowhere'"),
        (["--pareto"], "--pareto: no --limit"),
        (["--out", "best.txt"], "--out: best.txt"),
    ],
)
def test_mistakes_are_one_line(command, predictors, words, said):
    status, shown, error = command("--accuracy", predictors[0], *words)
    assert status == 2
    assert said in error
    assert len(error.splitlines()) == 1
    assert shown == ""


@pytest.mark.parametrize(
    "amount", ["1MB", "700M", "0.5ms..1MB", "0.5ms,1kB --pareto", "70% --pareto"]
)
def test_a_latency_is_a_time(command, predictors, amount):
    accuracy, latency = predictors
    value, *more = amount.split()
    status, shown, error = command(
        "--accuracy", accuracy, "--limit", f"latency={latency}:{value}", *more
    )
    assert (status, shown, len(error.splitlines())) == (2, "", 1)
    assert "--limit latency" in error
    assert "(us, ms, s, or none)" in error


def test_a_quantity_of_another_unit(command, predictors, tmp_path):
    """Microseconds in the table, milliseconds in the limit: the number means the same time."""
    accuracy, latency = predictors
    other, unknown = tmp_path / "us.npz", tmp_path / "unknown.npz"
    table = Table.build(SPACE, lambda place: 1000 * milliseconds(place), name="latency", unit="us")
    Additive(table).save(other)
    Additive(Table.build(SPACE, milliseconds, name="latency")).save(unknown)
    found = []
    for path in (latency, other, unknown):
        words = ("--accuracy", accuracy, "--limit", f"latency={path}:0.7ms", "--json")
        status, shown, _ = command(*words)
        assert status == 0
        found.append(json.loads(shown)["accuracy"])
    assert found == pytest.approx([found[0]] * 3)  # of archs as good, any may be found


def test_note10_limits_that_cannot_be_met(command, data_dir):
    """The message names the limit at fault and the nearest value, which can then be had."""
    note10 = data_dir / "note10"
    words = ["--accuracy", str(data_dir / "predictors" / "acc_predictor.pth")]
    words += ["--resolutions", "160,176,192,208,224", "--evaluations", "200"]
    alone = ["--limit", f"latency={note10}:5ms"]
    both = ["--limit", f"latency={note10}:15ms", "--limit", "macs=400M.."]
    for limits, fault, given in (
        (alone, "limit latency: at most 5 ms cannot be met; the smallest value achievable", ""),
        (both, "limit macs: at least 400000000 MACs cannot be met with latency at most 15 ms", "M"),
    ):
        status, shown, error = command(*words, *limits)
        assert (status, shown, len(error.splitlines())) == (2, "", 1)
        assert fault in error
        nearest = float(error.split(" is ")[1].split()[0])
        side = -1 if given else 1  # macs are bounded from below, latency from above
        for step, expected in ((1e-4, 0), (-1e-4, 2)):
            value = nearest * (1 + side * step)
            limit = f"macs={value:.0f}.." if given else f"latency={note10}:{value:.6f}ms"
            assert command(*words, *limits[:-1], limit)[0] == expected


def test_nothing_to_maximise(command, tmp_path):
    status, _, error = command("--accuracy", str(tmp_path / "none.npz"), "--space", FAMILY)
    assert status == 2
    assert "no such file" in error


W12, W10, RESNET = "ofa_mbv3_w1.2", "ofa_mbv3_w1.0", "ofa_resnet50"


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "space", "of"),
    [
        ("acc_predictor.pth", W10, W12),
        ("acc_predictor.pth", RESNET, W12),
        ("ofa_resnet50_acc_predictor.pth", "ofa_proxyless_w1.3", RESNET),
    ],
)
@pytest.mark.parametrize("option", ["--accuracy", "--check"])
def test_the_authors_predictors_are_of_one_family(
    command, data_dir, file, space, of, option, tmp_path
):
    """What they say of another family's archs is no accuracy of these; it can be a prior."""
    path = str(data_dir / "predictors" / file)
    words = ["--space", space, "--resolutions", "160,192", option, path]
    if option == "--check":
        mine = tmp_path / "mine.npz"
        Additive(Table.build(families.get(space).space, gain, name="top1", unit="%")).save(mine)
        words = ["--space", space, "--accuracy", str(mine), option, path]
    status, shown, error = command(*words, "--limit", "macs=300M")
    assert (status, shown, len(error.splitlines())) == (2, "", 1)
    assert f"predicts accuracies of {of}, not of {space}" in error
    assert "fit accuracy --prior" in error


@pytest.mark.data
def test_the_resolutions_that_all_have_are_offered(command, data_dir):
    """The family has 25, the predictor 8, the tables of the folder 17; and the offer works."""
    words = ["--space", W12, "--accuracy", str(data_dir / "predictors" / "acc_predictor.pth")]
    limit = ["--limit", f"latency={data_dir / 'note10'}:25ms", "--evaluations", "300"]
    status, shown, error = command(*words, *limit)
    assert (status, shown, len(error.splitlines())) == (2, "", 1)
    offered = "--resolutions 160,176,192,208,224"
    assert f"; {offered} takes those that all have" in error
    status, shown, _ = command(*words, *limit, *offered.split(), "--json")
    assert status == 0
    assert json.loads(shown)["limits"]["latency"] <= 25
    one = ["--limit", f"latency={data_dir / 'note10' / '164_lookup_table.yaml'}:25ms"]
    assert "no resolution of the space is known to all that" in command(*words, *one)[2]
    fpga = ["--limit", f"ultra96={data_dir / 'fpga' / 'ultra96_int8_blocks.csv'}:25ms"]
    assert "; --resolutions 224 takes those" in command(*words, *fpga)[2]


def test_resolutions_of_tables_are_offered(command, predictors, tmp_path):
    few = tmp_path / "few.npz"
    space = SPACE.at(SPACE.resolution[:2])
    Additive(Table.build(space, milliseconds, name="latency", unit="ms")).save(few)
    words = ("--space", FAMILY, "--accuracy", predictors[0], "--limit", f"latency={few}:1ms")
    status, shown, error = command(*words)
    assert (status, shown, len(error.splitlines())) == (2, "", 1)
    assert "; --resolutions 20,24 takes those that all have" in error
    assert command(*words, "--resolutions", "20,24")[0] == 0
