"""The threads of a server's process, any of which may end while it is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def of_each_thread(pid: int, look: Callable[[int], T]) -> dict[int, T]:
    """Return what ``look`` finds for each thread, by its native id; those that end meanwhile are left out."""
    found: dict[int, T] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            found[int(task.name)] = look(int(task.name))
    return found
