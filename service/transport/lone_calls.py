"""Whether calls come one at a time, so that the thread that takes one in may as well run it. Pure."""

from __future__ import annotations

_IN_A_ROW = 8
_HAD_WAITED_SECONDS = 2e-5  # a trip that begins with a call there takes less


class LoneCalls:
    """Looks at each trip of an intake thread.

    Running a call on the thread that took it in saves waking an instance's thread, a fifth of the cost of a small
    model's call. But meanwhile that thread takes no calls in. So it is done only when none are expected: after several
    trips in a row that each waited for one call, with no other in flight, as from a caller who waits for answers.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._in_a_row = 0

    def note(self, events: int, in_flight: int, waited_seconds: float) -> bool:
        """Return whether a trip's only call may be run by the thread that took it in.

        Args:
            events: How many events the trip brought.
            in_flight: Calls taken in before and not settled.
            waited_seconds: How long the trip took: next to nothing if its events were there before it began.
        """
        if events == 1 and not in_flight and waited_seconds > _HAD_WAITED_SECONDS:
            self._in_a_row += 1
        elif events:
            self._in_a_row = 0
        return events == 1 and self._in_a_row > _IN_A_ROW
