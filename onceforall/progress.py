"""Progress bars: on stderr, and only on a terminal. Knows nothing of what is counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    T = TypeVar("T")


class Bar:
    """A bar of `total` steps; `advance` moves it, `note` is shown on the line below it."""

    def __init__(self, update: object, task: object) -> None:
        self._update, self._task = update, task

    def advance(self, steps: int = 1) -> None:
        if self._update is not None:
            self._update(self._task, advance=steps)  # type: ignore[operator]

    def note(self, text: str) -> None:
        if self._update is not None:
            self._update(self._task, note=text)  # type: ignore[operator]


@contextmanager
def bar(description: str, total: int | None, done: int = 0) -> Iterator[Bar]:
    """A bar with speed and time left while the block runs; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Bar(None, None)
        return
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Noted(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            for task in self.tasks:
                if task.fields["note"]:
                    yield Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Noted(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")
        yield Bar(progress.update, task)


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Says what goes on while the block runs, where its steps cannot be counted."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(file=sys.stderr).status(description):  # also where stderr is redirected within
        yield


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar that counts them."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as shown:
        for item in items:
            yield item
            shown.advance()


def say(text: str) -> None:
    """One line about the work, to stderr; a full disk or a terminal that is gone costs the line."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
