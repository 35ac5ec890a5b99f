"""Runs of digits, trained for a moment."""

from pathlib import Path

from onceforall import data, training

CHANGES = [
    "resolutions=[12, 16]",
    "phases=[{name: all, steps: 120, lr: 0.1, archs: 3,"
    " kernel: 2, depth: 3, expand: 3, rule: sandwich, distil: 1.0}]",
]


def trained(folder: Path, *changes: str) -> Path:
    settings = training.load_settings("digits", [*CHANGES, *changes])
    training.train(folder, settings, data.load(settings.data))
    return folder
