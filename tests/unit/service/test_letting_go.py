"""What has ended is let go at once: nothing of it waits for Python's garbage collector, which seldom looks.

A call holds its message, up to megabytes of it, and its version's weights.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from service.batching.assembly import BatchBuffer
from service.batching.batcher import Batcher, BatcherLimits
from service.batching.policy import BatchingPolicy
from service.batching.response_cache import ResponseCache
from service.batching.sharing import SharedAnswers
from service.dataplane import DataPlane, Ticket
from service.errors import BackendFailed, ServingError
from service.gather import TensorGather
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.preparation import Terms
from service.repository.lifecycle import Lifecycle
from service.repository.metered import MeteredBatches
from service.workers import Workers
from tests.fakes import GUARD_SECONDS, FakeBackend, FakeClock, linear_cost
from tests.unit.service.samples import make_servable, manifest, picture

BOUND = 5
GOOD = [picture([[value, 0, 0], [0, 0, 0]]) for value in range(6)]


class Ending:
    """A reply that keeps nothing but how it ended."""

    def __init__(self, world: World) -> None:
        self._world = world

    def answer(self, *_: object) -> None:
        self._world.ended("OK")

    def refuse(self, error: ServingError) -> None:
        self._world.ended(error.reason)


class World:
    """One instance behind a data plane; its gate is shut at first."""

    def __init__(self, *, cache: bool, merges: bool) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend(open_gate=False)
        metrics = Metrics("0", "fake")
        counts = ModelMetrics(metrics, "pictures", "1", lambda: 0)
        specs = manifest().inputs
        self.batcher = Batcher(
            self.backend,
            BatchingPolicy(linear_cost(groups=[None]), 4),
            limits=BatcherLimits(BOUND, 1),
            new_buffer=lambda: BatchBuffer(specs, 4),
            observer=MeteredBatches(counts, ()),
            clock=self.clock,
        )
        shared = SharedAnswers(
            self.batcher,
            identity="pictures",
            names=["images"],
            metrics=counts,
            cache=ResponseCache(10_000).shelf() if cache else None,
            merges=merges,
            clock=self.clock,
        )
        self.servable = make_servable(batcher=self.batcher, shared=shared, metrics=metrics, max_rows=8)  # type: ignore[arg-type]
        self.pool = Workers("prepare", 1, pytest.fail)
        self.pool.start()
        self.plane = DataPlane(Lifecycle(metrics), self.pool, 8, self.clock)
        self.let_go: list[threading.Event] = []
        self.endings: list[str] = []
        self._ended = threading.Condition()
        self.batcher.start("pictures")

    def ended(self, how: str) -> None:
        with self._ended:
            self.endings.append(how)
            self._ended.notify_all()

    def wait(self, count: int = 1) -> None:
        """Wait until so many calls have ended."""
        with self._ended:
            assert self._ended.wait_for(lambda: len(self.endings) == count, GUARD_SECONDS), self.endings

    def terms(self, seconds: float = math.inf) -> Terms:
        return Terms(self.servable, self.clock.now, self.clock.now + seconds)

    def call(self, begin: Callable[[Ending], Ticket]) -> Ticket | None:
        """Begin a call whose reply is watched, as a door does."""
        reply = Ending(self)
        gone = threading.Event()
        weakref.finalize(reply, gone.set)
        self.let_go.append(gone)
        try:
            return begin(reply)
        except ServingError as error:
            reply.refuse(error)
            return None

    def tensor(self, rows: int = 1, seconds: float = math.inf, value: int = 1) -> Ticket | None:
        images = np.full((rows, 2, 3, 1), value, np.uint8)
        return self.call(lambda reply: self.plane.infer(self.servable, {"images": images}, self.terms(seconds), reply))

    def pictures(self, *items: bytes) -> Ticket | None:
        array = np.array([*items, None], object)[:-1]  # bytes objects, whatever they hold
        return self.call(lambda reply: self.plane.infer(self.servable, {"images": array}, self.terms(), reply))

    def classify(self, *items: bytes) -> Ticket | None:
        return self.call(lambda reply: self.plane.classify(self.servable, items, self.terms(), reply))

    def hold(self) -> None:
        """Begin a batch that stays."""
        self.tensor(value=99)
        self.backend.wait_for_batches(1)


@pytest.fixture(params=["plain", "cached", "merged", "shared"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(cache=request.param in ("cached", "shared"), merges=request.param in ("merged", "shared"))
    gc.disable()
    logging.disable()  # pytest keeps what is logged, with the frames of an exception
    try:
        yield made
        made.backend.open()
        made.wait(len(made.let_go))
        assert [gone.wait(GUARD_SECONDS) for gone in made.let_go] == [True] * len(made.let_go)
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
        made.backend.open()
        made.batcher.close(GUARD_SECONDS)
        made.pool.close()


def test_who_is_answered(world: World) -> None:
    """In one part or in several, alike or not."""
    world.backend.open()
    world.tensor()
    world.wait(1)
    world.tensor()
    world.wait(2)
    world.tensor(rows=7)
    world.wait(3)
    world.pictures(*GOOD)
    world.wait(4)
    world.classify(*GOOD[:5])
    world.wait(5)
    assert world.endings == ["OK"] * 5


@pytest.mark.parametrize("good", [0, 1, 5])
def test_whose_pictures_are_damaged(world: World, good: int) -> None:
    world.backend.open()
    world.classify(*GOOD[:good], b"damaged")
    world.wait(1)
    world.pictures(*GOOD[:good], b"damaged")
    world.wait(2)
    assert world.endings == ["OK", "INVALID_INPUT"]


def test_who_is_refused_at_the_door(world: World) -> None:
    world.tensor(seconds=-1.0)
    world.hold()
    world.tensor(seconds=1e-4, value=2)
    for value in range(3, 3 + BOUND):
        world.tensor(value=value)
    world.tensor(value=50)
    world.tensor(rows=7, value=51)
    world.pictures(GOOD[5])
    assert world.endings == ["DEADLINE_EXCEEDED", "DEADLINE_UNMEETABLE", *["QUEUE_FULL"] * 3]


def test_who_is_refused_by_a_batcher_that_has_closed(world: World) -> None:
    world.backend.open()
    world.batcher.close()
    world.tensor()
    world.tensor(rows=7)
    world.pictures(*GOOD)
    assert world.endings == ["MODEL_NOT_READY"] * 3


def test_who_leaves(world: World) -> None:
    """Running or queued, in one part or in several, one of two that are alike or both."""
    world.hold()
    for begin in (lambda: world.tensor(value=2), lambda: world.tensor(value=2), lambda: world.tensor(rows=7, value=3)):
        ticket = begin()
        assert ticket is not None
        ticket.cancel()
    first = world.tensor(value=4)
    world.tensor(value=4)
    assert first is not None
    first.cancel()
    del first, ticket
    assert world.endings == ["CANCELLED"] * 4


def test_who_leaves_while_a_part_is_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = TensorGather.fill

    def leave_first(gather: TensorGather, *rows: Any) -> None:
        gather.cancel()
        fill(gather, *rows)

    monkeypatch.setattr(TensorGather, "fill", leave_first)
    world.backend.open()
    world.tensor(rows=7)
    world.wait(1)
    assert world.endings == ["CANCELLED"]


def test_who_becomes_late_in_the_queue(world: World) -> None:
    world.hold()
    for seconds in (0.5, 0.6, 0.6):
        world.tensor(seconds=seconds, value=2)
    world.tensor(rows=7, seconds=0.5, value=3)
    world.clock.advance(1.0)
    world.backend.open()
    world.wait(5)
    assert sorted(world.endings) == ["DEADLINE_EXCEEDED"] * 4 + ["OK"]


@pytest.mark.parametrize("kind", [RuntimeError, BackendFailed])
def test_whose_batch_fails(world: World, kind: type[Exception]) -> None:
    """With an error of anybody's, or one of ours, as the real backend makes of the runtime's."""

    def fail(batch: object) -> list[np.ndarray]:
        try:
            raise ValueError("the runtime's")
        except ValueError as error:
            raise kind("no") from error

    world.backend.behaviour = fail
    world.backend.open()
    world.tensor()
    world.tensor(rows=7, value=2)
    world.pictures(*GOOD)
    world.wait(3)
    assert world.endings == ["BACKEND_FAILED"] * 3


def test_of_whose_parts_one_was_answered_and_one_failed(world: World) -> None:
    def fail_alone(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(batch[0]) == 1:
            raise RuntimeError("no")
        return [np.zeros((len(batch[0]), 3), np.float32)]

    world.backend.behaviour = fail_alone
    world.backend.open()
    world.tensor(rows=5)
    world.wait(1)
    assert world.endings == ["BACKEND_FAILED"]


def test_what_hangs_and_is_given_up(world: World) -> None:
    world.hold()
    world.tensor(value=2)
    world.tensor(rows=7, value=3)
    world.batcher.abandon()
    world.wait(3)
    assert world.endings.count("OK") == 0
