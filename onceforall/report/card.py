"""A delivered network's card for people to read: `card.md`, of what `card.json` holds.

Knows plain data, nothing of networks or of how they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL, CROP = 64, 0.875  # pixels up to which whole images are taken; the share of larger ones

_RUN_ONNX = """\
import numpy, onnxruntime
from PIL import Image, ImageOps
image = ImageOps.fit(Image.open("IMAGE").convert("{mode}"), ({size}, {size}), 2, {bleed})
x = (numpy.asarray(image, "f4").reshape({size}, {size}, {channels}) / 255 - {mean}) / {std}
session = onnxruntime.InferenceSession("{file}")
print(session.run(None, {{"image": x.transpose(2, 0, 1)[None].astype("f4")}})[0])
"""
_RUN = """\
import torch, pathlib
from onceforall.export import Opened
network = Opened(pathlib.Path("{file}"))  # with its facts: network.facts, network.classes
image = torch.zeros(1, {channels}, {size}, {size})  # pixels / 255, less {mean}, over {std}
print(network(image))
"""


def markdown(card: Mapping[str, Any], metric: str, label: str, unit: str) -> str:
    """The text.

    Args:
        card: what `card.json` holds.
        metric, label, unit: what networks are scored by, such as top1, top-1, %.
    """
    data = card["data"]
    size = int(str(card["arch"]).partition("@")[2].partition("/")[0])
    mebibytes = (card["file_bytes"] or 0) / 2**20
    least = "at least " if card["uncovered"] else ""
    rows = [
        ("device", card["device"]),
        ("runtime", f"{card['runtime']}, {card['processor']}"),
        (f"{label} predicted", _shown(card[f"{metric}_predicted"], unit) + _change(card)),
        *([(f"{label} predictor's prior", f"`{card['prior']}`")] if card.get("prior") else []),
        (f"{label} on validation images", _shown(card[f"{metric}_validation"], unit)),
        (f"{label} on {card['test_images']} test images", _shown(card[f"{metric}_test"], unit)),
        ("latency predicted", f"{card['latency_predicted_ms']:.4g} ms"),
        (
            "latency measured",
            f"{card['latency_measured_ms']:.4g} ms"
            + (" (something else kept the machine busy)" if card["disturbed"] else ""),
        ),
        ("parameters", f"{card['params']:,}"),
        ("multiply-adds", f"{least}{card['macs']:,}"),
        ("file", f"`{card['file']}`, {mebibytes:.2f} MiB, {card['precision']}"),
        ("against PyTorch", _agreement(card)),
        ("images", f"{data['channels']} x {size} x {size}, of {data['name']}"),
        ("arch", f"`{card['arch']}`"),
        ("supernet", f"`{card['supernet']}`"),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    classes = ", ".join(str(name).replace("`", "'") for name in data["classes"][:20])
    more = f" and {len(data['classes']) - 20} more" if len(data["classes"]) > 20 else ""
    return (
        f"# {card['name']}\n\n| | |\n|---|---|\n{table}\n\n"
        f"Classes: {classes}{more}.\n\n"
        f"To run it:\n\n```python\n{_lines(card, size)}```\n\n"
        f"or `onceforall classify {card['file']} IMAGE`.\n"
    )


def _lines(card: Mapping[str, Any], size: int) -> str:
    """A few lines of Python that run the file."""
    data = card["data"]
    lines = _RUN_ONNX if str(card["file"]).endswith(".onnx") else _RUN
    return lines.format(
        file=card["file"],
        size=size,
        channels=data["channels"],
        mode="L" if data["channels"] == 1 else "RGB",
        bleed=0.0 if size <= SMALL else (1 - CROP) / 2,
        mean=data["mean"],
        std=data["std"],
    )


def _change(card: Mapping[str, Any]) -> str:
    """Which part of the prediction is the precision's."""
    if card.get("precision_change") is None:
        return ""
    change, archs = card["precision_change"], card["precision_archs"]
    others = f"{archs} other networks" if archs > 1 else "one other network"
    return f" (of it {change:+.2f} for {card['precision']}, by {others})"


def _agreement(card: Mapping[str, Any]) -> str:
    alike = "" if card["agreement"] is None else f"; {100 * card['agreement']:.1f}% of images alike"
    return f"outputs differ by {card['max_abs_diff']:.2g}{alike}"


def _shown(value: float, unit: str) -> str:
    return f"{value:.2f}%" if unit == "%" else f"{value:.4g} {unit}".strip()
