"""Runs load clients, and reads what the server used meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.compare import clients
from bench.compare.clients import ClientFailed, Load
from bench.load import plan
from bench.load.fleet import Fleet, Work
from bench.load.http2 import framed
from bench.output import last_line
from bench.peers.base import Case, Peer, Place
from bench.peers.process import Running

_GRACE_SECONDS = 60.0
_SETTLE_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_IDLE = 0.3  # of a core: some servers poll where they have nothing to do
_TERMS = plan.Terms(inputs=1, processes=1, deadline_seconds=None, drain_seconds=30.0)


@dataclass(frozen=True, slots=True)
class Programs:
    """The clients to use.

    Attributes:
        grpc: ``h2load``, ``perf_analyzer``, or ``load`` for our own.
        path: Of that program; empty for our own.
        wrk: Path of wrk; None if it is missing.
    """

    grpc: str
    path: str
    wrk: str | None


def find_programs(wanted: str, among: Sequence[str] = ("h2load", "perf_analyzer")) -> Programs:
    """Look for clients.

    Args:
        wanted: A name; ``auto`` takes the first that is installed, or our own if none is.
        among: The programs to choose from, the cheapest first.

    Raises:
        ClientFailed: The wanted one is not installed.
    """
    where = {name: shutil.which(name) for name in among}
    if wanted == "auto":
        wanted = next((name for name, path in where.items() if path), "load")
    if wanted != "load" and where[wanted] is None:
        remedy = {"h2load": "apt install nghttp2-client", "perf_analyzer": "pip install perf-analyzer"}[wanted]
        raise ClientFailed(f"--client {wanted}: not found on the PATH; {remedy}")
    return Programs(wanted, where.get(wanted) or "", shutil.which("wrk"))


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a load.

    Attributes:
        load: What the client saw.
        cpu_us: CPU of the server's processes for an answer.
        rss_bytes: Their memory halfway through.
        pss_bytes: The same, shared pages divided.
        client: Name of the client.
    """

    load: Load
    cpu_us: float
    rss_bytes: int
    pss_bytes: int
    client: str


