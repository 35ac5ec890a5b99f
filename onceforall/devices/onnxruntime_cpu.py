"""ONNX Runtime on this machine's CPU: ONNX files, as their users run them."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from onceforall.errors import InputError
from onceforall.export.onnx_int8 import is_quantised

if TYPE_CHECKING:
    from onceforall.devices import Target

PROFILED = 20  # runs that a profile is the mean of
WARMING = 5  # runs before them
_KERNEL = "_kernel_time"  # ends the name of what a node took


def open(file: Path, example: Tensor, target: Target) -> Callable[[], object]:
    """A call that runs the file once on `example`, (N, C, H, W).

    Raises:
        InputError: the file does not have the target's precision.
    """
    check_precision(file, target.precision)
    return _run(load_session(file, target.threads), example)


def profile(file: Path, example: Tensor, target: Target) -> list[tuple[str, str, float]]:
    """Of each node that runs: name, operation and milliseconds of one run (a mean); in their order.
    Nodes are those of ONNX Runtime, which joins some of the file's."""
    check_precision(file, target.precision)
    with tempfile.TemporaryDirectory() as folder:
        session = load_session(file, target.threads, profile_in=Path(folder))
        run = _run(session, example)
        for _ in range(WARMING + PROFILED):
            run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)  # milliseconds, of each run
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            node = event["name"].removesuffix(_KERNEL)
            spent[node, event["args"]["op_name"]].append(event["dur"] / 1e3)
    return [(*node, sum(times[-PROFILED:]) / PROFILED) for node, times in spent.items()]


def check_precision(file: Path, precision: str) -> None:
    """Raises InputError unless the file has it."""
    if is_quantised(file) != (precision == "int8"):
        there = "int8" if precision != "int8" else "fp32"
        raise InputError(f"{file}: its precision is {there}, not {precision}")


def load_session(path: Path, threads: int, profile_in: Path | None = None) -> Any:
    """An inference session; threads wait without spinning, so that one that was timed does not
    disturb the next."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_in is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_in / "profile")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: Any, example: Tensor) -> Callable[[], object]:
    feed = {session.get_inputs()[0].name: example.contiguous().numpy()}
    return lambda: session.run(None, feed)
