"""Runtimes that tell their makers that they are used, imported so that they cannot.

On import ONNX Runtime (since 1.32 on Linux) and OpenVINO's tools leave an identity of the machine
in the home folder, and events that are sent later. Knows packages, nothing of networks.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

from onceforall.errors import MissingExtraError


def onnxruntime() -> Any:
    """The package onnxruntime."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when it is imported
    import onnxruntime

    return onnxruntime


def openvino() -> Any:
    """The package openvino.

    Raises:
        MissingExtraError: it is not installed.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it does without
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("openvino", "openvino", "OpenVINO") from None
    return openvino


def nncf() -> Any:
    """The package nncf, which quantises for OpenVINO.

    Raises:
        MissingExtraError: it, or OpenVINO, is not installed.
    """
    openvino()  # first: what NNCF tells, it tells by the same package
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # that there is no GPU is no news
    try:
        import nncf
    except ModuleNotFoundError:
        raise MissingExtraError("nncf", "openvino", "int8 for OpenVINO") from None
    finally:
        logger.setLevel(level)
    nncf.set_log_level(logging.ERROR)
    return nncf


def imported(package: str) -> Any:
    """Any package, by its name."""
    known = {"onnxruntime": onnxruntime, "openvino": openvino, "nncf": nncf}
    return known[package]() if package in known else importlib.import_module(package)
