"""The environment of LiteRT's converter, made when it is first needed, and the process in it.

`litert-torch` wants versions of PyTorch, JAX and more of its own, so it lives in a virtual
environment in the cache folder, and is spoken to through `litert_worker`. `ONCEFORALL_LITERT` may
name the Python of an environment that has it already; `no` refuses that one is made. Knows paths
and requests, no networks.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import IO, Any

from filelock import FileLock, Timeout

from onceforall.errors import InputError
from onceforall.files import cache_folder, write_json
from onceforall.progress import bar, busy, say

SWITCH = "ONCEFORALL_LITERT"
REQUIREMENTS = ("litert-torch>=0.10,<0.11", "torch>=2.11,<2.15")
SIZE = "2 GB, or 7 where pip's PyTorch comes with CUDA"
ENDS_SECONDS = 5  # that the process has to end by itself
WORKER = Path(__file__).with_name("litert_worker.py")
READY = "ready.json"  # in an environment that was tried


def folder() -> Path:
    """Where the environment is, or would be: one for each version of Python."""
    return cache_folder() / f"litert-torch-0.10-py{sys.version_info.major}.{sys.version_info.minor}"


def found() -> Path | None:
    """The Python of an environment that has the converter; None: it is still to be made."""
    given = os.environ.get(SWITCH, "")
    if given not in ("", "no"):
        return Path(given)
    return _python(folder()) if (folder() / READY).is_file() else None


def python() -> Path:
    """The Python of that environment, which is made now where there is none.

    Raises:
        InputError: it is refused, or cannot be made.
    """
    there = found()
    if there is not None:
        return there
    if os.environ.get(SWITCH) == "no":
        raise InputError(
            f"litert: its converter needs an environment of its own ({SIZE}), which {SWITCH}=no"
            f" refuses; unset it, or let it name a Python that has {REQUIREMENTS[0]}"
        )
    home = folder()
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.with_name(f"{home.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("litert: another process sets up the converter; waiting for it")
        lock.acquire()
    try:
        if not (home / READY).is_file():
            _set_up(home)
    finally:
        lock.release()
    return _python(home)


def _set_up(home: Path) -> None:
    say(
        f"litert: its converter gets an environment of its own, once: {SIZE}, in {home}"
        f" (Ctrl-C stops, the next time goes on; {SWITCH}=no refuses)"
    )
    if home.is_dir() and not _runs(_python(home)):
        shutil.rmtree(home)
    if not home.is_dir():
        _tell([sys.executable, "-m", "venv", str(home)], "an environment")
    pip = [str(_python(home)), "-I", "-m", "pip", "install", "--progress-bar", "off"]
    _tell([*pip, *REQUIREMENTS], "packages")
    with busy("litert: trying the converter"), Worker(_python(home)) as worker:
        version = worker.version
    write_json(home / READY, {"converter": version}, overwrite=True)
    say(f"litert: {version} is ready")


def _python(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _runs(interpreter: Path) -> bool:
    """Whether the environment is whole enough to be gone on with."""
    try:
        tried = [str(interpreter), "-I", "-m", "pip", "--version"]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _tell(command: list[str], making: str) -> None:
    """Runs a step of the making; its latest line is shown.

    Raises:
        InputError: it failed; names its last line.
    """
    last = ""
    with (
        bar(f"litert: {making}", None) as shown,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_plain_environment(),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last = line.strip() or last
                shown.note(last)
                shown.advance()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise InputError(
            f"litert: the converter's environment cannot be made: {last}"
            f" (exit status {process.returncode} of {' '.join(command[:5])} ...)"
        )


def _plain_environment() -> dict[str, str]:
    """Without what would lead another Python to this one's packages."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


class Worker:
    """The process that converts, from its first use to the end of this one.

    Raises:
        InputError: it does not start; names the last line it printed.
    """

    def __init__(self, interpreter: Path) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        try:
            self._process = subprocess.Popen(
                [str(interpreter), "-I", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=_plain_environment(),
                start_new_session=True,  # Ctrl-C is for us, who then end it
            )
        except OSError as error:
            self._log.close()
            raise InputError(f"{SWITCH}: {interpreter}: {error.strerror}") from None
        self.owner = os.getpid()
        self.version = str(self._answer()["ready"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer, which has `error` where it could not.

        Raises:
            InputError: the process ended.
        """
        assert self._process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # told by what it printed
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            return self._answer()
        except BaseException:
            self._process.kill()  # half-way through: its next answer would be to this request
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._log.seek(0)
        printed = self._log.read().decode(errors="replace").strip().splitlines()
        raise InputError(
            f"litert: the converter ended with status {status}:"
            f" {printed[-1].strip() if printed else 'it said nothing'}"
        )

    def close(self) -> None:
        if self.owner != os.getpid():  # of the process that this one was forked from
            return
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()  # it ends when there is no more to be read
        try:
            self._process.wait(ENDS_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


_WORKERS: list[Worker] = []  # none or one
_TURNS = RLock()


@contextmanager
def worker() -> Iterator[Worker]:
    """The one process that converts, for as long as a request takes; it stays for the next."""
    with _TURNS:
        if not _WORKERS or not _WORKERS[0].alive:
            _WORKERS.clear()
            interpreter = python()
            with busy("litert: starting the converter"):
                _WORKERS.append(Worker(interpreter))
            atexit.register(_WORKERS[0].close)
        yield _WORKERS[0]
