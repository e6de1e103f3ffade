"""Client processes: started once, then given one plan after another."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any, Self

from bench.errors import BenchError
from bench.load.answers import Reference
from bench.load.frames import ProtocolFailed
from bench.load.link import ConnectFailed
from bench.load.plan import Plan
from bench.load.records import Records, Run
from bench.load.sender import Sender
from bench.load.steal import read_ticks, worst_share
from bench.progress import show
from service.client import Credentials, CredentialsInvalid

_START_SECONDS = 120.0  # a guard against a process that never comes up
_LEAD_SECONDS = 0.05  # from giving the start to the start
_TICK_SECONDS = 0.2
_GRACE_SECONDS = 30.0
_ENDED = "a client process ended unexpectedly"


class FleetFailed(BenchError):
    """A client process could not do its part; the message says why."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every process of a fleet is given.

    Attributes:
        host: Of the server.
        port: Of the server.
        messages: Framed requests.
        reference: The right answer to each; None compares nothing.
        credentials: TLS and token.
    """

    host: str
    port: int
    messages: tuple[bytes, ...]
    reference: Reference | None
    credentials: Credentials = field(default_factory=Credentials)


class Fleet:
    """Processes that send. Use as a context manager."""

    def __init__(self, work: Work, processes: int) -> None:
        """Prepare; the processes start on entering the context."""
        self._work = work
        self._count = processes
        self._members: list[tuple[Any, Pipe]] = []

    def __enter__(self) -> Self:
        """Start the processes and wait until each has connected.

        Raises:
            FleetFailed: One could not.
        """
        context = multiprocessing.get_context("spawn")
        try:
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
                with _deaf_to_ctrl_c():
                    process.start()
                theirs.close()
                self._members.append((process, ours))
            self._gather(_START_SECONDS)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self._stop()

    def run(self, plans: Sequence[Plan], doing: str = "") -> Run:
        """Let each process carry out its plan, all from one start.

        Args:
            plans: One per process.
            doing: Shown meanwhile; empty leaves what is shown as it is.

        Raises:
            FleetFailed: A process could not carry out its plan.
        """
        self._tell(plans)
        self._gather(_START_SECONDS)
        ticks = read_ticks()
        start = time.monotonic() + _LEAD_SECONDS  # one clock for all processes of a machine
        self._tell([start] * self._count)
        longest = max(plan.seconds + plan.drain_seconds for plan in plans)
        seconds = max(plan.seconds for plan in plans)

        def tick() -> None:
            if doing:
                show(doing, min(max(time.monotonic() - start, 0.0), seconds), seconds)

        try:
            parts: list[Run] = self._gather(longest + _GRACE_SECONDS, tick)
        finally:
            if doing:
                show("")
        records, cpu_share = Records.merged([part.records for part in parts]), max(part.cpu_share for part in parts)
        return Run(records, cpu_share, worst_share(ticks, read_ticks()))

    def _tell(self, words: Sequence[Any]) -> None:
        """Give each process its word."""
        for (_, pipe), word in zip(self._members, words, strict=True):
            try:
                pipe.send(word)
            except OSError:
                raise FleetFailed(_ENDED) from None

    def _gather(self, seconds: float, tick: Callable[[], None] = lambda: None) -> list[Any]:
        """Return the next message of each process."""
        said: dict[Pipe, Any] = {}
        give_up = time.monotonic() + seconds
        while len(said) < len(self._members):
            silent = [pipe for _, pipe in self._members if pipe not in said]
            for pipe in wait(silent, _TICK_SECONDS):
                assert isinstance(pipe, Pipe)
                said[pipe] = self._heard(pipe)
            tick()
            if time.monotonic() > give_up:
                raise FleetFailed(f"a client process did not answer within {seconds:.0f} s")
        return [said[pipe] for _, pipe in self._members]

    def _heard(self, pipe: Pipe) -> Any:
        try:
            word = pipe.recv()
        except (EOFError, OSError):
            raise FleetFailed(_ENDED) from None
        if isinstance(word, Exception):
            raise FleetFailed(str(word)) from None
        return word

    def _stop(self) -> None:
        for _, pipe in self._members:
            pipe.close()  # a process that waits for its next plan ends now
        give_up = time.monotonic() + 1.0
        for process, _ in self._members:
            process.join(max(0.0, give_up - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._members = []


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes that start now ignore Ctrl-C, which a terminal sends to all: each would print where it was."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Pipe, work: Work) -> None:
    """Run a client process: connect, then carry out plans until no more come."""
    try:
        reference = work.reference
        is_wrong = reference.differs if reference else None
        sender = Sender(work.host, work.port, work.messages, is_wrong, work.credentials)
        pipe.send("connected")
        while True:
            sender.prepare(pipe.recv())
            pipe.send("ready")
            pipe.send(sender.run(pipe.recv()))
    except (EOFError, ConnectionError):  # whoever sends plans has gone
        return
    except (ConnectFailed, CredentialsInvalid, ProtocolFailed) as error:
        pipe.send(FleetFailed(str(error)))
