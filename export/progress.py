"""Progress of training: a bar per run, only on a terminal, and a line per epoch."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from export.run import EpochRecord


class Reporter(Protocol):
    """Receives the progress of a run."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """One step of an epoch is done; ``step`` counts from 1."""
        ...

    def epoch(self, record: EpochRecord, is_best: bool) -> None:
        """An epoch is done and evaluated on the held-out part."""
        ...


class Bar:
    """A rich progress bar over all steps of all epochs. Use as a context."""

    def __init__(self, console: Console, title: str, epochs: int) -> None:
        """Prepare the bar. It appears when the context is entered, and only on a terminal."""
        self._epochs = epochs
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar: TaskID = self._progress.add_task(title, total=None, loss=0.0)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """See :class:`Reporter`."""
        self._progress.update(self._bar, total=steps * self._epochs, completed=(epoch - 1) * steps + step, loss=loss)

    def epoch(self, record: EpochRecord, is_best: bool) -> None:
        """See :class:`Reporter`."""
        mark = "  best so far" if is_best else ""
        self._progress.console.print(
            f"epoch {record.epoch:3d}/{self._epochs}  loss {record.loss:.4f}  "
            f"held-out loss {record.held_out_loss:.4f}  held-out accuracy {record.held_out_accuracy:.4f}  "
            f"{record.seconds:.1f} s{mark}",
            highlight=False,
        )
