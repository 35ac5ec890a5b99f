"""A static network as a file that other runtimes read; the file is checked against PyTorch.

One file a format (`onnx`, `pt2`); `exporting` writes and checks. What is written and run is a
copy on the CPU, wherever the network is. Knows an `nn.Module`, never an arch.
"""

from onceforall.export.exporting import FORMATS, Exported, export
from onceforall.export.onnx import run_onnx, to_onnx

__all__ = [
    "FORMATS",
    "Exported",
    "export",
    "run_onnx",
    "to_onnx",
]
