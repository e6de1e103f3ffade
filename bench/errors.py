"""What ends a command of ``convserve-bench`` in one line: ``bench.cli`` prints it, and the exit code is 2."""


class BenchError(Exception):
    """A fault that the user can mend; the message says on one line what it is."""


class OptionsInvalid(BenchError):
    """Arguments do not fit together, or what they need or name cannot be used; the message says what to do."""


class PeerFailed(Exception):
    """A peer cannot be had, does not come up, or answers wrongly; the message says why, on one line."""
