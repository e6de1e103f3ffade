"""The thin shell around the schedule and the connection: one thread, a socket, a clock.

It uses ``select``, which sleeps to the microsecond. An event loop uses epoll, which rounds up to the next millisecond,
so that every request would be sent late.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np

from bench.load.codes import NO_CONNECTION, UNANSWERED
from bench.load.http2 import Answer
from bench.load.link import Address, ConnectFailed, Link, Manner, begin_to_connect, connect
from bench.load.plan import Plan
from bench.load.records import Records, Run
from service.client import Credentials

_BURST = 32  # calls made before their bytes are written
_RETRY_SECONDS = 0.1
_PATIENCE_SECONDS = 0.5  # the longest sleep
_BEHIND_SECONDS = 10.0  # after the plan's end nothing more is sent: that would be no test of the server

IsWrong = Callable[[int, bytes], bool]


class _Log:
    """Notes about each request; its place in the arrays is its tag.

    Lists would take three times the memory, and a run may have millions of requests.
    """

    def __init__(self) -> None:
        self.sent = array("d")
        self.ended = array("d")
        self.code = array("h")
        self.wrong: list[int] = []  # tags

    def begin(self, sent: float) -> int:
        tag = len(self.code)
        self.sent.append(sent)
        self.ended.append(sent)
        self.code.append(UNANSWERED)
        return tag

    def records(self, instants: np.ndarray | None) -> Records:
        """Return what happened to the requests of these instants, or of none but their own."""
        sent = np.frombuffer(self.sent, dtype=np.float64)
        wrong = np.zeros(len(sent), dtype=bool)
        wrong[self.wrong] = True
        return Records(
            sent if instants is None else instants,
            sent,
            np.frombuffer(self.ended, dtype=np.float64),
            np.frombuffer(self.code, dtype=np.int16),
            wrong,
        )


class Sender:
    """Sends plans to one server, one after the other, and keeps its connection between them."""

    def __init__(
        self,
        host: str,
        port: int,
        messages: Sequence[bytes],
        is_wrong: IsWrong | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Connect.

        Args:
            host: Name or address.
            port: Of the server.
            messages: Framed requests; a plan picks among them.
            is_wrong: Tells of a pick whether a message is a wrong answer to it; None does not look at answers.
            credentials: TLS and token; None for neither.

        Raises:
            ConnectFailed: The server cannot be reached.
            CredentialsInvalid: A file of the credentials cannot be used.
        """
        self._manner = Manner.of(host, port, credentials or Credentials())
        self._messages = messages
        self._is_wrong = is_wrong
        made = connect(host, port, self._manner)
        self._link: Link | None = self._over(made, connecting=False)
        self._address: Address = made.family, made.getpeername()
        self._leaving: list[Link] = []  # connections that the server is closing
        self._retry_at = 0.0
        self._start = 0.0
        self.prepare(Plan(np.zeros(0, dtype=np.int64), None, 0, 0.0, None, 0.0))

    def prepare(self, plan: Plan) -> None:
        """Prepare for a plan, before its start is fixed."""
        self._plan = plan
        self._log = _Log()
        self._next = 0
        self._open = 0  # calls without an answer
        # Python's own numbers, as of lists, without a copy.
        self._instants: Sequence[float] | None = None if plan.instants is None else plan.instants.data
        self._picks: Sequence[int] = plan.picks.data
        self._retry_at = 0.0
        gc.collect()

    def run(self, start: float) -> Run:
        """Carry out the plan.

        Args:
            start: The instant of ``time.monotonic`` from which it counts.
        """
        self._start = start
        gc.disable()  # a collection would be lag
        try:
            cpu_share = self._loop()
        finally:
            gc.enable()
        return Run(self._log.records(self._plan.instants), cpu_share)

    def close(self) -> None:
        """Close every connection."""
        for link in self._links():
            link.socket.close()
        self._link, self._leaving = None, []

    def _loop(self) -> float:
        """Send and receive until all is answered or given up; return the share of a core that sending took."""
        give_up, cpu_share = float("inf"), 0.0
        cpu, wall = time.process_time(), time.monotonic()
        while True:
            now = self._now()
            wake = self._send_due(now)
            if wake is None:
                if give_up == float("inf"):
                    # Over the whole plan: a process without a request to send is done at once, and busy until then.
                    cpu_share = (time.process_time() - cpu) / max(time.monotonic() - wall, self._plan.seconds)
                    give_up = now + self._plan.drain_seconds
                if not self._open or now >= give_up:
                    break
                wake = give_up
            links = self._links()
            for link in links:
                self._guarded(link, link.flush)
            deadlines = [link.connection.next_deadline for link in links]
            wake = min([wake, *(instant for instant in deadlines if instant is not None)])
            self._wait(min(wake - self._now(), _PATIENCE_SECONDS))
        if self._open:  # nobody will listen to late answers: a new connection for the next run
            for link in self._links():
                self._settle(link.connection.abandon(NO_CONNECTION if link.connecting else UNANSWERED))
                link.socket.close()
            self._link, self._leaving = None, []
        return cpu_share

    def _wait(self, seconds: float) -> None:
        """Sleep until something arrives or the time is over; take in what arrived."""
        links = self._links()
        if not links:
            time.sleep(min(max(seconds, 0.0), _RETRY_SECONDS))
            return
        unsent = [link.socket for link in links if link.wants_to_write]
        readable, writable, _ = select.select([link.socket for link in links], unsent, [], max(seconds, 0.0))
        for link in links:
            if link.connecting:
                if link.socket in writable or link.socket in readable:
                    self._guarded(link, link.go_on)
            elif link.socket in readable:
                self._guarded(link, lambda link=link: self._read(link))  # type: ignore[misc]
            self._settle(link.connection.expire(self._now()))
        if self._link and self._link.connection.closing:
            self._leave(self._link)
        for link in [link for link in self._leaving if not link.connection.pending]:
            link.socket.close()
            self._leaving.remove(link)

    def _leave(self, link: Link) -> None:
        """Make no more calls on a connection; those that wait there for their turn move to the next one."""
        self._leaving.append(link)
        self._link = None
        for tag, message, deadline in link.connection.give_back():
            self._give(tag, message, self._now(), deadline)

    def _read(self, link: Link) -> None:
        data = link.read()
        self._settle(link.connection.receive(data, self._now()))

    def _guarded(self, link: Link, step: Callable[[], None]) -> None:
        """Take a step; if the connection is lost, its calls end without a gRPC status, since the server gave none."""
        try:
            step()
        except OSError:
            self._settle(link.connection.abandon(NO_CONNECTION))

    def _send_due(self, now: float) -> float | None:
        """Make the calls whose instant has come; return the next instant, None after the last."""
        if self._instants is None:
            return self._send_closed(now)
        instants, total = self._instants, len(self._instants)
        burst = 0
        while self._next < total and instants[self._next] <= now and burst < _BURST:
            self._call(instants[self._next], now)
            now = self._now()
            burst += 1
        if now > self._plan.seconds + _BEHIND_SECONDS:
            for _ in range(self._next, total):  # unanswered, with a lag that tells why
                self._log.begin(now)
            self._next = total
        return instants[self._next] if self._next < total else None

    def _send_closed(self, now: float) -> float | None:
        if now < 0:
            return 0.0
        if now >= self._plan.seconds:
            return None
        while self._open < self._plan.concurrency and self._connected(now) and now < self._plan.seconds:
            now = self._now()
            self._call(now, now)
        return self._plan.seconds

    def _call(self, intended: float, now: float) -> None:
        pick = self._picks[self._next % len(self._picks)]
        self._next += 1
        tag = self._log.begin(now)
        self._open += 1
        limit = self._plan.deadline_seconds
        self._give(tag, self._messages[pick], now, intended + limit if limit else None)

    def _give(self, tag: int, message: bytes, now: float, deadline: float | None) -> None:
        if self._ready(now) and self._link:
            self._link.connection.call(tag, message, now, deadline)
        else:
            self._settle([Answer(tag, NO_CONNECTION, b"")])

    def _ready(self, now: float) -> bool:
        """Tell whether there is a connection to make calls on; begin one if not, but not too often.

        Nothing waits for it, so that the instants of the coming calls do not change.
        """
        if self._link is None and now >= self._retry_at:
            self._retry_at = now + _RETRY_SECONDS
            try:
                self._link = self._over(begin_to_connect(self._address), connecting=True)
            except ConnectFailed:
                return False
        return self._link is not None

    def _connected(self, now: float) -> bool:
        """Tell whether there is an established connection; begin one if there is none, but not too often."""
        return self._ready(now) and self._link is not None and not self._link.connecting

    def _settle(self, answers: Sequence[Answer]) -> None:
        if not answers:
            return
        now = self._now()
        log = self._log
        for tag, code, body in answers:
            log.ended[tag] = now
            log.code[tag] = code
            if self._is_wrong and code == 0 and self._is_wrong(self._picks[tag % len(self._picks)], body):
                log.wrong.append(tag)
        self._open -= len(answers)

    def _links(self) -> list[Link]:
        return [*([self._link] if self._link else []), *self._leaving]

    def _over(self, made: socket.socket, *, connecting: bool) -> Link:
        return Link(made, self._manner, connecting=connecting, keep_bodies=self._is_wrong is not None)

    def _now(self) -> float:
        return time.monotonic() - self._start
