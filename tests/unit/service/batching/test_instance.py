"""One instance by itself: what it says of a batch, and of one that failed. Under load it is in ``test_batcher.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from service.batching.instance import Batch, Instance
from service.batching.policy import Release
from service.batching.request import BatchFacts, PendingRequest
from service.errors import BackendFailed
from tests.fakes import FakeClock, RecordingObserver, linear_cost, make_request, number_buffer, per_row, reply_of


class Timed(RecordingObserver):
    """Keeps how long replying took."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def replied(self, requests: Sequence[PendingRequest], facts: BatchFacts, seconds: float) -> None:
        super().replied(requests, facts, seconds)
        self.seconds.append(seconds)


class Stage:
    def __init__(self, behaviour: Callable[[Sequence[np.ndarray]], list[np.ndarray]] = per_row) -> None:
        self.clock = FakeClock()
        self.cost = linear_cost(0.4)
        self.observer = Timed()

        def run(batch: Sequence[np.ndarray], overrides: object = None, /) -> list[np.ndarray]:
            self.clock.advance(0.25)
            return behaviour(batch)

        self.instance = Instance(
            3, run, cost=self.cost, buffer=number_buffer(), observer=self.observer, clock=self.clock
        )

    def run(self, *requests: PendingRequest, asked: float | None = None) -> None:
        released = Release("numbers", list(requests), [], "full")
        self.instance.run(Batch(released, self.clock.now if asked is None else asked))


def test_a_batch_says_where_when_and_for_how_long_it_ran() -> None:
    stage = Stage()
    requests = [make_request(1.0, 2.0), make_request(3.0)]
    stage.run(*requests)
    for request in requests:
        assert reply_of(request).facts == [
            BatchFacts(
                rows=3,
                bucket=4,
                padding_ratio=0.25,
                instance=3,
                release_reason="full",
                released=100.0,
                assemble_seconds=0.0,
                infer_seconds=0.25,
            )
        ]


def test_replying_is_timed_from_the_end_of_the_run() -> None:
    stage = Stage()
    request = make_request(1.0)
    reply = reply_of(request)
    request.reply = Slow(reply, stage.clock)  # type: ignore[assignment]
    stage.run(request)
    assert stage.observer.seconds == [0.5]


class Slow:
    """Takes half a second to answer."""

    def __init__(self, reply: object, clock: FakeClock) -> None:
        self.reply = reply
        self.clock = clock

    def answer(self, *_: object) -> None:
        self.clock.advance(0.5)


def test_what_it_learns_of_costs_is_all_from_the_choice_to_the_reply() -> None:
    stage = Stage()
    before = stage.cost.seconds(1, "numbers")
    request = make_request(1.0)
    request.reply = Slow(None, stage.clock)  # type: ignore[assignment]
    stage.run(request, asked=stage.clock.now - 0.25)
    assert stage.cost.seconds(1, "numbers") == pytest.approx(before + (1.0 - before) / 16)


def test_a_failure_that_the_backend_explains_is_told_as_it_is() -> None:
    def fail(_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise BackendFailed("out of memory on the device")

    stage, request = Stage(fail), make_request(1.0)
    stage.run(request)
    assert [error.message for error in reply_of(request).errors] == ["out of memory on the device"]
    assert stage.observer.events == []


def test_a_failure_that_nobody_explains_is_logged_and_its_text_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise ValueError("/secret/path")

    stage, request = Stage(fail), make_request(1.0)
    stage.run(request)
    assert [type(error) for error in reply_of(request).errors] == [BackendFailed]
    assert [error.message for error in reply_of(request).errors] == ["the batch failed"]
    assert [record.message for record in caplog.records] == ["a batch failed"]


@pytest.mark.parametrize(
    ("output", "rows"), [(np.zeros((1, 2)), "1 rows"), (np.zeros((3, 2)), "3 rows"), (np.zeros(()), "no rows")]
)
def test_an_output_of_another_number_of_rows_is_given_to_nobody(
    output: np.ndarray, rows: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage, request = Stage(lambda batch: [np.zeros((len(batch[0]), 2)), output]), make_request(1.0, 2.0)
    stage.run(request)
    (error,) = reply_of(request).errors
    assert error.message == f"the backend returned {rows} for a batch of 2"
    assert error.message in caplog.text
