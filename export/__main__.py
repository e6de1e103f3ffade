"""``python -m export`` is ``convserve-export``. Failures while it is imported are reported in one line, too."""

import sys

from service.ending import interruptible, leave_on_signals

_OF_THE_EXTRA = {"torch", "torchvision", "onnx", "onnxscript", "rich", "onnxruntime"}


def main() -> int:
    """Run ``convserve-export``; see :func:`export.cli.main` for the exit codes."""
    leave_on_signals()
    return interruptible("convserve-export", _run)


def _run() -> int:
    try:
        from export.cli import main as run  # noqa: PLC0415 - torch may be missing, and takes seconds to interrupt

        return run()
    except ModuleNotFoundError as error:
        if error.name not in _OF_THE_EXTRA:
            raise
        complaint = f"{error.name} is not installed: pip install '.[cpu,export]' in the checkout"
        print(f"convserve-export: {complaint}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
