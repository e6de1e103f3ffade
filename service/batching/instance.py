"""One instance: assembles a batch, runs it and gives it back row by row."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.batching.answering import Answering
from service.batching.assembly import BatchBuffer, padding_ratio, split
from service.batching.cost import CostModel
from service.batching.lone import LoneRuns
from service.batching.observer import Observer
from service.batching.policy import Release
from service.batching.request import BatchFacts, PendingRequest
from service.batching.run import Run
from service.errors import BackendFailed, InternalError, RequestCancelled, ServingError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What an instance is given.

    Attributes:
        release: The requests.
        asked: Instant at which the policy was asked for them.
        lone: Runs it on more cores, which it has to itself; None if the instance runs it.
    """

    release: Release
    asked: float
    lone: LoneRuns | None = None


class Instance:
    """Runs released batches, one at a time. For its own thread only; knows no lock and no queue.

    Contract: when ``run`` returns or raises, every request of the release has been settled exactly
    once, or will be by ``answering``. It raises only for an error of ours; the backend's become refusals.

    A batch that fails is run again request by request, so that one bad input, or too little
    memory for a large batch, harms nobody else. That does not help against a backend that hangs.
    """

    def __init__(
        self,
        number: int,
        run: Run,
        *,
        cost: CostModel,
        buffer: BatchBuffer,
        observer: Observer,
        clock: Callable[[], float],
        answering: Answering | None = None,
    ) -> None:
        """Keep the parts.

        ``number`` is for the facts, and the buffer is of this instance alone. ``cost`` learns the time of every batch
        that succeeds. ``answering`` may take a batch over once it has run; None: the instance answers every batch.
        """
        self._number = number
        self._run_backend = run
        self._cost = cost
        self._buffer = buffer
        self._observer = observer
        self._clock = clock
        self._answering = answering

    def run(self, batch: Batch) -> None:
        """Run one batch and settle its requests."""
        unsettled = deque(batch.release.requests)
        error: ServingError | None = None
        try:
            error = self._run(batch.release.requests, batch, unsettled)
            if error is not None and len(unsettled) == 1:
                unsettled.popleft().refuse(error)
            elif error is not None:
                self._run_alone(batch.release, unsettled)
        finally:
            del error  # its traceback knows this frame: the requests would wait for the garbage collector
            # Requests are left here only by an error of ours, which goes on to end the thread.
            for request in unsettled:
                request.refuse(InternalError("the batch failed"))

    def _run_alone(self, release: Release, unsettled: deque[PendingRequest]) -> None:
        for request in release.requests:
            error = self._run([request], Batch(release, self._clock()), unsettled)
            if error is not None:
                unsettled.popleft().refuse(error)
            del error  # as above

    def _run(
        self, requests: Sequence[PendingRequest], given: Batch, unsettled: deque[PendingRequest]
    ) -> ServingError | None:
        """Run these requests, the first of the unsettled, and settle them; return the error if the backend failed."""
        released = self._clock()
        rows = sum([request.rows for request in requests])
        overrides = requests[0].overrides
        lone = given.lone
        run, cost = (self._run_backend, self._cost) if lone is None else (lone.run, lone.policy.cost)
        bucket = rows if overrides else cost.bucket_of(rows)
        try:
            batch = self._buffer.assemble(requests, bucket)
            padding = padding_ratio(requests, batch)
            assembled = self._clock()
            outputs = run(batch, overrides)
            _check_rows(outputs, bucket)
        except Exception as error:
            _LOG.exception("a batch failed")
            return error if isinstance(error, ServingError) else BackendFailed("the batch failed")
        finished = self._clock()
        facts = BatchFacts(
            rows,
            bucket,
            padding,
            self._number,
            given.release.reason,
            released,
            assembled - released,
            finished - assembled,
            lone is not None,
        )
        reply = partial(self._reply, requests, outputs, facts, finished)
        if self._answering is not None and self._answering.take(rows, reply, requests):
            for _ in requests:
                unsettled.popleft()
        else:
            reply(unsettled)
        if not overrides:
            # From the policy's choice until the next batch can begin: the replies count unless another thread makes
            # them.
            cost.observe(rows, given.release.group, self._clock() - given.asked)
        return None

    def _reply(
        self,
        requests: Sequence[PendingRequest],
        outputs: Sequence[np.ndarray],
        facts: BatchFacts,
        finished: float,
        unsettled: deque[PendingRequest],
    ) -> None:
        """Settle these requests, the first of the unsettled, with their rows."""
        self._observer.batch(requests, outputs, facts)
        for own_rows in split(outputs, requests):
            self._answer(unsettled.popleft(), own_rows, facts)
        self._observer.replied(requests, facts, self._clock() - finished)

    def _answer(self, request: PendingRequest, outputs: Sequence[np.ndarray], facts: BatchFacts) -> None:
        if not request.cancelled:
            request.answer(outputs, facts)
        elif request.refuse(RequestCancelled("the caller left", at=request.left_at)):
            self._observer.cancelled("running")


def _check_rows(outputs: Sequence[np.ndarray], bucket: int) -> None:
    """Refuse a result that cannot be split: a caller would get another's rows.

    Raises:
        BackendFailed: An output does not have as many rows as went in (INTERNAL).
    """
    for output in outputs:
        if output.ndim == 0 or len(output) != bucket:
            rows = "no" if output.ndim == 0 else str(len(output))
            raise BackendFailed(f"the backend returned {rows} rows for a batch of {bucket}")
