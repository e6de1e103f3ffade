"""``python -m bench`` is ``convserve-bench``."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


def main() -> int:
    """Run ``convserve-bench``. At any point Ctrl-C ends it with one line and exit code 130, SIGTERM with 143."""
    signal.signal(signal.SIGTERM, _end)
    try:
        return _imported()()
    except KeyboardInterrupt:
        print("convserve-bench: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


def _imported() -> Callable[[], int]:
    """Import the commands, which is slow enough to be interrupted, and keep gRPC from logging beside our lines."""
    variable, before = "GRPC_VERBOSITY", os.environ.get("GRPC_VERBOSITY")
    os.environ.setdefault(variable, "NONE")
    from bench.cli import main as run  # noqa: PLC0415

    if before is None:
        del os.environ[variable]  # servers that are started from here may log
    return run


def _end(number: int, frame: FrameType | None) -> None:
    """Leave through all context managers: otherwise client processes would go on sending."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
