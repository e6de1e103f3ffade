"""A bar over the seconds of a run, on a terminal that has rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Progress = Callable[[float], None]


class Steps(Protocol):
    """Told how far a run of known steps is."""

    def begin(self, title: str) -> None:
        """Count the step before as done; begin one."""

    def say(self, doing: str) -> None:
        """Tell what is going on within it."""


@contextmanager
def bar(title: str, seconds: float) -> Iterator[Progress]:
    """Show a bar while the context lasts; yield what is to be told the seconds gone by."""
    try:
        from rich.console import Console  # noqa: PLC0415 - of the extra `bench`; numbers are had without it
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
    except ModuleNotFoundError:
        yield lambda _: None
        return
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=seconds)
        yield lambda gone: shown.update(task, completed=min(max(gone, 0.0), seconds))


class _Silent:
    def begin(self, title: str) -> None:
        pass

    def say(self, doing: str) -> None:
        pass


@contextmanager
def steps(title: str, total: int) -> Iterator[Steps]:
    """Show a bar over steps while the context lasts; without a terminal, or without rich, nothing."""
    try:
        from rich.console import Console  # noqa: PLC0415 - see above
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
    except ModuleNotFoundError:
        yield _Silent()
        return
    console = Console(file=sys.stderr)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=total)

        class Shown:
            begun = -1
            title = ""

            def begin(self, title: str) -> None:
                self.begun, self.title = self.begun + 1, title
                shown.update(task, completed=self.begun, description=title)

            def say(self, doing: str) -> None:
                shown.update(task, description=f"{self.title}: {doing}")

        yield Shown()
