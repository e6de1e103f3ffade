"""The access log: one line per sampled call, and one per failed call up to a rate.

A line holds names, numbers and ids, never a payload or the text of an error. No field is
longer than a name in the repository or some hundred characters.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from service.batching.request import BatchFacts, PendingRequest
from service.transport.call_record import EndedCall

_LOG = logging.getLogger("service.access")
_FAILURES_PER_SECOND = 10  # in an overload there is a refusal every few microseconds


class Allowance:
    """Grants up to ``per_second`` per second, and as many at once. Not thread-safe."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._since: float | None = None
        self._denied = 0

    def deny(self, count: int) -> None:
        """Deny ``count`` without asking."""
        self._denied += count

    def take(self, now: float) -> int | None:
        """Ask for one.

        Args:
            now: In seconds. If it is less than before, since threads overtake each other, no time has passed.

        Returns:
            How many were denied since the last grant; None if this one is denied too.
        """
        if self._since is None:
            self._since = now
        passed = max(0.0, now - self._since)
        self._since += passed
        self._left = min(self._per_second, self._left + passed * self._per_second)
        if self._left < 1:
            self._denied += 1
            return None
        self._left -= 1
        denied, self._denied = self._denied, 0
        return denied


class AccessLog:
    """Writes the lines. Thread-safe."""

    def __init__(self, sample_rate: float, random: Callable[[], float]) -> None:
        """Keep the share of calls that are logged however they end, 0 to 1; ``random`` is uniform in [0, 1)."""
        self.sample_rate = sample_rate
        self._random = random
        self._lock = threading.Lock()
        self._failures = Allowance(_FAILURES_PER_SECOND)

    def draw(self) -> bool:
        """Decide about one call at its beginning."""
        return self._random() < self.sample_rate

    def left_out(self, count: int) -> None:
        """Count failures for which no line is written."""
        if _LOG.isEnabledFor(logging.INFO):
            with self._lock:
                self._failures.deny(count)

    def ended(self, call: EndedCall) -> None:
        """Write a line if the call was sampled, or if it failed and there are not too many failures."""
        if call.record is not None and call.record.logged:
            _write(call, {})
        elif call.code != "OK" and _LOG.isEnabledFor(logging.INFO):
            with self._lock:
                unlogged = self._failures.take(call.arrival + call.seconds)
            if unlogged is not None:
                _write(call, {"failures_not_logged": unlogged} if unlogged else {})


def _write(call: EndedCall, more: dict[str, object]) -> None:
    _LOG.info("call", extra={"fields": fields(call) | more})


def fields(call: EndedCall) -> dict[str, object]:
    """Return a line's fields: always in the same order, without those that do not apply."""
    said: dict[str, object] = {
        "request_id": call.request_id,
        "rpc": call.method.lstrip("/"),
        "transport": call.transport,
        "status": call.code,
        "reason": call.reason,
        "model": call.model,
        "version": call.version,
        "total_seconds": _rounded(call.seconds),
    }
    record = call.record
    if record is not None and record.request is not None and record.facts is not None:
        said["rows"] = record.request.rows
        said |= _phases(record.request, record.facts) if record.facts.ran else {"cached": True}
    if record is not None:
        said["trace_id"] = record.trace_id
    return {name: value for name, value in said.items() if value != ""}


def _phases(request: PendingRequest, facts: BatchFacts) -> dict[str, object]:
    return {
        "batch_rows": facts.rows,
        "prepare_seconds": _rounded(request.queued - request.arrival),
        "queue_seconds": _rounded(facts.released - request.queued),
        "assemble_seconds": _rounded(facts.assemble_seconds),
        "infer_seconds": _rounded(facts.infer_seconds),
    }


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
