"""``python -m export`` is ``convserve-export``. Failures while it is imported are reported in one line, too."""

import sys

_OF_THE_EXTRA = {"torch", "torchvision", "onnx", "onnxscript", "rich", "onnxruntime"}


def main() -> int:
    """Run ``convserve-export``; see :func:`export.cli.main` for the exit codes."""
    try:
        from export.cli import main as run  # noqa: PLC0415 - torch may be missing, and takes seconds to interrupt

        return run()
    except ModuleNotFoundError as error:
        if error.name not in _OF_THE_EXTRA:
            raise
        complaint = f"{error.name} is not installed: pip install '.[cpu,export]' in the checkout"
        print(f"convserve-export: {complaint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convserve-export: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells count


if __name__ == "__main__":
    sys.exit(main())
