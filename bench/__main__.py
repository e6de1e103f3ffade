"""``python -m bench`` is ``convserve-bench``."""

import signal
import sys
from types import FrameType


def main() -> int:
    """Run ``convserve-bench``; Ctrl-C ends it with one line and 130, at whatever instant, SIGTERM with 143."""
    signal.signal(signal.SIGTERM, _end)
    try:
        from bench.cli import main as run  # noqa: PLC0415 - slow enough to be interrupted

        return run()
    except KeyboardInterrupt:
        print("convserve-bench: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


def _end(number: int, frame: FrameType | None) -> None:
    """Leave by way of all context managers: client processes would go on sending without us."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
