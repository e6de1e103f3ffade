"""One turn: start a peer, see that it answers rightly, load it, see again, end it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.compare.clients import ClientFailed, Load
from bench.compare.results import LoadRow, StartRow, Turn
from bench.compare.sending import Programs, Sender, Sent
from bench.errors import PeerFailed
from bench.load.fleet import FleetFailed
from bench.peers import asking
from bench.peers.bare import Bare
from bench.peers.base import Case, Peer, Place
from bench.peers.process import Running
from bench.progress import show

_END_SECONDS = 10.0
FAULTS = (ClientFailed, FleetFailed, PeerFailed)


@dataclass(frozen=True, slots=True)
class Terms:
    """What all turns have in common.

    Attributes:
        seconds: Length of a measurement.
        programs: Clients.
        commit: Of this tree.
    """

    seconds: float
    programs: Programs
    commit: str


def reference(bare: Bare, case: Case, place: Place) -> tuple[int, ...]:
    """Return the classes that ONNX Runtime gives the case's rows, with one run per row.

    Raises:
        PeerFailed: It failed.
    """
    with Running(bare.command(case, place), place.folder / "log", pipes=True) as running:
        return tuple(_answers(running, case, place))


def take_turn(
    turn: Turn, peer: Peer, case: Case, place: Place, expected: tuple[int, ...], loads: Sequence[int], terms: Terms
) -> tuple[list[StartRow], list[LoadRow]]:
    """Measure a peer.

    Args:
        turn: Which turn it is.
        peer: The peer.
        case: The model.
        place: Where the peer runs.
        expected: Right classes of the case's rows.
        loads: Calls in flight, one measurement each.
        terms: What all turns have in common.

    Raises:
        PeerFailed: It did not come up, or answered wrongly.
        ClientFailed: A load gave no measurement.
    """
    if isinstance(peer, Bare):
        return [], bare_loop(turn, peer, case, place, loads, terms)
    show(f"{turn}: starting")
    with checked(peer, case, place, expected, terms) as (running, seconds, sender):
        start = StartRow(turn.peer, turn.model, turn.round, terms.commit, seconds, *running.memory_bytes())
        rows = []
        for in_flight in loads:
            show(f"{turn}: {in_flight} in flight")
            rows.append(_row(turn, in_flight, terms, sender.measure(in_flight, terms.seconds)))
    return [start], rows


@contextmanager
def checked(
    peer: Peer, case: Case, place: Place, expected: tuple[int, ...], terms: Terms
) -> Iterator[tuple[Running, float, Sender]]:
    """Run a peer, and check its answers before and after.

    Yields:
        The peer, the seconds from its start to its first right answer, and what sends load to it.

    Raises:
        PeerFailed: It did not come up, or answered wrongly.
    """
    with Running(peer.command(case, place), place.folder / "log") as running:
        seconds = asking.wait_right(peer, case, place, running, expected[0])
        answer_bytes = asking.check(peer, case, place, expected)
        yield running, seconds, Sender(peer, case, place, answer_bytes, running, terms.programs)
        asking.check(peer, case, place, expected)


def bare_loop(turn: Turn, peer: Bare, case: Case, place: Place, loads: Sequence[int], terms: Terms) -> list[LoadRow]:
    """Measure ONNX Runtime without a server.

    Args:
        turn: Which turn it is.
        peer: The loop that runs it.
        case: The model.
        place: Where the loop runs.
        loads: Rows at once, one measurement each.
        terms: What all turns have in common.

    Raises:
        PeerFailed: The loop ended.
    """
    measured = []
    with Running(peer.command(case, place), place.folder / "log", pipes=True) as running:
        _answers(running, case, place)
        for in_flight in loads:
            show(f"{turn}: {in_flight} rows at once")
            said = _ask(running, {"in_flight": in_flight, "seconds": terms.seconds, "best": peer.best})
            load = Load(said["answers"], said["seconds"], said["p50_ms"], said["p99_ms"])
            memory = running.memory_bytes()
            sent = Sent(load, said["cpu_seconds"] / load.answers * 1e6, *memory, "in process")
            note = f"{said['loops']} x batch {said['batch']}, {said['threads']} thread(s) a run"
            measured.append(_row(turn, in_flight, terms, sent, note))
    return measured


def _row(turn: Turn, in_flight: int, terms: Terms, sent: Sent, note: str = "") -> LoadRow:
    load = sent.load
    seen = (load.answers, load.per_second, load.p50_ms, load.p99_ms, sent.cpu_us, sent.rss_bytes, sent.pss_bytes)
    return LoadRow(turn.peer, turn.model, turn.round, in_flight, sent.client, terms.commit, *seen, note)


def _answers(running: Running, case: Case, place: Place) -> list[int]:
    rows = place.folder / "rows.npz"
    np.savez(rows, *case.rows)
    return [int(number) for number in _ask(running, {"answer": str(rows)})["top_1"]]


def _ask(running: Running, command: dict[str, Any]) -> dict[str, Any]:
    """Give the bare loop a command; return its answer.

    Raises:
        PeerFailed: The loop ended.
    """
    to, back = running.pipes
    try:
        to.write(json.dumps(command).encode() + b"\n")
        to.flush()
        line = back.readline()
    except OSError:
        line = b""
    if not line:
        running.process.wait(_END_SECONDS)
        running.check_alive()
    answer: dict[str, Any] = json.loads(line)
    return answer
