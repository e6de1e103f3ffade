"""``python -m bench`` is ``convserve-bench``."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


def main() -> int:
    """Run ``convserve-bench``; Ctrl-C ends it with one line and 130, at whatever instant, SIGTERM with 143."""
    signal.signal(signal.SIGTERM, _end)
    try:
        return _imported()()
    except KeyboardInterrupt:
        print("convserve-bench: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


def _imported() -> Callable[[], int]:
    """Import what is slow enough to be interrupted, and gRPC so that it logs nothing beside our lines."""
    variable, before = "GRPC_VERBOSITY", os.environ.get("GRPC_VERBOSITY")
    os.environ.setdefault(variable, "NONE")
    from bench.cli import main as run  # noqa: PLC0415

    if before is None:
        del os.environ[variable]  # servers that are started from here may log
    return run


def _end(number: int, frame: FrameType | None) -> None:
    """Leave by way of all context managers: client processes would go on sending without us."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