class Sender:
    """Sends one request again and again to one peer, with the client that speaks its protocol."""

    def __init__(
        self, peer: Peer, case: Case, place: Place, answer_bytes: int, running: Running, programs: Programs
    ) -> None:
        """Prepare the files that clients read.

        Args:
            peer: The peer to send to.
            case: The model, whose first row is sent.
            place: Where the peer listens, and where the files go.
            answer_bytes: Size of a right answer.
            running: The peer.
            programs: Clients.

        Raises:
            ClientFailed: No client for the peer's protocol is installed.
        """
        self._peer, self._case, self.place, self.running = peer, case, place, running
        self._answer_bytes, self._programs = answer_bytes, programs
        self._message = peer.request(case, case.rows[0])
        self._body, self._log, self._script = (place.folder / name for name in ("body", "client.log", "load.lua"))
        if peer.door == "http":
            if programs.wrk is None:
                raise ClientFailed("wrk, which measures HTTP, is not on the PATH: apt install wrk")
            self._body.write_bytes(self._message)
            self._script.write_text(clients.wrk_script(self._body, peer.content_type))
        else:
            self._body.write_bytes(framed(self._message))

    def measure(self, in_flight: int, seconds: float, beside: AbstractContextManager[object] | None = None) -> Sent:
        """Warm the server up, let it become idle, measure.

        Args:
            in_flight: Calls.
            seconds: Length of the measurement.
            beside: Entered when the measurement begins, left when it is over.

        Raises:
            ClientFailed: There was no measurement.
            PeerFailed: The server ended.
        """
        if self._peer.door == "http":
            way = self._wrk
        else:
            way = {"h2load": self._h2load, "perf_analyzer": self._perf_analyzer}.get(self._programs.grpc, self._own)
        return way(in_flight, seconds, beside or nullcontext())

    def _wrk(self, in_flight: int, seconds: float, beside: AbstractContextManager[object]) -> Sent:
        assert self._programs.wrk is not None
        url = f"http://127.0.0.1:{self.place.port}{self._peer.path}"
        shared = (self._programs.wrk, url, self._script, in_flight)
        return self._timed(partial(clients.wrk_command, *shared), clients.parse_wrk, seconds, beside)

    def _perf_analyzer(self, in_flight: int, seconds: float, beside: AbstractContextManager[object]) -> Sent:
        if self._case.encoded:
            raise ClientFailed("perf_analyzer can send only tensors: use h2load")
        data = self.place.folder / "input.json"
        data.write_text(clients.perf_analyzer_input(self._case.input, self._case.rows[0]))
        shared = (self._programs.path, f"127.0.0.1:{self.place.port}", self._case.name, data, in_flight)
        parse = partial(clients.parse_perf_analyzer, seconds=seconds)
        return self._timed(partial(clients.perf_analyzer_command, *shared), parse, seconds, beside)

    def _timed(
        self, command: Callable[[float], list[str]], parse: Callable[[str], Load], seconds: float,
        beside: AbstractContextManager[object],
    ) -> Sent:  # fmt: skip
        """Run a client that sends for a time, at whose end some requests stay unanswered: CPU is of a window within."""
        self._settle()
        self._ran(command(1.0), 1.0)
        self._settle()
        with beside:
            said, memory, cores = self._ran(command(seconds), seconds)
        load = parse(said)
        return Sent(load, cores / load.per_second * 1e6, *memory, Path(command(seconds)[0]).name)

    def _h2load(self, in_flight: int, seconds: float, beside: AbstractContextManager[object]) -> Sent:
        """Find out the rate, then wait for as many answers as come in that time, so that no call is begun in vain."""
        url = f"http://127.0.0.1:{self.place.port}{self._peer.path}"
        shared = (self._programs.path, url, self._body, self._log, in_flight)
        trial = min(1.0, seconds)
        self._log.unlink(missing_ok=True)  # it adds to what is there
        self._ran(clients.h2load_command(*shared, seconds=trial), trial)
        answers = max(2 * in_flight, round(self._log.read_text().count("\n") / trial * seconds))
        self._log.unlink()
        self._settle()
        with beside:
            before = self.running.cpu_seconds()
            said, memory, _ = self._ran(clients.h2load_command(*shared, answers=answers), seconds)
            cpu_seconds = self.running.cpu_seconds() - before
        load = clients.parse_h2load(said, self._log.read_text(), self._answer_bytes)
        return Sent(load, cpu_seconds / load.answers * 1e6, *memory, "h2load")

    def _own(self, in_flight: int, seconds: float, beside: AbstractContextManager[object]) -> Sent:
        """Let our own client send, from one process."""
        with Fleet(Work("127.0.0.1", self.place.port, (framed(self._message),), None), 1) as fleet:
            for length, around in ((min(1.0, seconds), nullcontext()), (seconds, beside)):
                plans = plan.closed_loop(in_flight, length, 0, _TERMS)
                with around:
                    before = self.running.cpu_seconds()
                    records = fleet.run(plans).records
                    cpu_seconds = self.running.cpu_seconds() - before
        load = clients.read_records(records)
        memory = self.running.memory_bytes()
        return Sent(load, cpu_seconds / load.answers * 1e6, *memory, "convserve-bench load")

    def _settle(self) -> None:
        """Wait until the server is as good as idle, so that what a client left behind is not counted."""
        give_up = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < give_up:
            before = self.running.cpu_seconds()
            time.sleep(_LOOK_SECONDS)
            if self.running.cpu_seconds() - before < _IDLE * _LOOK_SECONDS:
                return

    def _ran(self, command: Sequence[str], seconds: float) -> tuple[str, tuple[int, int], float]:
        """Run a client; return what it printed, the server's memory, and the cores it used in the middle half."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
            try:
                _pause(client, seconds / 4)
                begun, before = time.monotonic(), self.running.cpu_seconds()
                _pause(client, seconds / 4)
                memory = self.running.memory_bytes()
                _pause(client, seconds / 4)
                ended, after = time.monotonic(), self.running.cpu_seconds()
                said, _ = client.communicate(timeout=2 * seconds + _GRACE_SECONDS)
            except BaseException as error:
                client.kill()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ClientFailed(f"{Path(command[0]).name} did not end: the server hangs") from None
                raise
        self.running.check_alive()
        if client.returncode:
            raise ClientFailed(f"{Path(command[0]).name} ended with {client.returncode}: {last_line(said)}")
        return said, memory, (after - before) / (ended - begun)


def _pause(client: subprocess.Popen[str], seconds: float) -> None:
    """Wait so long, or until the client ends: it may be done early, or fail at once."""
    try:
        client.wait(seconds)
    except subprocess.TimeoutExpired:
        return
