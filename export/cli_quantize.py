"""``convserve-export quantize``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from export.cli_numbers import limit
from export.publish_quantized import Wish, quantize_version
from export.quantize import METHODS


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Declare ``quantize``."""
    parser.set_defaults(command=_quantize)
    parser.add_argument("version_dir", type=Path, metavar="VERSION_DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set, laid out as for train")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"default: {METHODS[0]}")
    parser.add_argument(
        "--limit",
        type=limit,
        default=0.3,
        metavar="POINTS",
        help="largest accepted loss of top-1 accuracy, in percentage points (default: 0.3)",
    )
    parser.add_argument("--force", action="store_true", help="publish even if the loss exceeds the limit")
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder of the new model (default: MODEL-METHOD beside MODEL)"
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="how to read the data (default: the version's recipe)")


def _quantize(arguments: argparse.Namespace, console: Console) -> int:
    wish = Wish(arguments.method, arguments.limit, arguments.force, arguments.recipe)

    def say(line: str) -> None:
        console.print(line, markup=False)

    quantize_version(arguments.version_dir, arguments.data, arguments.to, wish, say)
    return 0
