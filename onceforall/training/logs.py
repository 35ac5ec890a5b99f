"""What a run says of itself: a line of JSON every few steps, a progress bar, TensorBoard.

Running means are kept where the losses are; only `read` waits for the device.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onceforall.errors import MissingExtraError
from onceforall.files import write_text
from onceforall.progress import say
from onceforall.supernet.tasks import Metric
from onceforall.training import guards

METRICS = "metrics.jsonl"  # in a run's folder
BOARD = "tensorboard"  # likewise
KEPT = 0.95  # of a running mean, from step to step


class Reading(NamedTuple):
    """What the device had counted."""

    loss: float
    metric: float
    in_a_row: int  # steps at the end that were passed over, as their gradients were not finite
    skipped: int  # all of those since the last reading
    speed: float  # images a second


class Meter:
    """Running means of loss and metric of a step's last network, and counts of bad steps, all on
    the device."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.loss: Tensor | None = None
        self.sums: Tensor | None = None
        self.in_a_row: Tensor = torch.zeros(())
        self.skipped: Tensor = torch.zeros(())
        self.images = 0
        self.since = time.monotonic()

    @torch.no_grad()
    def add(self, loss: Tensor, sums: Tensor, bad: Tensor, images: int) -> None:
        sums = sums.double()
        if self.loss is None or self.sums is None:
            self.loss, self.sums = loss.clone(), sums.clone()
            self.in_a_row, self.skipped = self.in_a_row.to(loss), self.skipped.to(loss)
        mean = KEPT * self.loss + (1 - KEPT) * loss
        mean = torch.where(self.loss.isfinite(), mean, loss)
        self.loss = torch.where(bad, self.loss, mean)
        self.sums = KEPT * self.sums + sums
        self.in_a_row = (self.in_a_row + 1) * bad
        self.skipped = self.skipped + bad
        self.images += images

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While the block does something else than to train."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def read(self) -> Reading:
        """Waits for the device."""
        if self.loss is None or self.sums is None:
            return Reading(float("nan"), float("nan"), 0, 0, 0.0)
        numbers = torch.stack([self.loss, self.in_a_row, self.skipped]).tolist()
        now = time.monotonic()
        speed = self.images / max(1e-9, now - self.since)
        self.images, self.since = 0, now
        self.skips()
        value = self.metric.values(self.sums.cpu())[self.metric.name]
        return Reading(numbers[0], value, int(numbers[1]), int(numbers[2]), speed)

    def skips(self) -> int:
        """Steps that were passed over since the last time. Waits for the device."""
        found, self.skipped = int(self.skipped), self.skipped * 0
        return found


class Log:
    """The file of metrics, and what else shows them. A full disk costs lines, no run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self.latest: dict[str, Any] = {}
        self.failed = False
        self.board: Any = None

    def show_on_board(self, step: int) -> None:
        """TensorBoard gets what is written from now on, in place of what it had after this step."""
        self.board = need_board()(str(self.path.parent / BOARD), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        self.latest = {**self.latest, **line}
        text = json.dumps(line) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self.failed else "") + text)
            if self.board is not None:
                for name, value in line.items():
                    if isinstance(value, int | float) and name != "step":
                        self.board.add_scalar(name, value, line["step"])
            self.failed = False
        except OSError as error:
            if not self.failed:
                say(f"{self.path}: cannot be written: {error.strerror}; lines are lost, no steps")
            self.failed = True

    def cut(self, step: int) -> None:
        """Drops lines of steps that are taken again, and what a crash cut short or damaged.

        Raises:
            InputError: it cannot be written.
        """
        if not self.path.exists():
            return
        before, kept = self.path.read_text(encoding="utf-8", errors="replace"), ""
        for text in before.splitlines():
            line = _parsed(text)
            if line is not None and line["step"] <= step:
                kept += text + "\n"
                self.latest = {**self.latest, **line}
        if kept != before:
            with guards.written(self.path):
                write_text(self.path, kept, overwrite=True)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _parsed(text: str) -> dict[str, Any] | None:
    """A line of metrics; None: it is none."""
    with suppress(ValueError, RecursionError):
        line = json.loads(text)
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            return line
    return None


def scores_shown(scores: Mapping[str, float], metric: Metric, alone: bool) -> str:
    """Validation scores as people read them: "93.4% largest, 88.8% smallest"; of a network alone
    without a name."""
    return ", ".join(
        f"{value:.1f}{metric.unit}"
        + ("" if alone else f" {name.removeprefix(f'{metric.name}_').replace('_', ' ')}")
        for name, value in scores.items()
    )


def need_board() -> Any:
    """What writes for TensorBoard.

    Raises:
        InputError: it is not installed; says how to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "tensorboard", "tensorboard: true") from None
    return SummaryWriter


def memory_bytes(device: torch.device) -> int:
    """The most that was in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
