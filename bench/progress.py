"""A line on the terminal that says what goes on, with a bar where it is known how much of it is done."""

from __future__ import annotations

import sys
from typing import Any

_shown: list[Any] = []  # the progress of rich's that is on the terminal, if one is


def show(doing: str, done: float | None = None, total: float | None = None) -> None:
    """Show what goes on, in place of what was shown before; an empty text clears it.

    Nothing is shown without a terminal, or without rich, which numbers do not need.

    Args:
        doing: A few words.
        done: How much of ``total`` is done; None for as much as before.
        total: How much there is to do; None for as much as before, or if it is not known.
    """
    if not doing:
        while _shown:
            _shown.pop().stop()
        return
    if not _shown:
        try:
            from rich import progress  # noqa: PLC0415 - of the extra `bench`
            from rich.console import Console  # noqa: PLC0415
        except ModuleNotFoundError:
            return
        console = Console(file=sys.stderr)
        columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TimeRemainingColumn()
        _shown.append(progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal))
        _shown[0].add_task(doing, total=None)
        _shown[0].start()
    _shown[0].update(_shown[0].task_ids[0], description=doing, completed=done, total=total)
