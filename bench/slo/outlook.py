"""Tells when no lower rate can pass either, so that a search has an end. Pure.

An overloaded server also misses everything, so a rate that is far too great is no reason to stop. There are two: calls
take too long although they hardly meet, or every request is missed at one rate after another.
"""

from __future__ import annotations

from bench.load.records import Summary
from bench.slo.confidence import Verdict

FEW_RATES = 4


class Outlook:
    """Judges by the results of one rate after another, as long as none has passed."""

    def __init__(self, objective_seconds: float, *, bunched: bool = False) -> None:
        """Begin with none.

        Args:
            objective_seconds: The longest that a call may take.
            bunched: Whether calls come together, and so meet, at any rate.
        """
        self._objective_seconds = objective_seconds
        self._bunched = bunched
        self._in_vain = 0  # rates in a row without a single answer in time
        self._passed = False

    def hopeless(self, rate: float, summary: Summary, verdict: Verdict) -> str | None:
        """Say why no lower rate can pass; None where one may.

        Args:
            rate: Requests per second.
            summary: Their outcome.
            verdict: What is known of the rate now.
        """
        self._passed |= verdict is Verdict.PASSED
        if self._passed or verdict is not Verdict.FAILED:
            return None
        hardly_met = not self._bunched and rate * self._objective_seconds < 1
        if hardly_met and 2 * (summary.late + summary.expired) > summary.offered:
            return (
                "most calls took longer than the objective although they hardly overlapped: "
                "give a higher --objective-seconds, or make the server faster"
            )
        self._in_vain = 0 if summary.on_time else self._in_vain + 1
        if self._in_vain < FEW_RATES:
            return None
        return (
            f"nothing was answered in time at {FEW_RATES} rates in a row: check whether the server answers "
            "(`convserve-bench load`), give a higher --objective-seconds or a lower --start-rate"
        )


def seen(rate: float, summary: Summary) -> str:
    """Describe the outcome of a rate on one line."""
    statuses = ", ".join(f"{name} {number}" for name, number in summary.codes.items())
    p50 = f"; p50 of OK {summary.latency.percentile(50) * 1e3:.2f} ms" if summary.latency.total else ""
    return f"at {rate:.2f} /s {summary.missed} of {summary.offered} were missed ({statuses or 'nothing was sent'}{p50})"
