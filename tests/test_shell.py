"""The program in a shell: completion, its version, and the nearest name for a mistyped one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from onceforall import __version__, data, devices, export, families, interop, supernet
from onceforall.data import Source
from onceforall.errors import InputError, suggestion
from onceforall.interop import zoo
from onceforall.search import search
from onceforall.training import load_settings

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


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "onceforall"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m onceforall "$@"\n')
    program.chmod(0o755)
    home = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert shell("--install-completion", "bash", **home, **named).returncode == 0
    script = 'source ~/.bashrc; {}; _onceforall_completion onceforall; echo "${{COMPREPLY[*]}}"'
    for words, cursor, wanted in (
        ("onceforall spec", 1, "specialize"),
        ("onceforall records la", 2, "latency"),
        ("onceforall info --prof", 2, "--profile"),
    ):
        asked = script.format(f"COMP_WORDS=({words}); COMP_CWORD={cursor}")
        done = subprocess.run(
            ["bash", "--norc", "-c", asked],
            capture_output=True,
            text=True,
            check=True,
            env=ENVIRONMENT | home,
        )
        assert done.stdout.split() == [wanted], done.stderr


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
