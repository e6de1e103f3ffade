"""A bar over the seconds of a run, on a terminal that has rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float], None]


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
