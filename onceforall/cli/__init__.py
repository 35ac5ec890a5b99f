"""The command line: the only room that sees all the others.

Each file here holds the commands of one subject. Heavy imports stay inside the
commands, so that `--help` is quick. `main` turns errors into one line and a status: 2
for a mistake of the user's, 1 for a failure, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys

import typer

from onceforall.errors import InputError

app = typer.Typer(
    name="onceforall",
    help="Train one network once; take from it, in seconds and without retraining, the best"
    " sub-network for each device and budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

from onceforall.cli import networks, predictors, records, specialize, training, zoo  # noqa: E402

app.command()(specialize.demo)
app.command()(networks.info)
app.command()(training.train)
app.command()(networks.evaluate)
app.command()(networks.measure)
app.command()(networks.export)
app.add_typer(records.records)
app.command()(specialize.specialize)
app.command()(zoo.zoo)
app.command()(zoo.convert)
app.add_typer(predictors.fit)
app.command()(predictors.predict)


def main() -> None:
    """The `onceforall` command."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except Exception as error:
        if os.environ.get("ONCEFORALL_TRACEBACK"):
            raise
        hint = "(ONCEFORALL_TRACEBACK=1 shows where)"
        _fail(f"{type(error).__name__}: {error} {hint}", 1)


def _fail(message: str, status: int) -> None:
    print("onceforall: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)
