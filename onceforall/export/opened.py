"""An exported file as a network: run by the runtime of its format, with what it says of itself.

Knows files and images; nothing of archs, or of how long it takes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from onceforall.errors import InputError, choices
from onceforall.export.formats import format_of, formats


class Opened(nn.Module):
    """The network in a file: (N, C, H, W) float32 on the CPU -> outputs (N, classes, ...).

    Attributes:
        facts: what the file says, as plain data: arch, resolution, classes, mean, std, ...

    Raises:
        InputError: no file of a known format, damaged, or its runtime is not installed.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        super().__init__()
        form = format_of(path)
        if form is None:
            known = choices(f.suffix for f in formats().values())
            raise InputError(f"{path}: is no exported file; their names end with {known}")
        self.path, self.form = path, form
        self.facts = {key: _value(text) for key, text in form.read_facts(path).items()}
        self._run = form.load(path, threads)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)

    @property
    def resolution(self) -> int:
        """Of its images, pixels."""
        return int(self.fact("resolution"))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.fact("classes"))

    @property
    def channels(self) -> int:
        return int(self.facts["channels"] if "channels" in self.facts else len(self.fact("mean")))

    def fact(self, name: str) -> Any:
        """Raises InputError where the file does not say it."""
        if name not in self.facts:
            raise InputError(f"{self.path}: does not say its {name}; it was written by others")
        return self.facts[name]


def is_exported(name: str) -> bool:
    """Whether a name is that of a file that is there, in one of the formats."""
    path = Path(name)
    return format_of(path) is not None and path.is_file()


def _value(text: str) -> Any:
    """What `facts.texts` made a text of."""
    try:
        return json.loads(text)
    except ValueError:
        return text
