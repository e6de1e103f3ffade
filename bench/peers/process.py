"""A running peer: its processes, what they use, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Self

from bench.errors import PeerFailed
from bench.output import last_line
from bench.peers.base import ROOT, Command
from bench.peers.proc import Stat, family, parse_kilobytes, parse_stat

_TAG = "BENCH_RUN"  # in the environment of a peer's processes, wherever they end up in the tree
_STOP_SECONDS = 15.0
_TICK = os.sysconf("SC_CLK_TCK")
# All that a peer gets of this environment: other variables might change what it does.
_KEPT = ("HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "USER")


class Running:
    """A started command with all its processes. Use as a context manager; leaving it ends them all."""

    process: subprocess.Popen[bytes]
    begun: float

    def __init__(self, command: Command, log: Path, *, pipes: bool = False) -> None:
        """Prepare; it starts on entering the context.

        Args:
            command: What to start.
            log: File for its output.
            pipes: Whether its standard input and output are pipes to this process.
        """
        self._command, self._log, self._pipes = command, log, pipes
        self._tag = uuid.uuid4().hex

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            PeerFailed: There is no such program, or the log cannot be written.
        """
        command, pipes = self._command, self._pipes
        environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
        environment |= {"PATH": os.environ.get("PATH", ""), "ORT_DISABLE_TELEMETRY": "1", **command.variables}
        environment[_TAG] = self._tag
        self.begun = time.monotonic()
        try:
            with self._log.open("wb") as said:
                self.process = subprocess.Popen(
                    command.argv,
                    env=environment,
                    cwd=ROOT,
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else said,
                    stderr=said,
                    start_new_session=True,
                )
        except OSError as error:
            raise PeerFailed(f"{error.filename or command.argv[0]}: {error.strerror}") from None
        except BaseException:  # told to end before it is known what was started
            self._kill(stat.pid for stat in _stats() if self._is_tagged(stat.pid))
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all its processes."""
        self.stop()

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Its standard input and output."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def stats(self) -> list[Stat]:
        """Return the present statistics of each of its processes."""
        everything = [*_stats()]
        mine = family(self.process.pid, everything, [stat.pid for stat in everything if self._is_tagged(stat.pid)])
        return [stat for stat in everything if stat.pid in mine]

    def cpu_seconds(self) -> float:
        """Return the CPU time that its processes have used, user and system."""
        return sum(stat.ticks for stat in self.stats()) / _TICK

    def memory_bytes(self) -> tuple[int, int]:
        """Return the RAM of its processes: a page that several share counted for each, and divided among them (PSS)."""
        pids = [stat.pid for stat in self.stats()]
        rss = sum(parse_kilobytes(_read(pid, "status"), "VmRSS") for pid in pids)
        return rss, sum(parse_kilobytes(_read(pid, "smaps_rollup"), "Pss") for pid in pids)

    def last_words(self) -> str:
        """Return the last line of its output, for a message."""
        return last_line(self._log.read_text(errors="replace"))

    def check_alive(self) -> None:
        """Require that it runs.

        Raises:
            PeerFailed: It has ended.
        """
        code = self.process.poll()
        if code is not None:
            raise PeerFailed(f"it ended with {code}: {self.last_words()}")

    def stop(self) -> None:
        """End all its processes: ask first, then kill."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        pids = [stat.pid for stat in self.stats()]
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
        known = {*pids, *(stat.pid for stat in self.stats())}
        self._kill(pid for pid in known if self._is_tagged(pid) or pid == self.process.pid)
        self.process.wait()
        give_up = time.monotonic() + _STOP_SECONDS
        while [stat for stat in self.stats() if stat.pid != self.process.pid] and time.monotonic() < give_up:
            time.sleep(0.02)

    @staticmethod
    def _kill(pids: Iterable[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_tagged(self, pid: int) -> bool:
        return f"{_TAG}={self._tag}".encode() in _read_bytes(pid, "environ").split(b"\0")


def _stats() -> Iterator[Stat]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (text := _read(int(folder.name), "stat")):
            yield parse_stat(text)


def _read(pid: int, name: str) -> str:
    return _read_bytes(pid, name).decode(errors="replace")


def _read_bytes(pid: int, name: str) -> bytes:
    """Return a file of /proc; nothing if the process has ended, or is another user's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
