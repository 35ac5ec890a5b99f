"""Fixtures of all tests: where real data lies, and photos to train on."""

import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_runs import trained
from filelock import FileLock
from PIL import Image

from onceforall.devices import measuring
from onceforall.devices.timing import STRETCH_SECONDS, time_calls
from onceforall.pipeline import specializing
from onceforall.supernet import scoring
from onceforall.training import validation

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import ONNX Runtime by themselves
ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # the networks are small; threads that wait for each other cost more
measuring.PAUSE_SECONDS = 0.05  # tests need no machine that comes to rest,
measuring.DISTURBED = math.inf  # nor one on which nothing else runs, nor exact times
scoring.CALIBRATION_IMAGES = validation.CALIBRATION = 250  # a fifth of the digits,
specializing.EVALUATIONS = 1000  # and of what is searched
measuring.time_calls = partial(time_calls, stretch_seconds=STRETCH_SECONDS / 4)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Measurements and networks published by others; not part of the repository."""
    path = Path(os.environ.get("ONCEFORALL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "specialized.csv").is_file():
        pytest.skip(f"no published data at {path} (set ONCEFORALL_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes of 24 images of noise, of 84 pixels and more."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in "abc":
        (folder / name).mkdir()
        for i in range(24):
            pixels = rng.integers(0, 256, (84, 92 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of digits, trained for a moment, once for all processes of tests; nothing is recorded
    of it: tests take copies."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "supernet.safetensors").exists():
            trained(folder)
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs for minutes is run only where it is asked for by name."""
    if "long" in config.option.markexpr:
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="runs for minutes: -m long"))
