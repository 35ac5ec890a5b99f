"""How much memory is free, of this machine or a GPU. Knows no images."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

SHARE = 0.25  # of the memory that is free: what images may take without being asked for


def free_bytes(device: torch.device | None = None) -> int | None:
    """For each of the processes that were started together on this machine; None: not known."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])  # a GPU each
    if device is not None and device.type != "cpu":
        return None
    known = [room for room in (_of_machine(), _of_group()) if room is not None]
    return min(known) // _processes() if known else None


def _processes() -> int:
    given = os.environ.get("LOCAL_WORLD_SIZE", "1")  # by torchrun
    return max(1, int(given)) if given.isdigit() else 1


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return None


def _of_group() -> int | None:
    """Of a container that may take so much (control groups, version 2)."""
    folder = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        most = int((folder / "memory.max").read_text(encoding="ascii"))  # "max": no limit
        taken = int((folder / "memory.current").read_text(encoding="ascii"))
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith("inactive_file "):  # given back when it is needed
                taken -= int(line.split()[1])
        return max(0, most - taken)
    return None
