"""Arm's Ethos-U processors, estimated by their compiler `vela`: nothing is run.

vela compiles an int8 `.tflite` and tells the cycles, SRAM and flash that the network would take.
The device's name says for which: `vela`, or `vela:ACCELERATOR[:SYSTEM[:MEMORY]]` in vela's words,
as `vela:ethos-u55-256:Ethos_U55_Deep_Embedded:Sram_Only`. Operators that the accelerator lacks fall
back to the CPU beside it, whose time vela does not know: they are counted and said. Knows a file,
never a network or an arch.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onceforall.errors import InputError, MissingExtraError
from onceforall.progress import say

if TYPE_CHECKING:
    from onceforall.devices import Target

NAME = "vela"
ACCELERATOR = "ethos-u55-128"
SECONDS = 600  # a compilation that takes longer is given up
KIB = 1024  # bytes; vela's memory columns are in KiB
_OPTIONS = ("--accelerator-config", "--system-config", "--memory-mode")


@dataclass(frozen=True)
class Estimate:
    """What vela told of one file; `times` gives it as a measuring device gives times."""

    latency_ms: float
    facts: dict[str, Any]

    def __call__(self) -> None:
        """Nothing to run."""

    def times(self, seconds: float) -> list[float]:
        """Milliseconds of a run, once: an estimate has no noise."""
        return [self.latency_ms]


def open(file: Path, example: Tensor, target: Target) -> Estimate:
    """The estimate of the file, for one image.

    Raises:
        MissingExtraError: no ethos-u-vela.
        InputError: the name's options are not vela's, or nothing of the file runs on the
            accelerator.
    """
    if len(example) != 1:
        raise InputError(f"batch: vela estimates one image a run, not {len(example)}")
    if target.threads != 1:
        raise InputError(f"threads: vela's accelerators have none; 1, not {target.threads}")
    return estimate(file, options(target.device))


def provenance(target: Target) -> dict[str, str]:
    """What its estimates are of: an accelerator that need not be there."""
    return {
        "machine": "estimated",
        "system": "none",
        "processor": " ".join(options(target.device)[1::2]),
        "runtime": f"ethos-u-vela {version('ethos-u-vela')}",
    }


def options(device: str) -> list[str]:
    """What follows the device's name, for vela's command line."""
    name, *given = device.split(":")
    if name != NAME or len(given) > len(_OPTIONS) or not all(given):
        raise InputError(f"device: {device!r}: it is {NAME}[:ACCELERATOR[:SYSTEM[:MEMORY]]]")
    values = given or [ACCELERATOR]
    return [word for pair in zip(_OPTIONS, values, strict=False) for word in pair]


def estimate(file: Path, arguments: Sequence[str]) -> Estimate:
    """What vela says of a `.tflite`, with further arguments of its command line."""
    if importlib.util.find_spec("ethosu") is None:
        raise MissingExtraError("ethos-u-vela", "vela", "vela")
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    with TemporaryDirectory() as name:
        command = [sys.executable, "-m", "ethosu.vela", *arguments, "--show-cpu-operations"]
        command += ["--output-dir", name, str(file.resolve())]
        try:
            done = subprocess.run(
                command,
                cwd=name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{file}: vela was not done after {SECONDS} s") from None
        summaries = list(Path(name).glob("*_summary_*.csv"))
        if done.returncode or len(summaries) != 1:
            raise InputError(f"{file}: vela: {_reason(done.stdout)} (status {done.returncode})")
        with summaries[0].open(encoding="utf-8", newline="") as lines:
            *_, row = csv.DictReader(lines)
    return _read(file, row, done.stdout)


def _read(file: Path, row: dict[str, str], printed: str) -> Estimate:
    latency_ms = 1e3 * float(row["inference_time"])
    left = re.findall(r"^\s*CPU: (\w+) = ", printed, re.M)
    if not (math.isfinite(latency_ms) and latency_ms > 0):
        raise InputError(
            f"{file}: vela runs none of its {len(left)} operators on the accelerator;"
            " was it written with int8?"
        )
    if left:
        say(
            f"vela: {len(left)} operators run on the CPU, whose time is not in the estimate:"
            f" {', '.join(sorted(set(left)))}"
        )
    return Estimate(
        latency_ms,
        {
            "accelerator": row["accelerator_configuration"],
            "system": row["system_config"],
            "memory_mode": row["memory_mode"],
            "clock_hz": float(row["core_clock"]),
            "cycles": int(float(row["cycles_total"])),
            "sram_bytes": _bytes(row, "sram"),
            "dram_bytes": _bytes(row, "dram"),
            "flash_bytes": _bytes(row, "on_chip_flash") + _bytes(row, "off_chip_flash"),
            "cpu_operators": len(left),
        },
    )


def _bytes(row: dict[str, str], memory: str) -> int:
    return round(KIB * float(row[f"{memory}_memory_used"]))


def _reason(printed: str) -> str:
    """The line of vela's that tells what is wrong: its errors, argparse's, or the last."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    told = [line for line in lines if re.search(r"\berror\b", line, re.I)]
    return (told or lines or ["it said nothing"])[-1]
