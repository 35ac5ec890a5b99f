"""What a call of `specialize` has done so far, so that an interrupted one is gone on with as if it
had not been: `Journal`.

Everything that was measured is found again in the run's records. What they do not say is which of
them the predictors were fitted on when the call began; with that, search proposes the same archs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onceforall.errors import InputError
from onceforall.files import read_json, write_json
from onceforall.pipeline.evidence import Evidence, FittedOn
from onceforall.progress import say

NAME = "specializing.json"  # in the folder of what is delivered, while it is not finished


class Journal:
    """The file of a call that is not finished. A call with other arguments begins anew."""

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        """`arguments`: all that decides what a call finds, as plain data."""
        self.path = folder / NAME
        self._arguments = dict(arguments)
        self._fitted: dict[str, list[int]] = {}
        if self.path.exists():
            found = read_json(self.path)
            if not isinstance(found, dict) or "arguments" not in found:
                raise InputError(f"{self.path}: is not what an interrupted call left; remove it")
            if found["arguments"] == self._arguments:
                self._fitted = found["fitted_on"]
                say(f"{folder}: going on with a call that was interrupted")

    def fitted_on(self, device: str) -> FittedOn | None:
        """The records that the interrupted call fitted its predictors on; None: it did not yet."""
        return FittedOn(*self._fitted[device]) if device in self._fitted else None

    def begun(self, evidence: Evidence) -> None:
        """Notes what the predictors of a device were fitted on."""
        device = str(evidence.target)
        if device not in self._fitted:
            counts = [len(evidence.score_labels), len(evidence.latency_labels)]
            self._fitted[device] = counts
            kept = {"arguments": self._arguments, "fitted_on": self._fitted}
            write_json(self.path, kept, overwrite=True)

    def finished(self) -> None:
        """Leaves nothing: a later call uses all records."""
        self.path.unlink(missing_ok=True)
