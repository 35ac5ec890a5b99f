"""Several processes of one run, forked from a test: they have imported what it has."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from onceforall.training import Group

FORKS = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(),
    reason="forks, which autograd's threads of a GPU do not outlive",
)
LONGEST = 120  # seconds that a test waits for processes, which take a few


def forked(work: Callable[[int], None], processes: int, said: Path) -> list[tuple[int, str]]:
    """For each of so many processes the status with which it ended, and its stderr."""
    said.mkdir(exist_ok=True)
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                sys.stderr = (said / f"{rank}").open("w", buffering=1)
                os.dup2(sys.stderr.fileno(), 1)
                os.dup2(sys.stderr.fileno(), 2)
                work(rank)
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                os._exit(status)
        pids.append(pid)
    return [(_status(pid), (said / f"{rank}").read_text()) for rank, pid in enumerate(pids)]


def _status(pid: int) -> int:
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("a process waits for ever")


def grouped(work: Callable[[Group], None], folder: Path, processes: int = 2) -> None:
    """Does something in the processes of a group; all must end well."""

    def joined(rank: int) -> None:
        store = f"file://{folder / 'store'}"
        torch.distributed.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=processes
        )
        work(Group(rank, processes))

    found = forked(joined, processes, folder / "said")
    assert [status for status, _ in found] == [0] * processes, found
