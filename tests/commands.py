"""Commands run in this process, for tests."""

import contextlib
import io
import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from onceforall.cli import app, main


def typed(*arguments: object, cwd: Path | None = None) -> CompletedProcess[str]:
    """What `onceforall ARGUMENTS` says and ends with; a process of its own takes seconds to start.
    COLUMNS are 200, so that no line is broken."""
    words = [str(a) for a in arguments]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as around:
        around.enter_context(contextlib.redirect_stdout(out))
        around.enter_context(contextlib.redirect_stderr(err))
        around.enter_context(patch("sys.argv", ["onceforall", *words]))
        around.enter_context(patch.dict("os.environ", COLUMNS="200"))
        if cwd is not None:
            around.enter_context(contextlib.chdir(cwd))
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return CompletedProcess(words, status, out.getvalue(), err.getvalue())


def run(*arguments: object) -> Any:
    """What a command prints with --json; an error is raised as it is."""
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--json")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
