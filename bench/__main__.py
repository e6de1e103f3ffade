"""``python -m bench`` is ``convserve-bench``."""

import sys


def main() -> int:
    """Run ``convserve-bench``; Ctrl-C ends it with one line and 130, at whatever instant."""
    try:
        from bench.cli import main as run  # noqa: PLC0415 - slow enough to be interrupted

        return run()
    except KeyboardInterrupt:
        print("convserve-bench: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


if __name__ == "__main__":
    sys.exit(main())
