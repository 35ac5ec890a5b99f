"""What a latency is a latency of, beside the target: machine, processor, runtime and version."""

from __future__ import annotations

import platform
from typing import Any

import torch

from onceforall.devices.target import Target


def provenance(target: Target) -> dict[str, Any]:
    """The machine, its processor (of CUDA devices the GPU), and the runtime with its version. What
    a device elsewhere runs on it says itself."""
    known = target.known
    processor = _processor()
    if "cuda" in target.device and torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": processor,
        "runtime": known.runtime(),
        "torch": torch.__version__,
    }
    if known.estimated:
        found["estimated"] = True
    return found | known.told(target)


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
