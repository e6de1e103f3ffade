"""What h2load, wrk and perf_analyzer said in real runs, read again."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from bench.compare import clients
from bench.compare.clients import ClientFailed
from bench.load.records import Records

RECORDED = Path(__file__).parent / "recorded"
SAID = (RECORDED / "h2load.txt").read_text()
ANSWER_BYTES = 784_147 // 9605 - 5  # what the recorded server answered with: 9,605 answers in so many bytes


def log(*rows: tuple[int, int]) -> str:
    """Return a log of answers that began at an instant and took so many microseconds."""
    return "".join(f"{1_795_515_914_000_000 + began}\t200\t{took}\n" for began, took in rows)


def test_h2load_is_read():
    load = clients.parse_h2load(SAID, (RECORDED / "h2load.log").read_text(), ANSWER_BYTES)
    assert load.answers == 400  # the recorded log is a piece of the whole
    assert 0 < load.p50_ms < load.p99_ms < 200
    assert load.per_second == load.answers / load.seconds


def test_the_window_of_h2load_is_from_the_first_start_to_the_last_end():
    load = clients.parse_h2load(SAID, log((0, 1000), (500, 2000), (2000, 3000)), ANSWER_BYTES)
    assert load.answers == 3
    assert load.seconds == pytest.approx(0.005)
    assert (load.p50_ms, load.p99_ms) == pytest.approx((2.0, 3.0))


@pytest.mark.parametrize(
    ("said", "answer_bytes", "message"),
    [
        (SAID, ANSWER_BYTES + 8, "some were errors"),  # gRPC's failures are HTTP 200 without a message
        (SAID.replace("0 failed", "7 failed"), ANSWER_BYTES, "7 calls failed"),
        (SAID.replace("0 errored", "3 errored"), ANSWER_BYTES, "3 were aborted"),
        ("32 succeeded, 0 failed, 0 errored, 0 timeout; (0) data", ANSWER_BYTES, "32 answers had 0 bytes"),
        ("could not connect", ANSWER_BYTES, "0 answers had 0 bytes"),
    ],
)
def test_errors_behind_h2load_are_seen(said: str, answer_bytes: int, message: str):
    with pytest.raises(ClientFailed, match=message):
        clients.parse_h2load(said, log((0, 1000)), answer_bytes)


def test_h2load_waits_for_answers_or_for_a_time():
    shared = ("h2load", "http://127.0.0.1:1/a/B", Path("body"), Path("log"), 16)
    assert "--requests=320" in clients.h2load_command(*shared, answers=320)
    timed = clients.h2load_command(*shared, seconds=1.5)
    assert "--duration=1500ms" in timed
    assert "--max-concurrent-streams=16" in timed


def test_wrk_is_read():
    load = clients.parse_wrk((RECORDED / "wrk.txt").read_text())
    assert (load.answers, load.seconds) == (4755, pytest.approx(1.010115))
    assert (load.p50_ms, load.p99_ms) == pytest.approx((3.339, 10.722))
    assert load.per_second == pytest.approx(4707.38, abs=0.01)  # as wrk itself says


def test_errors_behind_wrk_are_seen():
    with pytest.raises(ClientFailed, match="12091 answers were errors"):
        clients.parse_wrk((RECORDED / "wrk-errors.txt").read_text())
    with pytest.raises(ClientFailed, match="no result"):
        clients.parse_wrk("unable to connect to 127.0.0.1:8000 Connection refused")
    with pytest.raises(ClientFailed, match="nothing was answered"):
        clients.parse_wrk("RESULT requests=0 us=1000000 p50=0 p99=0 status=0 broken=0\n")


def test_the_script_of_wrk_sends_the_body():
    script = clients.wrk_script(Path("/somewhere/body"), "application/json")
    assert 'wrk.headers["Content-Type"] = "application/json"' in script
    assert 'io.open("/somewhere/body", "rb")' in script


def test_perf_analyzer_is_given_a_row_and_its_shape():
    row = np.arange(3, dtype=np.int64)
    (given,) = json.loads(clients.perf_analyzer_input("ids", row))["data"]
    assert given["ids"]["shape"] == [3]
    assert base64.b64decode(given["ids"]["b64"]) == row.tobytes()


def test_perf_analyzer_is_read():
    load = clients.parse_perf_analyzer((RECORDED / "perf_analyzer.txt").read_text(), 3.0)
    assert load.answers == 22_329
    assert load.per_second == pytest.approx(5991.32)
    assert (load.p50_ms, load.p99_ms) == pytest.approx((2.36, 6.847))


def test_why_perf_analyzer_failed_is_told():
    with pytest.raises(ClientFailed, match="perf_analyzer: failed to find the requested model version"):
        clients.parse_perf_analyzer("*** Measurement Settings ***\nfailed to find the requested model version\n", 3.0)


def test_percentiles_are_values_that_came():
    load = clients.load_of(np.arange(1, 101) * 1e-3, 2.0)
    assert (load.p50_ms, load.p99_ms, load.per_second) == pytest.approx((50.0, 99.0, 50.0))
    with pytest.raises(ClientFailed, match="nothing was answered"):
        clients.load_of([], 1.0)


def records(*entries: tuple[float, float, int]) -> Records:
    """Return records of calls that began, ended and had a status."""
    began, ended, code = (np.array(column) for column in zip(*entries, strict=True)) if entries else (np.zeros(0),) * 3
    return Records(began, began, ended, code, np.zeros(len(began), dtype=bool))


def test_our_own_client_is_read():
    load = clients.read_records(records((0.0, 0.5, 0), (0.5, 2.0, 0)))
    assert (load.answers, load.seconds, load.p50_ms, load.p99_ms) == (2, 2.0, 500.0, 1500.0)


def test_errors_behind_our_own_client_are_seen():
    with pytest.raises(ClientFailed, match="1 of 2 calls failed"):
        clients.read_records(records((0.0, 0.5, 0), (0.5, 2.0, -2)))
    with pytest.raises(ClientFailed, match="nothing was answered"):
        clients.read_records(records())
