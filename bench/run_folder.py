"""The folder of a run of ``compare`` or ``profile``: ``results.json`` holds every sample, and tables show it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import OptionsInvalid
from bench.peers.base import ROOT

Rows = list[list[str]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run, which may not exist yet.

    Attributes:
        path: Where it is.
        command: The command that writes it.
    """

    path: Path
    command: str

    @classmethod
    def at(cls, out: Path | None, command: str) -> RunFolder:
        """Return the folder of ``--out``, by default today's in ``bench/results``."""
        today = datetime.datetime.now(datetime.UTC).date()
        return cls(out or ROOT / "bench" / "results" / f"{today}-{command}", command)

    @property
    def results(self) -> Path:
        """The file that everything else in the folder is made from."""
        return self.path / "results.json"

    def read(self, parse: Callable[[Any], _T]) -> _T:
        """Read the results; ``parse`` makes them of what the JSON holds.

        Raises:
            OptionsInvalid: The file cannot be read, or holds something else.
        """
        try:
            return parse(json.loads(self.results.read_text()))
        except OSError as error:
            raise OptionsInvalid(f"{self.results}: {error.strerror}; --out names the folder of a run") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise OptionsInvalid(f"{self.results}: has no results of {self.command} ({what})") from None

    def write_results(self, head: Mapping[str, Any], rows: Mapping[str, Sequence[Any]]) -> None:
        """Write the results: the head, then lists of rows with one row a line. Dataclasses become objects.

        Raises:
            OptionsInvalid: They cannot be written.
        """
        text = json.dumps(head, indent=1, default=dataclasses.asdict)[:-2]
        for name, listed in rows.items():
            lines = ",\n  ".join(json.dumps(row, default=dataclasses.asdict) for row in listed)
            text += f',\n "{name}": [\n  {lines}\n ]' if lines else f',\n "{name}": []'
        self.write(self.results.name, text + "\n}\n")

    def write(self, name: str, text: str) -> None:
        """Write a file aside and rename it, so that a write that breaks off leaves the earlier one.

        Raises:
            OptionsInvalid: It cannot be written.
        """
        path, aside = self.path / name, self.path / f".{name}.aside"
        try:
            aside.write_text(text)
            os.replace(aside, path)
        except OSError as error:
            raise OptionsInvalid(f"{path}: {error.strerror}; give another --out") from None
        finally:
            with contextlib.suppress(OSError):  # it is there after an error or a signal only
                aside.unlink()


def document(tables: Sequence[tuple[str, Rows]], source: str, form: str) -> str:
    """Write tables with their titles, and on one line where they come from, as ``text`` or ``markdown``."""
    if form == "markdown":
        parts = [f"**{title}**\n\n{piped(rows)}" for title, rows in tables]
    else:
        parts = [f"{title}\n{aligned(rows)}" for title, rows in tables]
    return "\n\n".join([*parts, source])


def measured(when: str, machine: Mapping[str, Any], what: str) -> str:
    """Say on one line when, on which machine and of what something was measured."""
    cpu, cores, memory, kernel = (machine.get(name) for name in ("cpu", "cores", "memory_gb", "kernel"))
    return f"Measured {when}: {cpu or 'unknown CPU'}, {cores} cores, {memory} GB, {kernel}; {what}."


def number(value: float) -> str:
    """Write a number with three digits, as people would.

    >>> [number(value) for value in (38451.3, 123.4, 41.23, 4.567, 0.01234)]
    ['38,451', '123', '41.2', '4.57', '0.012']
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def aligned(rows: Rows) -> str:
    """Write a table for a terminal."""
    # A reason runs across the columns; it must not widen its own.
    plain = [row for row in rows if not row[1].startswith("failed: ")]
    widths = [max(len(row[place]) for row in plain) for place in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def piped(rows: Rows) -> str:
    """Write a table as Markdown."""
    shown = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [shown[0], ["---"] * len(shown[0]), *shown[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
