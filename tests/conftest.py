"""Fixtures of all tests: where real data lies."""

import os
from pathlib import Path

import pytest
import torch

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import ONNX Runtime by themselves
ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # the networks are small; threads that wait for each other cost more


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Measurements and networks published by others; not part of the repository."""
    path = Path(os.environ.get("ONCEFORALL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "specialized.csv").is_file():
        pytest.skip(f"no published data at {path} (set ONCEFORALL_TEST_DATA)")
    return path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs for minutes is run only where it is asked for by name."""
    if "long" in config.option.markexpr:
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="runs for minutes: -m long"))
