"""A static network as a file that other runtimes read; the file is checked against PyTorch.

One file a format, and a table of them (`formats`); `exporting` writes and checks. What is written
and run is a copy on the CPU, wherever the network is. Knows an `nn.Module`, never an arch.
"""

from onceforall.export.exporting import Exported, copied, export, write_for_timing
from onceforall.export.formats import Format, format_named, format_of, formats
from onceforall.export.onnx import to_onnx
from onceforall.export.opened import Opened, is_exported

__all__ = [
    "Exported",
    "Format",
    "Opened",
    "export",
    "format_named",
    "format_of",
    "formats",
    "is_exported",
    "copied",
    "to_onnx",
    "write_for_timing",
]
