"""Repeats a refusal for overload to later calls of the same kind, before anything is done for them.

Past capacity most calls equal the last one and get its refusal. Repeating that refusal costs a fraction of a new
decision, and what it costs is taken from the calls that are answered.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from service.batching.refusal import Refusal
from service.errors import DeadlineUnmeetable
from service.transport.access import Metadata
from service.transport.call import MAX_REQUEST_ID
from service.transport.status import Status
from service.transport.template import Template

if TYPE_CHECKING:
    from service.transport.calls import Calls

_LOG = logging.getLogger(__name__)

StatusOf = Callable[[DeadlineUnmeetable, str], Status]


@dataclass(frozen=True, slots=True)
class RepeatedRefusal:
    """The refusal of one ModelInfer call, for later calls like it.

    Attributes:
        template: The template of its message.
        size: The size of its message, in bytes.
        refusal: The batcher's refusal.
        status_for: Gives the status for a caller with a request id.
        status: The status that its own caller got. Callers without an id get the same, byte for byte; of all of them
            the log has this one.
        patience_seconds: The longest that a call like it waits, by its timeout and the model's objective.
    """

    template: Template
    size: int
    refusal: Refusal
    status_for: Callable[[str], Status]
    status: Status
    patience_seconds: float

    def status_of(self, payload: bytes) -> Status | None:
        """Return the status for a message like the refused one, its tensors and id aside; None for any other."""
        template = self.template
        if len(payload) != self.size or not template.fits(payload):
            return None
        own_id = b"" if template.identity is None else payload[template.identity]
        if not own_id:
            return self.status
        return self.status_for(own_id.decode()[:MAX_REQUEST_ID]) if own_id.isascii() else None

    def holds(self, deadline: float, now: float) -> bool:
        """Return whether the batcher would refuse a call with such a message for the same reason."""
        deadline = min(deadline, now + self.patience_seconds)
        return self.template.form.servable.batcher.repeats(self.refusal, deadline, now)


def repeated_refusal(
    template: Template, payload: bytes, error: DeadlineUnmeetable, request_id: str, status_of: StatusOf
) -> RepeatedRefusal | None:
    """Return the refusal of a call with tensors in a form that can be repeated; None if it holds for no other call."""
    servable = template.form.servable
    refusal = servable.batcher.last_refusal
    if refusal is None or servable.shared is not None:  # shared: other calls may find their answer there
        return None
    if not refusal.is_for(template.rows, template.group, servable.priorities.handicap(template.priority)):
        return None
    patience = min(template.timeout_seconds, servable.objective_seconds)
    status_for = partial(status_of, error)
    return RepeatedRefusal(template, len(payload), refusal, status_for, status_for(request_id), patience)


class Shedder:
    """Refuses calls that equal the one refused last. For one thread, which settles after each trip.

    Contract: it refuses only for overload, never raises, and counts its refusals when it is settled. It leaves alone
    the calls that are watched, bring an ``x-request-id`` or a damaged id, or may be answered.
    """

    def __init__(self, calls: Calls, method: str) -> None:
        """Set up; ``method`` is the only one that is refused here."""
        self._calls = calls
        self._method = method
        self._last: RepeatedRefusal | None = None
        self._count = 0
        self._since = 0.0

    def status(self, method: str, payload: bytes, time_remaining: float | None, metadata: Metadata) -> Status | None:
        """Return the status with which to refuse a call; None if the call must be begun like any other."""
        repeated = self._calls.repeated
        if repeated is None or method != self._method:
            return None
        try:
            return self._status(repeated, payload, time_remaining, metadata)
        except Exception:
            _LOG.exception("a refusal cannot be repeated")
            return None

    def _status(
        self, repeated: RepeatedRefusal, payload: bytes, time_remaining: float | None, metadata: Metadata
    ) -> Status | None:
        status = repeated.status_of(payload)
        if status is None:
            return None
        for key, _ in metadata:
            if key == "x-request-id":
                return None
        now = self._calls.dataplane.clock()
        deadline = math.inf if time_remaining is None else now + time_remaining
        if self._calls.dataplane.draining or not repeated.holds(deadline, now):
            self._calls.repeated = None
            return None
        if repeated is not self._last:
            self.settle()
            self._last, self._since = repeated, now
        self._count += 1
        return status

    def settle(self) -> None:
        """Count the calls that were refused since the last time."""
        if self._last is None:
            return
        count, self._count = self._count, 0
        repeated, self._last = self._last, None  # or it would keep the model's weights
        template = repeated.template
        servable = template.form.servable
        now = self._calls.dataplane.clock()
        self._calls.rpcs.started(self._method, count)
        self._calls.count(self._method, repeated.status.name, servable.name, str(servable.version), count)
        servable.metrics.observe_failure((now - self._since) / count, DeadlineUnmeetable.reason, count)
        servable.batcher.repeated(count, template.rows, servable.priorities.handicap(template.priority))
        self._calls.recorder.left_out(count)
