"""Samples the calls to watch closely, and passes on how each call ended.

Nothing is kept of a call that is not sampled: it costs one test of an attribute at its beginning and
two at its end.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from service.transport.access import Metadata
from service.transport.access_log import AccessLog
from service.transport.call_record import CallRecord, EndedCall

if TYPE_CHECKING:
    from service.transport.tracing import Tracing

_LOG = logging.getLogger(__name__)


class Recorder:
    """Watches calls. Thread-safe; never raises, since watching must not harm a call."""

    def __init__(self, access_log: AccessLog, tracer: Tracing | None = None) -> None:
        """Wire up; without ``tracer`` nothing is traced."""
        self._access_log = access_log
        self._tracer = tracer
        self.draws = tracer is not None or access_log.sample_rate > 0
        """Whether :meth:`begin` can have an effect: the one test that a call pays for when it cannot."""

    def begin(self, method: str, metadata: Metadata, arrival: float) -> CallRecord | None:
        """Decide at the intake of a call to ``/package.Service/Method`` whether it is watched; its metadata may say so.

        Returns:
            What is to be kept of it; None if it is not watched.
        """
        try:
            trace = self._tracer.begin(method, metadata, arrival) if self._tracer is not None else None
            logged = self._access_log.draw()
        except Exception:
            _LOG.exception("a call cannot be watched")
            return None
        return CallRecord(logged, trace) if logged or trace is not None else None

    def ended(self, call: EndedCall) -> None:
        """Pass on what is known of a call that was watched or failed, after its caller was answered."""
        try:
            self._access_log.ended(call)
            if call.record is not None and call.record.trace is not None:
                call.record.trace.end(call)
        except Exception:
            _LOG.exception("the end of a call cannot be recorded")

    def left_out(self, count: int) -> None:
        """Pass on how many calls failed of which nothing else is recorded."""
        self._access_log.left_out(count)
