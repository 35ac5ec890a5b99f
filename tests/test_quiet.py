"""Runtimes at work in a process of a person's own: nothing leaves the machine or the folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = """
import sys
from pathlib import Path

told = []
WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen")
sys.addaudithook(lambda event, arguments: told.append(event) if event in WATCHED else None)
import torch
from torch import nn
from onceforall.devices import Target, provenance
from onceforall.export import format_named

del told[:]  # what PyTorch asked of its own machine
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
x = torch.rand(16, 3, 8, 8)
"""
USE = """
target = Target({device!r}, precision="int8")
print(provenance(target)["runtime"])
form = format_named({format!r})
path = Path("n" + form.suffix)
form.write(network, (3, 8, 8), path, {{}}, "int8", x)
form.load(path)(x)
target.prepare(path, (3, 8, 8))()
assert not told, told
"""


def work(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs it on what looks like a person's own machine: packages tell nothing in CI, nor where
    they see pytest, nor where the environment forbids it."""
    forbidding = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    own = {k: v for k, v in os.environ.items() if k not in forbidding}
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder / "work",
        env={**own, "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("device", "format", "packages", "files"),
    [
        ("onnxruntime-cpu", "onnx", ["onnxruntime"], ["n.onnx"]),
        ("openvino-cpu", "openvino", ["openvino", "nncf"], ["n.bin", "n.xml"]),
    ],
)
def test_nothing_leaves_the_machine_or_the_folder(
    device: str, format: str, packages: list[str], files: list[str], tmp_path: Path
) -> None:
    for package in packages:
        pytest.importorskip(package)
    done = work(SETUP + USE.format(device=device, format=format), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == packages[0]
    assert not done.stderr
    assert not list((tmp_path / "home").rglob("*"))
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == files
