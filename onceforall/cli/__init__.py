"""The command line: the only room that sees all the others.

Each file here holds the commands of one subject. Heavy imports stay inside the
commands, so that `--help` is quick. `main` turns errors into one line and a status: 2
for a mistake of the user's, 1 for a failure, 130 for Ctrl-C. Of several processes on one run
(`torchrun`) the first says what all of them know; what one alone knows, that one says.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Annotated, Any

import typer

from onceforall.errors import InputError, Lost, SharedError, Stopped, suggestion

app = typer.Typer(
    name="onceforall",
    help="Train one network once; take from it, in seconds and without retraining, the best"
    " sub-network for each device and budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    """Prints the versions of what a result depends on, and ends."""
    if wanted:
        from importlib.metadata import version
        from platform import python_version

        from onceforall import __version__

        print(f"onceforall {__version__} (torch {version('torch')}, Python {python_version()})")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version, and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


from onceforall.cli import (  # noqa: E402
    classifying,
    completing,
    devices,
    evaluation,
    networks,
    predictors,
    records,
    report,
    search,
    specialize,
    training,
    zoo,
)

app.command()(specialize.demo)
app.command()(training.train)
app.command()(training.finetune)
app.add_typer(records.records)
app.add_typer(predictors.fit)
app.command()(predictors.predict)
app.command()(search.search)
app.command()(specialize.specialize)
app.command()(report.report)
app.command()(networks.info)
app.command()(evaluation.evaluate)
app.command()(classifying.classify)
app.command()(devices.devices)
app.command()(devices.measure)
app.command()(networks.export)
app.command()(zoo.zoo)
app.command()(zoo.convert)

STOPPED = 130  # the status of a program that Ctrl-C ended


def main() -> None:
    """The `onceforall` command."""
    if os.environ.get(completing.ASKED) == "complete_bash":
        completing.as_bash_reads(partial(app, prog_name="onceforall", standalone_mode=False))
        return
    try:
        done = app(prog_name="onceforall", standalone_mode=False)
        if done == STOPPED:  # what typer makes of Ctrl-C
            _fail("stopped", STOPPED, shared=True)
    except InputError as error:
        _fail(str(error), 2, shared=isinstance(error, SharedError))
    except Stopped as error:
        _fail(str(error), STOPPED, shared=True)
    except Lost:
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "format_message"):  # a mistake in the arguments, found by typer
            _refuse(_mistake(error), "NoArgs" in type(error).__name__)
        if os.environ.get("ONCEFORALL_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.filename and error.strerror:
            _fail(f"{error.filename}: {error.strerror}", 2)
        hint = "(ONCEFORALL_TRACEBACK=1 shows where)"
        _fail(f"{type(error).__name__}: {error} {hint}", 1)


def _mistake(error: Any) -> str:
    """What typer found wrong; with the nearest option, where one is not known."""
    if getattr(error, "option_name", None) and hasattr(error, "possibilities"):
        known = [name for p in error.ctx.command.params for name in p.opts] if error.ctx else []
        return str(error.message) + suggestion(error.option_name, known)
    return str(error.format_message())


def _refuse(message: str, is_help: bool) -> None:
    """Help where no arguments were given, else one line; both on stderr, with status 2."""
    if is_help:
        print(message, file=sys.stderr)
        sys.exit(2)
    _fail(message, 2, shared=True)


def _fail(message: str, status: int, shared: bool = False) -> None:
    """One line on stderr, and the end; what all processes of a run say, the first says."""
    if not shared or os.environ.get("RANK", "0") == "0":
        print("onceforall: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
