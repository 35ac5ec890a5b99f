"""What a shell offers for a value: names of networks, families, devices, recipes and the like.

It has to be there at once, so that nothing here imports PyTorch: names that stand in rooms which do
are listed once more, and tests/test_shell.py compares them. Where no name fits, shells offer files.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.resources import files
from itertools import pairwise

FAMILIES = (
    "autoformer_t",
    "efficientnet_lite0",
    "mbv3_mini",
    "ofa_mbv3_w1.0",
    "ofa_mbv3_w1.2",
    "ofa_proxyless_w1.3",
    "ofa_resnet50",
    "vit",
    "vit_mini",
)
DEVICES = (
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "openvino-cpu",
    "executorch",
    "ncnn-cpu",
    "litert-cpu",
    "vela",
    "torch-cpu",
    "torch-cpu-compiled",
    "torch-cuda",
    "torch-cuda-compiled",
)
FORMATS = ("onnx", "pt2", "openvino", "executorch", "ncnn", "litert")
PRECISIONS = ("fp32", "int8", "bf16", "fp16")
DATA = ("fashion-mnist", "digits", "cifar10")
ASKED = "_ONCEFORALL_COMPLETE"  # by the scripts that --install-completion writes
SPLITTING = (":", "=")  # at which bash makes words, beside blanks


def _with_plugins(ours: tuple[str, ...], group: str) -> list[str]:
    return [*ours, *(plugin.name for plugin in entry_points(group=f"onceforall.{group}"))]


def families(incomplete: str) -> list[str]:
    """Once a letter is there: before that a folder is as likely."""
    return _with_plugins(FAMILIES, "families") if incomplete else []


def networks(incomplete: str) -> list[str]:
    """Both ends of each family, and what is published."""
    ends = [
        f"{name}:{end}"
        for name in _with_plugins(FAMILIES, "families")
        for end in ("largest", "smallest")
    ]
    return ends + published(incomplete)


def published(incomplete: str) -> list[str]:
    from onceforall.interop import zoo

    return [entry.id for entry in zoo.entries()]


def devices(incomplete: str) -> list[str]:
    return _with_plugins(DEVICES, "devices")


def formats(incomplete: str) -> list[str]:
    return _with_plugins(FORMATS, "formats")


def recipes(incomplete: str) -> list[str]:
    folder = files("onceforall").joinpath("training", "recipes")
    return ["auto", *sorted(p.name.removesuffix(".yaml") for p in folder.iterdir())]


def precision(incomplete: str) -> list[str]:
    return list(PRECISIONS)


def precisions(incomplete: str) -> list[str]:
    """Further ones after a comma."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + each for each in PRECISIONS if each not in before.split(",")]


def data(incomplete: str) -> list[str]:
    """As `families`."""
    return list(DATA) if incomplete else []


def as_bash_reads(run: Callable[[], object]) -> None:
    """Runs a completion for bash, which makes three words of `mbv3_mini:largest` and asks how the
    last one goes on: it runs with one word, and what bash has before the end is left out."""
    words = _joined(os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1])
    last = words[-1].partition("=")[2] if words[-1].startswith("--") else words[-1]
    known = max(last.rfind(mark) for mark in SPLITTING) + 1
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        run()
    print("\n".join(line[known:] for line in said.getvalue().splitlines()))


def _joined(words: list[str]) -> list[str]:
    joined = words[:1]
    for before, word in pairwise(words):
        if any(part and set(part) <= set(SPLITTING) for part in (before, word)):
            joined[-1] += word
        else:
            joined.append(word)
    return joined
