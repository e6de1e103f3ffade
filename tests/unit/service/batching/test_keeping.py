"""What is said of an answer that was kept, and the reply that keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from service.batching.keeping import Keeping, cached_facts
from service.batching.request import BatchFacts
from service.errors import QueueFull
from tests.fakes import RecordingReply, make_request

FACTS = BatchFacts(1, 2, 0.5, 0, "idle", 100.0, 0.001, 0.002)


def test_of_a_run_that_did_not_take_place_nothing_took_time_and_nothing_was_padded() -> None:
    assert cached_facts(3, 100.0) == BatchFacts(
        rows=3,
        bucket=3,
        padding_ratio=0.0,
        instance=-1,
        release_reason="cached",
        released=100.0,
        assemble_seconds=0.0,
        infer_seconds=0.0,
        lone=False,
    )


def test_an_answer_is_kept_before_it_is_passed_on() -> None:
    reply = RecordingReply()
    known: list[int] = []
    request = make_request(reply=reply)
    request.reply = Keeping(lambda _outputs: known.append(reply.times_settled), reply)
    request.answer([np.ones((1, 2))], FACTS)
    assert known == [0]
    assert (reply.status, reply.facts) == ("OK", [FACTS])


def test_an_answer_that_cannot_be_kept_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_outputs: Sequence[np.ndarray]) -> None:
        raise MemoryError

    reply = RecordingReply()
    request = make_request(reply=reply)
    request.reply = Keeping(fail, reply)
    request.answer([np.ones((1, 2))], FACTS)
    assert reply.status == "OK"
    assert [record.message for record in caplog.records] == ["a reply failed"]


def test_a_failure_is_not_kept() -> None:
    reply = RecordingReply()
    request = make_request(reply=reply)
    request.reply = Keeping(lambda _outputs: pytest.fail("kept"), reply)
    request.refuse(QueueFull("full"))
    assert reply.status == "RESOURCE_EXHAUSTED"
