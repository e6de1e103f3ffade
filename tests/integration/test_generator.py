"""The generator of load against servers that die: it keeps its schedule, and says what became of every request."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trustme

from bench.load import frames
from bench.load import sender as module
from bench.load.codes import NO_CONNECTION, UNANSWERED
from bench.load.frames import frame_bytes
from bench.load.http2 import framed
from bench.load.plan import Plan
from bench.load.records import Run, Summary, generator_limit
from bench.load.sender import Sender
from service.client import Credentials
from tests.fakes import TickingClock
from tests.integration.harness import DEADLINE_SECONDS


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as made:
        yield made


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt to connect is given up so late that whoever waited for it would be found out on any machine."""
    monkeypatch.setattr("bench.load.link._CONNECT_SECONDS", DEADLINE_SECONDS)


def connected(listener: socket.socket) -> tuple[Sender, socket.socket]:
    """Return a sender that has connected, and the server's end."""
    sender = Sender("127.0.0.1", listener.getsockname()[1], [framed(b"")])
    accepted, _ = listener.accept()
    return sender, accepted


def plan(concurrency: int | None = None) -> Plan:
    """Return 40 calls within a second, or a closed loop of half a second."""
    instants = np.arange(40) / 40 if concurrency is None else None
    return Plan(np.zeros(40, dtype=np.int64), instants, concurrency or 0, 0.5, None, 0.2)


def ran(sender: Sender, what: Plan) -> tuple[Run, float]:
    """Let it send; return what it saw, and the seconds it took."""
    sender.prepare(what)
    start = time.monotonic()
    part = sender.run(start)
    sender.close()
    return part, time.monotonic() - start


def test_a_server_that_is_gone_is_no_refusal(listener: socket.socket):
    sender, accepted = connected(listener)
    listener.close()
    accepted.close()
    part, _ = ran(sender, plan())
    assert set(part.records.code) == {NO_CONNECTION}
    assert len(part.records.code) == 40


def test_a_server_that_hangs_up_in_the_middle_is_no_refusal(listener: socket.socket):
    sender, accepted = connected(listener)
    sender.prepare(plan())
    with accepted:
        accepted.shutdown(socket.SHUT_WR)
        listener.close()
        part = sender.run(time.monotonic())
    sender.close()
    assert NO_CONNECTION in part.records.code
    assert set(part.records.code) <= {NO_CONNECTION, UNANSWERED}


@pytest.mark.usefixtures("patience")
def test_connecting_in_vain_makes_no_call_late(listener: socket.socket):
    """The queue of the listener is full: what would connect hears nothing, as behind a firewall that drops."""
    sender, accepted = connected(listener)
    with ExitStack() as full:
        for _ in range(3):
            filler = full.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        accepted.close()
        part, seconds = ran(sender, plan())
    assert seconds < DEADLINE_SECONDS / 2
    assert (part.records.sent - part.records.intended).max() < DEADLINE_SECONDS / 2
    assert set(part.records.code) == {NO_CONNECTION}


