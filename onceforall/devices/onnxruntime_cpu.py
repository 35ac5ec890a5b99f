"""ONNX Runtime on this machine's CPU: what `export` writes, run as its users run it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from onceforall.export import to_onnx


def prepare(
    network: nn.Module, example: Tensor, threads: int, precision: str
) -> Callable[[], object]:
    """A call that runs the network once on `example`, (N, ...)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx(network, tuple(example.shape[1:]), path)
        session = load_session(path, threads)
    feed = {session.get_inputs()[0].name: example.contiguous().numpy()}
    return lambda: session.run(None, feed)


def load_session(path: Path, threads: int) -> Any:
    """An inference session; threads wait without spinning, so that one that was timed does not
    disturb the next."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
