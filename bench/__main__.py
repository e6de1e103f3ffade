"""``python -m bench`` is ``convserve-bench``."""

import os
import sys

from service.ending import interruptible, leave_on_signals


def main() -> int:
    """Run ``convserve-bench``. Ctrl-C ends it with one line and exit code 130, SIGTERM with 143, SIGHUP with 129."""
    leave_on_signals()  # otherwise client processes would go on sending
    return interruptible("convserve-bench", _run)


def _run() -> int:
    """Import the commands, which is slow enough to be interrupted, and keep gRPC from logging beside our lines."""
    variable, before = "GRPC_VERBOSITY", os.environ.get("GRPC_VERBOSITY")
    os.environ.setdefault(variable, "NONE")
    from bench.cli import main as run  # noqa: PLC0415

    if before is None:
        del os.environ[variable]  # servers that are started from here may log
    return run()


if __name__ == "__main__":
    sys.exit(main())
