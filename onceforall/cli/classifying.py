"""The command `classify`: an exported file on images, as whoever received it would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.common import Json, emit
from onceforall.errors import InputError

TOP = 5  # classes that are shown


def classify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported network.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Classes of each image.")] = TOP,
    as_json: Json = False,
) -> None:
    """Runs an exported file on images, with its own normalisation and names of classes.

    Example: onceforall classify runs/mine/specialized/onnxruntime-cpu/8ms/network.onnx cat.jpg
    """
    import torch

    from onceforall.data import FileImages, Normalisation, in_order
    from onceforall.export import Opened

    if not file.is_file():
        raise InputError(f"{file}: no such file")
    for path in images:
        if not path.is_file():
            raise InputError(f"{path}: no such image")
    network = Opened(file)
    classes = network.classes
    normalisation = Normalisation(tuple(network.fact("mean")), tuple(network.fact("std")))
    read = FileImages(images, [0] * len(images), normalisation, network.channels)
    found: list[list[dict[str, object]]] = []
    for x, _ in read.stream(in_order(range(len(images)), 16, network.resolution)):
        for scores in torch.softmax(network(x), 1):
            best = scores.topk(min(top, len(scores)))
            rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            found.append([{"class": classes[i], "score": round(s, 6)} for i, s in rows])
    damaged = set(read.unreadable)
    if damaged:
        raise InputError(f"{min(damaged)}: cannot be read as an image")
    results = [
        {"image": str(path), "classes": best} for path, best in zip(images, found, strict=True)
    ]
    lines = [
        f"{path}: "
        + ", ".join(f"{row['class']} {100 * float(str(row['score'])):.1f}%" for row in best)
        for path, best in zip(images, found, strict=True)
    ]
    emit({"images": results, "file": str(file)}, as_json, "\n".join(lines))
