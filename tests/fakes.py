"""Stand-ins for the world around the batching core: time, the backend, the caller and the metrics.

Nothing here sleeps. Where a test waits for a thread, it waits for an event or a condition; the
timeout is a guard that turns a hang into a failure.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from service.batching.admission import BatcherLimits
from service.batching.assembly import BatchBuffer
from service.batching.batcher import Batcher
from service.batching.cost import CostModel
from service.batching.observer import Observer
from service.batching.policy import BatchingPolicy
from service.batching.request import BatchFacts, PendingRequest
from service.errors import ServingError
from service.tensors import TensorSpec

GUARD_SECONDS = 10.0
NUMBERS = TensorSpec("numbers", "FP32", (-1, 2))


class FakeClock:
    """Time that moves only when told."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TickingClock(FakeClock):
    """Time that moves by a quarter of a second whenever somebody looks at it."""

    def __call__(self) -> float:
        self.advance(0.25)
        return self.now


def per_row(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A network that treats each row for itself: (n, ...) -> (n, 2), the row's sum and ten times it."""
    sums = batch[0].reshape(len(batch[0]), -1).sum(axis=1, dtype=np.float64)
    return [np.stack([sums, 10 * sums], axis=1)]


class FakeBackend:
    """Records its batches and answers row by row; stands still while its gate is shut.

    Attributes:
        batches: A copy of the first input of every batch, in order of their beginning.
        overrides: The optional inputs of every batch.
        behaviour: What it does with a batch; may raise.
    """

    def __init__(self, *, open_gate: bool = True) -> None:
        self.batches: list[np.ndarray] = []
        self.overrides: list[Mapping[str, np.ndarray] | None] = []
        self.behaviour: Callable[[Sequence[np.ndarray]], list[np.ndarray]] = per_row
        self._state = threading.Condition()
        self._permits = 0
        self._open = open_gate

    def __call__(
        self, batch: Sequence[np.ndarray], overrides: Mapping[str, np.ndarray] | None = None, /
    ) -> list[np.ndarray]:
        with self._state:
            self.batches.append(np.array(batch[0]))
            self.overrides.append(overrides)
            self._state.notify_all()
            assert self._state.wait_for(lambda: self._open or self._permits, GUARD_SECONDS), "the gate stayed shut"
            self._permits = max(0, self._permits - 1)
        return self.behaviour(batch)

    @property
    def sizes(self) -> list[int]:
        """Rows of every batch, padding included."""
        return [len(batch) for batch in self.batches]

    def wait_for_batches(self, count: int) -> None:
        """Wait until that many batches have begun."""
        with self._state:
            assert self._state.wait_for(lambda: len(self.batches) >= count, GUARD_SECONDS), self.sizes

    def let_one_pass(self) -> None:
        with self._state:
            self._permits += 1
            self._state.notify_all()

    def open(self) -> None:
        with self._state:
            self._open = True
            self._state.notify_all()


class RecordingReply:
    """Keeps what it is given; being settled twice is kept too, for the test to see."""

    def __init__(self) -> None:
        self.answers: list[list[np.ndarray]] = []
        self.facts: list[BatchFacts] = []
        self.errors: list[ServingError] = []
        self._settled = threading.Event()

    def answer(self, outputs: Sequence[np.ndarray], _request: PendingRequest, facts: BatchFacts) -> None:
        self.answers.append([np.array(output) for output in outputs])
        self.facts.append(facts)
        self._settled.set()

    def refuse(self, error: ServingError) -> None:
        self.errors.append(error)
        self._settled.set()

    @property
    def times_settled(self) -> int:
        return len(self.answers) + len(self.errors)

    @property
    def status(self) -> str:
        """``"OK"`` or the status refused with; fails unless settled exactly once."""
        assert self.times_settled == 1, (self.answers, self.errors)
        return "OK" if self.answers else self.errors[0].status

    def wait(self) -> str:
        """Wait until settled; return the status."""
        assert self._settled.wait(GUARD_SECONDS), "never settled"
        return self.status


class RaisingReply(RecordingReply):
    """Fails after having recorded."""

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        super().answer(outputs, request, facts)
        raise RuntimeError("a reply of ours is broken")

    def refuse(self, error: ServingError) -> None:
        super().refuse(error)
        raise RuntimeError("a reply of ours is broken")


class RecordingObserver:
    """Keeps what it is told as (event, detail), in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def batch(self, requests: Sequence[PendingRequest], _outputs: Sequence[np.ndarray], _facts: BatchFacts) -> None:
        self.events.append(("batch", len(requests)))

    def replied(self, requests: Sequence[PendingRequest], _facts: BatchFacts, _seconds: float) -> None:
        self.events.append(("replied", len(requests)))

    def rejected(self, reason: str, count: int = 1) -> None:
        self.events.extend([("rejected", reason)] * count)

    def cancelled(self, stage: str) -> None:
        self.events.append(("cancelled", stage))


class Told:
    """Counts what it is told of shared answers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []

    def cache_hit(self, seconds: float) -> None:
        self.counts["hit"] += 1
        self.seconds.append(seconds)

    def cache_miss(self, seconds: float, evicted: int, calls: int = 1) -> None:
        self.counts["miss"] += calls
        self.seconds.append(seconds)
        self.counts["evicted"] += evicted

    def merged(self) -> None:
        self.counts["merged"] += 1

    def cancelled(self, stage: str) -> None:
        self.counts[f"cancelled {stage}"] += 1

    def rejected(self, reason: str) -> None:
        self.counts[reason] += 1


def make_request(
    *values: float,
    group: Hashable = "numbers",
    deadline: float = float("inf"),
    arrival: float = 100.0,
    reply: RecordingReply | None = None,
    handicap: float = 0.0,
    overrides: Mapping[str, np.ndarray] | None = None,
) -> PendingRequest:
    """A request of one row (v, 0) for each value; :func:`per_row` answers (v, 10 v)."""
    array = np.array([[value, 0.0] for value in values or (1.0,)], dtype=np.float32)
    return PendingRequest(
        [array], group, deadline, arrival, reply or RecordingReply(), handicap=handicap, overrides=overrides
    )


def reply_of(request: PendingRequest) -> RecordingReply:
    assert isinstance(request.reply, RecordingReply)
    return request.reply


def statuses(requests: Iterable[PendingRequest]) -> list[str]:
    """Wait for all; return their statuses."""
    return [reply_of(request).wait() for request in requests]


def got_own_rows(request: PendingRequest) -> bool:
    """Tell whether an answered request got :func:`per_row` of exactly its own rows."""
    (outputs,) = reply_of(request).answers
    return all(np.array_equal(got, want) for got, want in zip(outputs, per_row(request.inputs), strict=True))


def linear_cost(
    fixed: float = 0.002,
    per_row: float = 0.0005,
    buckets: Sequence[int] = (1, 2, 4, 8),
    groups: Sequence[Hashable] = ("numbers",),
) -> CostModel:
    """l(b) = fixed + per_row * b seconds, known exactly."""
    return CostModel(buckets, {group: [[fixed + per_row * bucket] for bucket in buckets] for group in groups})


def number_buffer(max_batch_size: int = 8) -> BatchBuffer:
    """A buffer for the requests of :func:`make_request`."""
    return BatchBuffer([NUMBERS], max_batch_size)


def number_batcher(
    run: FakeBackend,
    limits: BatcherLimits,
    *,
    cost: CostModel | None = None,
    max_batch_size: int = 8,
    max_queue_delay_seconds: float = 0.0,
    observer: Observer | None = None,
    **around: Any,
) -> Batcher:
    """A batcher for the requests of :func:`make_request`; what is around it is passed on."""
    policy = BatchingPolicy(cost or linear_cost(), max_batch_size, max_queue_delay_seconds)
    around.setdefault("new_buffer", number_buffer)
    return Batcher(run, policy, limits=limits, observer=observer or RecordingObserver(), **around)
