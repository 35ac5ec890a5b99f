"""What a call of `specialize` has done so far, so that an interrupted one is gone on with as if it
had not been: `Journal`.

Everything that was measured is found again in the run's records. What they do not say is which of
them were there when the call began: with that, the same archs are proposed and compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onceforall.errors import InputError
from onceforall.files import read_json, write_json
from onceforall.pipeline.evidence import Evidence, Start
from onceforall.progress import say

NAME = "specializing.json"  # in the folder of what is delivered, while it is not finished
VERSION = 2  # of that file; one of another version is begun anew


class Journal:
    """The file of a call that is not finished. A call with other arguments begins anew."""

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        """`arguments`: all that decides what a call finds, as plain data."""
        self.path = folder / NAME
        self._arguments = dict(arguments)
        self._begun: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            found = read_json(self.path)
            if not isinstance(found, dict) or "arguments" not in found:
                raise InputError(f"{self.path}: is not what an interrupted call left; remove it")
            if found["arguments"] == self._arguments and found.get("version") == VERSION:
                self._begun = found["begun"]
                say(f"{folder}: going on with a call that was interrupted")

    def start(self, device: str) -> Start | None:
        """The records that the interrupted call began with; None: it did not yet."""
        return Start(**self._begun[device]) if device in self._begun else None

    def begun(self, evidence: Evidence) -> None:
        """Notes the records that a device was begun with."""
        device = str(evidence.target)
        if device not in self._begun:
            self._begun[device] = dataclasses.asdict(evidence.start)
            kept = {"version": VERSION, "arguments": self._arguments, "begun": self._begun}
            write_json(self.path, kept, overwrite=True)

    def finished(self) -> None:
        """Leaves nothing: a later call uses all records."""
        self.path.unlink(missing_ok=True)