@pytest.mark.usefixtures("patience")
def test_tls_that_does_not_come_about_makes_no_call_late(listener: socket.socket, tmp_path: Path):
    """The server is connected to and then says nothing: nobody waits for its part of the handshake."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2"])
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def shake_hands() -> None:
        with listener.accept()[0] as accepted, context.wrap_socket(accepted, server_side=True):
            pass

    server = threading.Thread(target=shake_hands)
    server.start()
    credentials = Credentials(ca=tmp_path / "ca.pem")
    sender = Sender("127.0.0.1", listener.getsockname()[1], [framed(b"")], None, credentials)
    server.join()
    part, seconds = ran(sender, plan())
    assert seconds < DEADLINE_SECONDS / 2
    assert (part.records.sent - part.records.intended).max() < DEADLINE_SECONDS / 2
    assert set(part.records.code) == {NO_CONNECTION}


def test_a_process_without_requests_is_not_busy(listener: socket.socket):
    sender, accepted = connected(listener)
    with accepted:
        part, seconds = ran(sender, Plan(np.zeros(0, dtype=np.int64), np.zeros(0), 0, 10.0, None, 0.2))
    assert seconds < 5
    assert part.cpu_share < 0.5
    assert not len(part.records.code)


def timed(monkeypatch: pytest.MonkeyPatch, busy_seconds: float = 0.0) -> TickingClock:
    """Give the sender a clock by which every look takes a quarter of a second, and so much CPU before it idles."""
    clock = TickingClock(0.0)
    used = SimpleNamespace(monotonic=clock, sleep=lambda _: None, process_time=lambda: min(clock.now, busy_seconds))
    monkeypatch.setattr(module, "time", used)
    return clock


def test_a_process_that_cannot_keep_up_stops_and_says_so(listener: socket.socket, monkeypatch: pytest.MonkeyPatch):
    """It makes four calls a second and is asked for a hundred: to go on to the end would take it a minute."""
    sender, accepted = connected(listener)
    clock = timed(monkeypatch)
    with accepted:
        sender.prepare(Plan(np.zeros(200, dtype=np.int64), np.arange(200) / 100, 0, 2.0, None, 0.5))
        part = sender.run(0.0)
    sender.close()
    assert clock.now < 25
    assert part.records.intended.tolist() == (np.arange(200) / 100).tolist(), "each is accounted for"
    assert set(part.records.code) == {UNANSWERED}
    summary = Summary.of(part.records, 2.0, None)
    assert (summary.offered, summary.failed) == (200, 200)
    assert "the generator was the limit" in (generator_limit(summary, part.cpu_share, 1.0) or "")


def test_waiting_for_the_last_answer_makes_no_process_less_busy(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    sender, accepted = connected(listener)
    timed(monkeypatch, busy_seconds=8.0)
    with accepted:
        sender.prepare(Plan(np.zeros(1, dtype=np.int64), None, 4, 8.0, None, 8.0))
        part = sender.run(0.0)
    sender.close()
    assert set(part.records.code) == {UNANSWERED}
    assert part.cpu_share > 0.8


def test_a_closed_loop_waits_for_a_connection(listener: socket.socket):
    sender, accepted = connected(listener)
    listener.close()
    accepted.close()
    part, seconds = ran(sender, plan(concurrency=2))
    assert 0.4 < seconds < DEADLINE_SECONDS
    assert len(part.records.code) <= 4  # those of the connection that was lost
    assert set(part.records.code) <= {NO_CONNECTION}


def test_calls_go_on_when_the_server_is_back(listener: socket.socket):
    sender, accepted = connected(listener)
    accepted.close()
    sender.prepare(plan())
    listener.settimeout(DEADLINE_SECONDS)
    part = sender.run(time.monotonic())
    with listener.accept()[0] as again:
        assert again.recv(24).startswith(b"PRI * HTTP/2.0")
    sender.close()
    assert part.records.code[-1] == UNANSWERED  # sent to a server that says nothing


def test_calls_that_wait_on_a_connection_that_ends_go_to_the_next(listener: socket.socket):
    sender, accepted = connected(listener)
    accepted.sendall(frame_bytes(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.MAX_CONCURRENT_STREAMS, 1)))
    sender.prepare(Plan(np.zeros(1, dtype=np.int64), np.zeros(1), 0, 0.1, 0.1, 1.0))
    assert sender.run(time.monotonic()).records.code.tolist() == [4]  # its deadline: the connection stays
    accepted.sendall(frame_bytes(frames.GOAWAY, 0, 0, struct.pack(">II", 1, 0)))
    sender.prepare(Plan(np.zeros(10, dtype=np.int64), np.zeros(10), 0, 0.1, None, 0.2))
    listener.settimeout(DEADLINE_SECONDS)
    part = sender.run(time.monotonic())
    assert sorted(part.records.code.tolist()) == [UNANSWERED] * 9 + [14]  # one was begun on the connection that ended
    with accepted, listener.accept()[0] as again:
        opened = b""
        again.settimeout(0.5)
        while data := again.recv(1 << 16):
            opened += data
    sender.close()
    assert opened.count(b"ModelInfer") == 9


def test_an_address_of_ip_6_is_told_in_brackets():
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        sender = Sender("::1", listener.getsockname()[1], [framed(b"")])
        with listener.accept()[0] as accepted:
            ran(sender, plan())
            accepted.settimeout(DEADLINE_SECONDS)
            assert f"[::1]:{listener.getsockname()[1]}".encode() in accepted.recv(1 << 16)
