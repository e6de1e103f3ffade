from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest

from service.batching.keeping import cached_facts
from service.batching.request import BatchFacts, PendingRequest
from service.logs import JsonFormatter
from service.transport.access_log import AccessLog, Allowance, fields
from service.transport.call_record import CallRecord, EndedCall
from service.transport.recorder import Recorder
from tests.fakes import RecordingReply

METHOD = "/inference.GRPCInferenceService/ModelInfer"
FACTS = BatchFacts(5, 8, 0.375, 1, "idle", 100.5, 0.001, 0.25)


def record(**kept: object) -> CallRecord:
    request = PendingRequest([np.zeros((2, 3))], None, math.inf, 100.0, RecordingReply(), queued=100.25)
    return CallRecord(True, request=request, facts=FACTS, **kept)  # type: ignore[arg-type]


def ended(code: str = "OK", arrival: float = 100.0, **known: object) -> EndedCall:
    return EndedCall(METHOD, "native", "id-1", code, 0.75, arrival, **known)  # type: ignore[arg-type]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "service.access")
    return caplog


def logged(lines: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonFormatter().format(line)) for line in lines.records]


def test_a_line_says_where_the_time_went_and_nothing_of_the_payload() -> None:
    call = ended(model="m", version="3", record=record())
    assert fields(call) == {
        "request_id": "id-1",
        "rpc": "inference.GRPCInferenceService/ModelInfer",
        "transport": "native",
        "status": "OK",
        "model": "m",
        "version": "3",
        "total_seconds": 0.75,
        "rows": 2,
        "batch_rows": 5,
        "prepare_seconds": 0.25,
        "queue_seconds": 0.25,
        "assemble_seconds": 0.001,
        "infer_seconds": 0.25,
    }


def test_an_answer_from_the_cache_says_so_and_has_no_phases() -> None:
    kept = record()
    kept.facts = cached_facts(2, 100.5)
    said = fields(ended(model="m", version="3", record=kept))
    assert list(said)[-2:] == ["rows", "cached"]
    assert (said["rows"], said["cached"]) == (2, True)


def test_a_call_that_never_ran_has_no_phases() -> None:
    said = fields(ended("NOT_FOUND", reason="MODEL_NOT_FOUND", record=CallRecord(True)))
    assert said["reason"] == "MODEL_NOT_FOUND"
    assert not {"model", "version", "rows", "queue_seconds", "trace_id"} & set(said)


@pytest.mark.parametrize(("rate", "drawn"), [(0.0, []), (0.5, [0.0, 0.25]), (1.0, [0.0, 0.25, 0.5, 0.75])])
def test_the_rate_is_the_share_that_is_drawn(rate: float, drawn: list[float]) -> None:
    numbers = [0.0, 0.25, 0.5, 0.75]
    waiting = iter(numbers)
    log = AccessLog(rate, lambda: next(waiting))
    assert [number for number in numbers if log.draw()] == drawn


def test_a_drawn_call_is_logged_and_another_success_is_not(lines: pytest.LogCaptureFixture) -> None:
    log = AccessLog(0.5, lambda: 0.0)
    log.ended(ended())
    log.ended(ended(record=CallRecord(False)))
    assert not logged(lines)
    log.ended(ended(record=record()))
    (line,) = logged(lines)
    assert (line["message"], line["logger"], line["status"]) == ("call", "service.access", "OK")


def test_failures_are_logged_without_a_draw_but_not_without_end(lines: pytest.LogCaptureFixture) -> None:
    log = AccessLog(0.0, lambda: 0.0)
    for _ in range(25):
        log.ended(ended("RESOURCE_EXHAUSTED", reason="QUEUE_FULL"))
    assert len(logged(lines)) == 10
    log.ended(ended("INTERNAL", arrival=101.0))
    last = logged(lines)[-1]
    assert (last["status"], last["failures_not_logged"]) == ("INTERNAL", 15)
    log.ended(ended("INTERNAL", arrival=101.0))
    assert "failures_not_logged" not in logged(lines)[-1]


def test_a_higher_level_turns_it_off(lines: pytest.LogCaptureFixture) -> None:
    lines.set_level(logging.WARNING, "service.access")
    AccessLog(0.0, lambda: 0.0).ended(ended("INTERNAL"))
    assert not lines.records


def test_an_allowance_fills_with_time_up_to_its_burst_and_never_by_a_clock_that_goes_back() -> None:
    allowance = Allowance(2)
    assert [allowance.take(10.0) for _ in range(4)] == [0, 0, None, None]
    assert allowance.take(9.0) is None
    assert allowance.take(10.5) == 3
    assert allowance.take(10.5) is None
    assert [allowance.take(100.0) for _ in range(3)] == [1, 0, None]


def test_recording_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        trace_id = ""

        def begin(self, *_: object) -> None:
            raise RuntimeError("broken")

        def end(self, _: EndedCall) -> None:
            raise RuntimeError("broken")

    recorder = Recorder(AccessLog(0.0, lambda: 0.0), Broken())
    assert recorder.begin(METHOD, (), 100.0) is None
    recorder.ended(ended(record=CallRecord(False, Broken())))
    assert [line.message for line in caplog.records if line.exc_info] == [
        "a call cannot be watched",
        "the end of a call cannot be recorded",
    ]


def test_without_a_rate_nothing_is_drawn() -> None:
    assert not Recorder(AccessLog(0.0, lambda: 0.0)).draws
    assert Recorder(AccessLog(0.001, lambda: 0.0)).draws
