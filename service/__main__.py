"""``python -m service`` is ``convserve``."""

import os
import signal
import sys
from types import FrameType

from service.ending import interruptible


def main() -> int:
    """Run ``convserve``. Ctrl-C before a server runs ends it with one line and exit code 130, SIGTERM at once."""
    if os.getpid() == 1:  # in a container: process 1 gets no signal that it does not handle
        signal.signal(signal.SIGTERM, _end)
    return interruptible("convserve", _run)


def _run() -> int:
    from service.cli import main as run  # noqa: PLC0415 - slow enough to be interrupted

    return run()


def _end(number: int, frame: FrameType | None) -> None:
    """Do what the system does to any other process; nothing has begun that could be finished."""
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
