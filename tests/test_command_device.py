"""Devices that commands reach: a local program stands for the phone."""

import ast
import json
import platform
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onceforall import export
from onceforall.devices import Target, measure, provenance
from onceforall.devices.description import Description, describe, is_description
from onceforall.errors import InputError

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
PYTHON = shlex.quote(sys.executable)
NAME = "a $(touch harm) 'b; c.onnx"  # which a shell would take apart
IMAGE = torch.zeros((1, 3, 8, 8))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONCEFORALL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    folder.mkdir()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    export.to_onnx(network, (3, 8, 8), folder / NAME)
    return folder / NAME


def program(folder: Path, text: str) -> str:
    """The command that runs a program of this text."""
    (folder / "phone.py").write_text(text)
    return f"{PYTHON} {shlex.quote(str(folder / 'phone.py'))}"


def device(folder: Path, **fields: Any) -> str:
    given = {"pattern": r"ms: (\S+)", "unit": "ms", "pause": 0.0, **fields}
    path = folder / "phone.json"
    path.write_text(json.dumps(given))
    return str(path)


def opened(name: str, file: Path, threads: int = 1, example: torch.Tensor = IMAGE) -> Any:
    target = Target(name, threads, len(example))
    return target.known.open(file, example, target)


def test_a_board_is_timed_by_the_script_of_the_example(tmp_path: Path, file: Path) -> None:
    """The description of docs/examples/board-ssh.yaml, without its ssh: the board is here."""
    text = (EXAMPLES / "board-ssh.yaml").read_text()
    board = tmp_path / "board"
    board.mkdir()
    for theirs, ours in (
        ("scp -q -o BatchMode=yes {file} board:/tmp/{name}", f"cp {{file}} {board}/{{name}}"),
        ("board python3 time_onnx.py /tmp", f"board {PYTHON} {EXAMPLES}/time_onnx.py {board}"),
        ("rm -f /tmp/{name}", f"rm {board}/{{name}}"),
        ("ssh -o BatchMode=yes board ", ""),
        ("runs: 50", "runs: 7"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    (tmp_path / "board.yaml").write_text(text)
    call = opened(str(tmp_path / "board.yaml"), file)
    found = call.times(0.0)
    assert len(found) == 7
    assert all(0 < ms < 10_000 for ms in found)
    assert call.facts["device"] == platform.machine()  # what `uname -m` says
    assert len(list(board.iterdir())) == 1
    call.close()
    assert not list(board.iterdir())
    printed = Path(call.facts["printed"]).read_text()
    assert '"latencies_ms"' in printed
    assert "# status 0" in printed


def test_examples_are_descriptions() -> None:
    """What the tools print is quoted from their documentation."""
    phone, board = (describe(str(EXAMPLES / f"{n}.yaml")) for n in ("phone-adb", "board-ssh"))
    assert phone.formats == ("litert",)
    assert board.formats == ("onnx",)
    line = (
        "INFO: Inference timings in us: Init: 3183, First inference: 14711,"
        " Warmup (avg): 8121, Inference (avg): 7861.4"
    )
    assert re.findall(phone.pattern, line) == ["7861.4"]


def test_places_are_filled_and_paths_stay_whole(tmp_path: Path, file: Path) -> None:
    run = program(tmp_path, "import sys\nprint(sys.argv[1:])\nprint('ms: 2.5')\nprint('ms: 3')")
    run += " {file} --t={threads} {batch} {runs} {name}"
    content = file.read_bytes()
    call = opened(device(tmp_path, run=run, runs=9), file, 2, torch.zeros((4, 3, 8, 8)))
    file.unlink()  # as a file that was written for timing is, once it was opened
    assert call.times(0.0) == [2.5, 3.0]
    words = ast.literal_eval(Path(call.facts["printed"]).read_text().splitlines()[1])
    assert words[1:4] == ["--t=2", "4", "9"]
    assert Path(words[0]).name == NAME
    assert Path(words[0]).read_bytes() == content
    assert re.fullmatch(r"onceforall-[0-9a-f]{16}\.onnx", words[4])
    assert not (tmp_path / "harm").exists()
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("unit", "milliseconds"), [("s", 250.0), ("ms", 0.25), ("us", 0.00025), ("ns", 2.5e-7)]
)
def test_units(tmp_path: Path, file: Path, unit: str, milliseconds: float) -> None:
    run = program(tmp_path, "print('ms: 0.25')")
    assert opened(device(tmp_path, run=run, unit=unit), file).times(0) == pytest.approx(
        [milliseconds]
    )


@pytest.mark.parametrize(
    ("path", "printed"),
    [
        ("a.b", {"a": {"b": [1, 2.5]}}),
        ("a.t", {"a": [{"t": 1}, {"t": 2.5}]}),
        ("a.1.t", {"a": [0, {"t": [1, 2.5]}]}),
    ],
)
def test_json_is_found_beside_other_text(
    tmp_path: Path, file: Path, path: str, printed: Any
) -> None:
    run = program(tmp_path, f"print('loading ...')\nprint({json.dumps(printed)!r})")
    name = device(tmp_path, run=run, json=path, pattern="")
    assert opened(name, file).times(0.0) == [1, 2.5]


def test_commands_are_repeated_for_the_seconds_asked(tmp_path: Path, file: Path) -> None:
    run = program(tmp_path, "print('ms: 1')")
    assert len(opened(device(tmp_path, run=run), file).times(0.5)) > 1


def test_facts_of_the_device(tmp_path: Path, file: Path) -> None:
    run = program(tmp_path, "import sys\nprint(*sys.argv[1:], sep='\\n')\nprint('ms: 1')")
    told = device(tmp_path, run=run, facts=f"{run} 'model: Phone 3' os=12")
    call = opened(told, file)
    call.times(0.0)
    told = {k: call.facts[k] for k in ("model", "os")}
    assert told == {"model": "Phone 3", "os": "12"}


HANGS = "import time\nprint('began', flush=True)\ntime.sleep(60)"
RUBBISH = "print('Segmentation fault')"
DIES = "import sys\nprint('ms: 1')\nprint('device offline')\nsys.exit(3)"
NEGATIVE = "print('ms: -1')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HANGS, r"run: not done after 1 s; it printed: began \(all in "),
        (RUBBISH, r"run: no latency in what it printed; it printed: Segmentation fault"),
        (DIES, r"run: ended with status 3; it printed: ms: 1 \| device offline"),
        (NEGATIVE, r"run: a latency that is none; it printed: ms: -1"),
        ("print('ms: fast')", r"run: no latency in it \(could not convert .*'fast'\)"),
        ("", r"run: no latency in what it printed; it printed: nothing"),
    ],
)
def test_a_command_that_fails_is_run_again_and_then_one_line(
    tmp_path: Path, file: Path, text: str, message: str
) -> None:
    tries = tmp_path / "tries"
    counted = f"open({str(tries)!r}, 'a').write('x')\n{text}"
    clean = f"{PYTHON} -c 'print(7)'"
    name = device(tmp_path, run=program(tmp_path, counted), timeout=1.0, retries=1, clean=clean)
    call = opened(name, file)
    with pytest.raises(InputError, match=message) as caught:
        call.times(0.0)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "phone.json"))
    assert tries.read_text() == "xx"
    call.close()
    assert "\n7\n" in Path(call.facts["printed"]).read_text()  # cleaned all the same


