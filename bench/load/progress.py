"""Bars over a run, on a terminal where rich is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float], None]
Update = Callable[..., None]


class Steps:
    """Shows how far a run of known steps is."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._begun = -1
        self._title = ""

    def begin(self, title: str) -> None:
        """Begin a step; the one before is done."""
        self._begun, self._title = self._begun + 1, title
        self._update(completed=self._begun, description=title)

    def say(self, doing: str) -> None:
        """Show what the present step is doing."""
        self._update(description=f"{self._title}: {doing}")


@contextmanager
def bar(title: str, seconds: float) -> Iterator[Progress]:
    """Show a bar over a time while the context lasts; call what it yields with the seconds that have passed."""
    with _shown(title, seconds) as update:
        yield lambda passed: update(completed=min(max(passed, 0.0), seconds))


@contextmanager
def steps(title: str, total: int) -> Iterator[Steps]:
    """Show a bar over a number of steps while the context lasts."""
    with _shown(title, total) as update:
        yield Steps(update)


@contextmanager
def _shown(title: str, total: float) -> Iterator[Update]:
    """Yield what updates a bar of rich's; it does nothing without rich."""
    try:
        from rich import progress as rich  # noqa: PLC0415 - of the extra `bench`, which numbers do not need
        from rich.console import Console  # noqa: PLC0415
    except ModuleNotFoundError:
        yield lambda **_: None
        return
    console = Console(file=sys.stderr)
    with rich.Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=total)
        yield lambda **change: shown.update(task, **change)
