"""The program in a shell: completion, its version, and the nearest name for a mistyped one."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onceforall import __version__, data, devices, export, families, interop, supernet
from onceforall.cli import completing
from onceforall.data import Source
from onceforall.data.named import NAMED
from onceforall.errors import InputError, suggestion
from onceforall.interop import zoo
from onceforall.search import search
from onceforall.training import load_settings
from onceforall.training.config import recipes

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def shell(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onceforall", *words],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT | environment,
        timeout=120,
    )


def test_version() -> None:
    done = shell("--version")
    assert done.returncode == 0
    found = re.fullmatch(r"onceforall (\S+) \(torch (\S+), Python (\S+)\)\n", done.stdout)
    assert found is not None
    assert found[1] == __version__
    assert found[3] == sys.version.split()[0]


FILES = {
    "bash": (".bash_completions/onceforall.sh", ".bashrc"),
    "zsh": (".zfunc/_onceforall", ".zshrc"),
    "fish": (".config/fish/completions/onceforall.fish",),
}


@pytest.mark.parametrize("name", FILES)
def test_completion_is_installed_by_one_command(name: str, tmp_path: Path) -> None:
    """The shell is named here, in the place of the one that started it."""
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = shell("--install-completion", name, HOME=str(tmp_path), **named)
    assert done.returncode == 0, done.stderr
    for file in FILES[name]:
        assert (tmp_path / file).is_file()
    script = (tmp_path / FILES[name][0]).read_text()
    assert f"_ONCEFORALL_COMPLETE=complete_{name}" in script
    assert "python" not in script  # of the command, however it was started


LINES = {  # what is typed before TAB: what stands there after it
    "spec": "specialize",
    "records la": "records latency",
    "info --prof": "info --profile",
    "info mbv3_mini:sm": "info mbv3_mini:smallest",
    "info note8_lat-22": "info note8_lat-22ms_top1-70.4_finetune-25",
    "measure vit:largest --device openv": "measure vit:largest --device openvino-cpu",
    "train photos-": "train photos-from",
    "specialize runs/a --precisions fp32,bf": "specialize runs/a --precisions fp32,bf16",
    "records latency ofa_prox": "records latency ofa_proxyless_w1.3",
    "zoo ofa_resnet50_": "zoo ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0",
    "classify ./pict": "classify ./picture.png",  # files, where no name fits
}
WITH_EQUALS = {"measure vit:largest --device=openv": "measure vit:largest --device=openvino-cpu"}
START = {
    "bash": ["bash", "--rcfile", ".bashrc", "--noprofile", "-i"],
    "zsh": ["zsh", "-i"],
}


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a new person's terminal in which completion has been installed."""
    name = request.node.callspec.params["name"]
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here: apt-get install {name}")
    program = tmp_path / "onceforall"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m onceforall "$@"\n')
    program.chmod(0o755)
    (tmp_path / "picture.png").touch()
    here = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb"}
    root = Path(__file__).resolve().parent.parent
    here["PYTHONPATH"] = f"{root}:{os.environ.get('PYTHONPATH', '')}"
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert shell("--install-completion", name, **here, **named).returncode == 0
    return ENVIRONMENT | here


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_a_terminal_completes(name: str, home: dict[str, str]) -> None:
    """Keys are typed: TAB, then Ctrl-A and `echo` before what stands there. The first TAB of zsh
    only loads the completion."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        START[name], stdin=theirs, stdout=theirs, stderr=theirs, env=home, cwd=home["HOME"]
    )
    os.close(theirs)

    def read_until(wanted: str) -> str:
        seen, end = "", time.monotonic() + 60
        while not re.search(wanted, seen):
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536).decode(errors="replace")
        return seen

    try:
        os.write(ours, b"onceforall spec\t\x01echo be''gun \n")
        read_until("begun")
        for typed, wanted in (LINES | (WITH_EQUALS if name == "bash" else {})).items():
            os.write(ours, f"onceforall {typed}\t\x01echo fou''nd= \n".encode())
            seen = read_until(r"found= onceforall [^\r\n]*\r?\n")
            found = re.search(r"found= onceforall ([^\r\n]*)", seen)
            assert found is not None
            assert found[1].strip() == wanted
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("name", ["fish"])
def test_fish_completes(name: str, home: dict[str, str]) -> None:
    for typed, wanted in LINES.items():
        done = subprocess.run(
            ["fish", "-c", 'complete -C "$argv"', "--", f"onceforall {typed}"],
            capture_output=True,
            text=True,
            check=True,
            env=home,
            cwd=home["HOME"],
        )
        offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert wanted.split()[-1] in offered, (typed, done.stdout, done.stderr)


def test_what_is_offered_is_what_there_is() -> None:
    assert sorted(completing.FAMILIES) == sorted(families.names())
    assert sorted(completing.DEVICES) == sorted(devices.names())
    assert sorted(completing.FORMATS) == sorted(export.formats())
    assert sorted(completing.DATA) == sorted(NAMED)
    every = {precision for device in devices.devices().values() for precision in device.precisions}
    assert set(completing.PRECISIONS) == every
    assert set(completing.recipes("")) == {"auto", *recipes()}
    assert "note8_lat-22ms_top1-70.4_finetune-25" in completing.networks("")
    for net in completing.networks(""):
        assert net.partition(":")[0] in families.names() or zoo.find(net) is not None


def test_completing_does_not_wait_for_pytorch() -> None:
    code = "import sys; from onceforall.cli import completing as c; c.networks(''); c.recipes('')"
    code += "; c.devices(''); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert done.stdout == "False\n"


def test_help_and_usage_call_the_program_by_its_name() -> None:
    assert shell("--help").stdout.startswith("Usage: onceforall [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["trian"], "'train'"),
        (["records", "accurcy"], "'accuracy'"),
        (["info", "mbv3_mini:largest", "--resolutio", "28"], "'--resolution'"),
        (["convert", "a", "b", "--to", "oficial"], "'official'"),
    ],
)
def test_commands_and_options_are_suggested(words: list[str], wanted: str) -> None:
    done = shell(*words)
    assert done.returncode == 2
    assert re.search(rf"[Dd]id you mean {wanted}\?$", done.stderr.strip()), done.stderr
    assert done.stderr.count("\n") == 1


def test_names_are_suggested() -> None:
    for call, wanted in (
        (lambda: families.get("mbv3_mni"), "mbv3_mini"),
        (lambda: devices.device_named("openvino-cp"), "openvino-cpu"),
        (lambda: devices.device_named("OpenVINO-CPU"), "openvino-cpu"),
        (lambda: load_settings("smal"), "small"),
        (lambda: load_settings("small", ["batchsize=3"]), "batch_size"),
        (lambda: data.load(Source("digts")), "digits"),
        (lambda: zoo.get("ofa-note8-222"), "ofa-note8-22"),
        (lambda: interop.resolve("mbv3_mini"), "mbv3_mini:largest"),
        (lambda: export.format_named("onxx"), "onnx"),
        (lambda: supernet.tasks.get("clasification"), "classification"),
        (lambda: search(families.get("mbv3_mini").space, len, [], method="guidd"), "guided"),
    ):
        with pytest.raises(InputError, match=rf"; did you mean '{wanted}'\?$"):
            call()


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert suggestion("quark", ["onnx", "pt2"]) == ""
    assert suggestion("onxx", []) == ""