def test_a_command_that_fails_once_is_forgiven(tmp_path: Path, file: Path) -> None:
    there = tmp_path / "there"
    text = (
        f"from pathlib import Path\np = Path({str(there)!r})\nif p.exists():\n    print('ms: 4')\n"
    )
    run = program(tmp_path, text + "p.touch()")
    assert opened(device(tmp_path, run=run, retries=1), file).times(0.0) == [4.0]
    there.unlink()
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="no latency"):
        opened(device(tmp_path / "b", run=run, retries=0), file).times(0.0)


def test_what_a_hanging_command_started_is_ended_too(tmp_path: Path, file: Path) -> None:
    """The child writes after two seconds, unless it was ended with its parent."""
    late = tmp_path / "late"
    child = f"import time; time.sleep(2); open({str(late)!r}, 'w')"
    text = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    name = device(tmp_path, run=program(tmp_path, text), timeout=0.5, retries=0)
    with pytest.raises(InputError, match="not done after"):
        opened(name, file).times(0.0)
    time.sleep(2.5)
    assert not late.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "run is missing"),
        ({"run": "x", "unit": "hours"}, "unit: 'hours' is none of s, ms, us, ns"),
        ({"run": "x", "json": "a"}, "pattern, json: one of the two"),
        ({"run": "x", "pattern": "("}, "pattern: no regular expression"),
        ({"run": "x", "pattern": "a"}, "pattern: has 0 groups"),
        ({"run": "x", "retries": -1}, "retries: -1 is below 0"),
        ({"run": "x", "timeout": 0}, "timeout: 0.0 is below"),
        ({"run": "x", "timeout": float("nan")}, "timeout: .NaN. is not a number"),
        ({"run": "x", "runs": "many"}, "runs: 'many' is not a whole number"),
        ({"run": "x", "runs": True}, "runs: True is not a whole number"),
        ({"run": 3}, "run: 3 is not a text"),
        ({"run": "x", "formats": [1]}, "formats: .* is no list of names"),
        ({"run": "x", "speed": 1}, "'speed' is not known; there are run, unit"),
        ({"run": "x {path}"}, "run: {path} is not known; there are file, folder"),
        ({"run": "x 'unended"}, "run: No closing quotation"),
        ({"run": " "}, "run: no command"),
        ({"run": "sh -c 'bench {file}'"}, "run: {file} or {folder} inside quoted text"),
    ],
)
def test_descriptions_are_checked(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        describe(device(tmp_path, **fields))
    assert str(caught.value).startswith(str(tmp_path / "phone.json"))


def test_descriptions_as_text_and_files_that_are_none(tmp_path: Path) -> None:
    text = "{run: 'bench {file}', unit: us, pattern: '(.*)', formats: onnx}"
    assert is_description(text)
    assert describe(text) == Description(
        run="bench {file}", unit="us", pattern="(.*)", formats=("onnx",)
    )
    assert is_description("phone.yaml")
    assert not is_description("onnxruntime-cpu")
    with pytest.raises(InputError, match=r"no\.yaml: no such file"):
        describe(str(tmp_path / "no.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"bad\.yaml: not YAML"):
        describe(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(InputError, match=r"list\.yaml: 'no fields' is not known"):
        describe(str(tmp_path / "list.yaml"))


def test_threads_and_batch_need_a_place(tmp_path: Path, file: Path) -> None:
    name = device(tmp_path, run="x {file}")
    with pytest.raises(InputError, match=r"run: has no \{threads\}, so threads can only be 1"):
        opened(name, file, 2)
    with pytest.raises(InputError, match=r"run: has no \{batch\}"):
        opened(name, file, 1, torch.zeros((2, 3, 8, 8)))


def test_a_tool_that_is_not_there_is_named(tmp_path: Path, file: Path) -> None:
    name = device(tmp_path, run="no-such-tool {file}", retries=0)
    with pytest.raises(InputError, match="run: no-such-tool: No such file or directory"):
        opened(name, file).times(0.0)


def test_a_network_is_measured_by_its_description(tmp_path: Path) -> None:
    """As `measure NET --device phone.json` does: the file is written, taken there, and times are
    what the program says, of which the middle is the latency."""
    run = program(tmp_path, "import sys, os\nprint('ms:', 3 + (os.path.getsize(sys.argv[1]) > 0))")
    target = Target(device(tmp_path, run=run + " {file}", name="Phone 3"))
    found = measure(target, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval(), (3, 8, 8), 2)
    assert found.median_ms == 4.0
    assert found.runs >= 2
    told = provenance(target)
    assert (str(target), told["machine"]) == ("command:Phone 3", "Phone 3")
    (tmp_path / "b").mkdir()
    other = provenance(Target(device(tmp_path / "b", run="other {file}", name="Phone 3")))
    assert told["runtime"] != other["runtime"]
