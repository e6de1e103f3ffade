"""``python -m service`` is ``convserve``."""

import sys


def main() -> int:
    """Run ``convserve``; Ctrl-C ends what is no server yet with one line and 130, at whatever instant."""
    try:
        from service.cli import main as run  # noqa: PLC0415 - slow enough to be interrupted

        return run()
    except KeyboardInterrupt:
        print("convserve: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


if __name__ == "__main__":
    sys.exit(main())
