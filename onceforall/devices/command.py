"""Any device that a command reaches: a phone behind `adb`, a board behind `ssh`, a vendor's
simulator.

Its `description` says which commands are run for a file and how latencies are found in what they
print. A command that hangs, fails or prints no latency is run again, and what it printed is quoted
when that does not help; all that was ever printed is kept in a file. Knows a file and what commands
print, never a network or an arch.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from onceforall.devices.description import MILLISECONDS, Description, describe
from onceforall.errors import InputError
from onceforall.files import cache_folder

if TYPE_CHECKING:
    from onceforall.devices import Target

T = TypeVar("T")
QUOTED = 3  # last lines of what a command printed, in an error


def open(file: Path, example: Tensor, target: Target) -> Command:
    """What times the file, by commands.

    Raises:
        InputError: the description is wrong, or has no place for what the target asks.
    """
    description = describe(target.device)
    for name, asked in (("threads", target.threads), ("batch", len(example))):
        if asked != 1 and f"{{{name}}}" not in description.run:
            raise description.wrong("run", f"has no {{{name}}}, so {name} can only be 1")
    return Command(description, file.resolve(), target.threads, len(example))


def provenance(target: Target) -> dict[str, str]:
    """What its times are of: the device by its name, and the command that runs a file."""
    description = describe(target.device)
    digest = hashlib.sha256(description.run.encode()).hexdigest()[:8]
    return {
        "machine": description.name,
        "system": "behind a command",
        "processor": description.name,
        "runtime": f"{shlex.split(description.run)[0]} {digest}",
    }


class Command:
    """A file on a device that commands reach, brought there once and removed by `close`, or when
    nobody has this any more. `facts` grow as commands are run; `printed` in them names the file
    that keeps all they printed."""

    def __init__(self, description: Description, file: Path, threads: int, batch: int) -> None:
        self._steps = _Steps(description, file, threads, batch)
        self._there = False  # the file, on the device
        self.facts: dict[str, Any] = {"printed": str(self._steps.log)}
        self.close = weakref.finalize(self, self._steps.clean)

    def __call__(self) -> None:
        """One run, with what must come before it."""
        self._measured(0.0, 1)

    def times(self, seconds: float) -> list[float]:
        """Milliseconds of single runs (or of what one command calls one), of at least one command
        and of as many as begin within `seconds`.

        Raises:
            InputError: a command failed, hung or printed no latency, also when it was run again.
        """
        return self._measured(seconds, self._steps.description.runs)

    def _measured(self, seconds: float, runs: int) -> list[float]:
        if not self._there:
            self._steps.told("upload")
            self.facts = {**facts_of(self._steps), **self.facts}
            self._there = True
        found: list[float] = []
        end = time.monotonic() + seconds
        while not found or time.monotonic() < end:
            found += self._steps.latencies(runs)
        return found


class _Steps:
    """The commands of a description, for one file; of which a copy is kept for as long."""

    def __init__(self, description: Description, file: Path, threads: int, batch: int) -> None:
        self.description = description
        self._kept = TemporaryDirectory()
        for part in file.parent.glob(f"{glob.escape(file.stem)}.*"):
            shutil.copy(part, self._kept.name)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        self.log = cache_folder() / "commands" / f"{_plain(description.name)}-{digest}.log"
        self._places = {
            "file": str(Path(self._kept.name) / file.name),
            "folder": self._kept.name,
            "name": f"onceforall-{digest}{file.suffix}",
            "threads": str(threads),
            "batch": str(batch),
            "runs": str(description.runs),
        }

    def latencies(self, runs: int) -> list[float]:
        """Milliseconds, as one command prints them."""
        places = {**self._places, "runs": str(runs)}
        return self._retried(lambda: self._found(self._once("run", places)))

    def told(self, step: str) -> str:
        """What a step prints; a step that there is not prints nothing."""
        if not self.description.words(step):
            return ""
        return self._retried(lambda: self._once(step, self._places))

    def clean(self) -> None:
        """What is left over there disturbs nobody: an error before this one is worth more."""
        if self.description.words("clean"):
            try:
                self._once("clean", self._places)
            except InputError as error:
                self._keep(str(error))

    def _retried(self, act: Callable[[], T]) -> T:
        for left in range(self.description.retries, -1, -1):
            try:
                return act()
            except InputError:
                if not left:
                    raise
                time.sleep(self.description.pause)
        raise AssertionError("no attempt")

    def _once(self, step: str, places: Mapping[str, str]) -> str:
        """What a command prints.

        Raises:
            InputError: it is not there, fails, or is not done in time.
        """
        words = [_filled(word, places) for word in self.description.words(step)]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise self.description.wrong(step, f"{words[0]}: {error.strerror}") from None
        late = False
        try:
            printed, _ = process.communicate(timeout=self.description.timeout)
        except subprocess.TimeoutExpired:
            late = True
            _kill(process)
            printed, _ = process.communicate()
        except BaseException:  # Ctrl-C: the command is in a session of its own
            _kill(process)
            process.wait()
            raise
        self._keep(f"$ {shlex.join(words)}\n{printed}# status {process.returncode}")
        if late:
            raise self._failed(step, f"not done after {self.description.timeout:g} s", printed)
        if process.returncode:
            raise self._failed(step, f"ended with status {process.returncode}", printed)
        return printed

    def _found(self, printed: str) -> list[float]:
        """The latencies in what was printed, ms."""
        try:
            if self.description.pattern:
                raw = re.findall(self.description.pattern, printed, re.M)
            else:
                raw = _at(_json(printed), self.description.json)
            found = [float(v) * MILLISECONDS[self.description.unit] for v in raw]
        except (ValueError, TypeError, LookupError) as error:
            raise self._failed("run", f"no latency in it ({error})", printed) from None
        if not found:
            raise self._failed("run", "no latency in what it printed", printed)
        if not all(math.isfinite(ms) and ms > 0 for ms in found):
            raise self._failed("run", "a latency that is none", printed)
        return found

    def _failed(self, step: str, what: str, printed: str) -> InputError:
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        told = " | ".join(lines[-QUOTED:])[-300:] or "nothing"
        return self.description.wrong(step, f"{what}; it printed: {told} (all in {self.log})")

    def _keep(self, text: str) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(text.rstrip("\n") + "\n")


def _filled(word: str, places: Mapping[str, str]) -> str:
    """The word with its places filled, in one go: what is filled in is not looked at again."""
    return re.sub(r"\{(\w+)\}", lambda match: places[match[1]], word)


def _kill(process: subprocess.Popen[str]) -> None:
    """It and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (OSError, AttributeError):  # gone already, or a platform without groups
        process.kill()


def _json(printed: str) -> Any:
    """All that was printed, or the last line that is JSON by itself."""
    for text in (printed, *reversed(printed.splitlines())):
        try:
            read = json.loads(text)
        except ValueError:
            continue
        if isinstance(read, dict | list):
            return read
    raise ValueError("no JSON")


def _at(value: Any, path: str) -> list[Any]:
    """What is at the path; a key of a list is looked up in all its members."""
    found = [value]
    for key in path.split("."):
        below: list[Any] = []
        for v in found:
            if isinstance(v, list) and not key.isdigit():
                below += [member[key] for member in v]
            else:
                below.append(v[int(key)] if isinstance(v, list) else v[key])
        found = below
    return [w for v in found for w in (v if isinstance(v, list) else [v])]


def facts_of(steps: _Steps) -> dict[str, str]:
    """What the device says of itself: lines `key: value`, or else a text that is its name."""
    printed = steps.told("facts")
    pairs = [re.fullmatch(r"\s*(\w+)\s*[:=]\s*(.*?)\s*", line) for line in printed.splitlines()]
    found = {pair[1]: pair[2] for pair in pairs if pair}
    return {"device": " ".join(printed.split()) or steps.description.name, **found}


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
