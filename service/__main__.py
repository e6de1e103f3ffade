"""``python -m service`` is ``convserve``."""

import sys

from service.ending import interruptible


def main() -> int:
    """Run ``convserve``. Ctrl-C before a server runs ends it with one line and exit code 130, at any point."""
    return interruptible("convserve", _run)


def _run() -> int:
    from service.cli import main as run  # noqa: PLC0415 - slow enough to be interrupted

    return run()


if __name__ == "__main__":
    sys.exit(main())
