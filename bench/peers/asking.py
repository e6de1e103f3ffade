"""A client that checks answers, however long that takes."""

from __future__ import annotations

import http.client
import time
from typing import Any

import grpc

from bench.errors import PeerFailed
from bench.peers.base import Case, Peer, Place
from bench.peers.process import Running

_READY_SECONDS = 120.0
_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.01


def ask(peer: Peer, place: Place, body: bytes, seconds: float = _ANSWER_SECONDS) -> bytes:
    """Send one request; return the answer.

    Raises:
        PeerFailed: It answered with an error, or not at all.
    """
    return _ask_grpc(peer, place, body, seconds) if peer.door == "grpc" else _ask_http(peer, place, body, seconds)


def check(peer: Peer, case: Case, place: Place, expected: tuple[int, ...]) -> int:
    """Compare the answers to all rows with the reference; return the bytes of the first answer.

    Raises:
        PeerFailed: One differs.
    """
    sizes = []
    for number, (row, right) in enumerate(zip(case.rows, expected, strict=True)):
        answer = ask(peer, place, peer.request(case, row))
        came = peer.top_1(case, answer)
        if came != right:
            raise PeerFailed(f"its answer to row {number} is class {came}, expected {right} as ONNX Runtime answers")
        sizes.append(len(answer))
    return sizes[0]


def wait_right(peer: Peer, case: Case, place: Place, running: Running, right: int) -> float:
    """Ask the first row until the answer is right; return the seconds since the start.

    Raises:
        PeerFailed: It ended, or never answered rightly.
    """
    body = peer.request(case, case.rows[0])
    give_up = running.begun + _READY_SECONDS
    problem = "it did not listen"
    while time.monotonic() < give_up:
        running.check_alive()
        try:
            if peer.top_1(case, ask(peer, place, body, 5.0)) == right:
                return time.monotonic() - running.begun
            problem = "it answered wrongly"
        except PeerFailed as failed:
            problem = str(failed)
        time.sleep(_PAUSE_SECONDS)
    raise PeerFailed(f"not ready within {_READY_SECONDS:.0f} s: {problem}; {running.last_words()}")


def _ask_grpc(peer: Peer, place: Place, body: bytes, seconds: float) -> bytes:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{place.port}", options) as channel:
        try:
            call: Any = channel.unary_unary(peer.path)
            answer: bytes = call(body, timeout=seconds)
        except grpc.RpcError as error:
            raise PeerFailed(f"{error.code().name}: {(error.details() or '')[:160]}") from None
    return answer


def _ask_http(peer: Peer, place: Place, body: bytes, seconds: float) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=seconds)
    try:
        connection.request("POST", peer.path, body, {"Content-Type": peer.content_type})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise PeerFailed(f"no answer ({type(error).__name__})") from None
    finally:
        connection.close()
    if response.status != 200:
        raise PeerFailed(f"HTTP {response.status}: {answer[:160].decode(errors='replace')}")
    return answer
