"""``python -m service`` is ``convserve``."""

import sys


def main() -> int:
    """Run ``convserve``. Ctrl-C before a server runs ends it with one line and exit code 130, at any point."""
    try:
        from service.cli import main as run  # noqa: PLC0415 - slow enough to be interrupted

        return run()
    except KeyboardInterrupt:
        print("convserve: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


if __name__ == "__main__":
    sys.exit(main())
