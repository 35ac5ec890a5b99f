"""Commands run in this process, for tests."""

import json
from typing import Any

from typer.testing import CliRunner

from onceforall.cli import app


def run(*arguments: object) -> Any:
    """What a command prints with --json; an error is raised as it is."""
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--json")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
