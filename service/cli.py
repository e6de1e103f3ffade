"""The command line: parse, call, print. No logic."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from service import __version__, logs, settings
from service.client_flags import add_credential_flags
from service.ending import printing
from service.errors import LoadError, SettingsError

_OF_TRITON = {  # flags by which its users begin
    "--model-repository": "--models",
    "--model-store": "--models",
    "--metrics-port": "--http-port",
    "--load-model": "--load-models",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``convserve``; return the exit code.

    0 means success, 1 that a call failed or that inspect found a version unfit to be served, 2 a wrong setting.
    """
    _fill_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter shows its number
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        return printing("convserve", lambda: int(flags.run(flags)))
    except (SettingsError, LoadError) as error:
        print(f"convserve: {error}", file=sys.stderr)
        return 2


def _fill_descriptors() -> None:
    """Open those of standard input, output and error that are closed, as nothing.

    A socket would become descriptor 2 otherwise, and get what libraries write to standard error.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convserve", allow_abbrev=False, description="Serve CNN classifiers over gRPC."
    )
    parser.add_argument("--version", action="version", version=f"convserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve a model repository",
        usage="%(prog)s [-h] [--config FILE.toml] --models DIR [--SETTING VALUE ...]",
        description="Serve a model repository. A flag --grpc-port is also the environment variable "
        "CONVSERVE_GRPC_PORT and the key grpc_port of the TOML file; the first of the three that is given counts. "
        "MODEL/serving.toml overrides some settings for one model.",
    )
    settings.add_flags(serve)
    for flag, ours in _OF_TRITON.items():
        serve.add_argument(flag, action=_NamedOtherwise, const=ours, nargs="?", help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    classify = commands.add_parser("classify", help="classify pictures or sentences on a running server")
    classify.add_argument("--server", default="127.0.0.1:8001", metavar="HOST:PORT", help="default: %(default)s")
    classify.add_argument("--model", required=True, metavar="NAME")
    classify.add_argument("--model-version", default="", metavar="N", help="default: the newest version that is ready")
    classify.add_argument(
        "--top-k", type=int, default=5, metavar="K", help="number of labels to print (default: %(default)s)"
    )
    classify.add_argument("--timeout-seconds", type=float, default=30.0, metavar="S", help="default: %(default)s")
    classify.add_argument("--explain", action="store_true", help="also print the time of each phase and the batch")
    classify.add_argument(
        "--text", nargs="+", action="extend", metavar="SENTENCE", help="classify sentences instead of pictures"
    )
    classify.add_argument("pictures", nargs="*", metavar="PICTURE", help="JPEG, PNG, WebP, GIF, BMP or TIFF files")
    add_credential_flags(classify)
    classify.set_defaults(run=_classify)

    inspect = commands.add_parser("inspect", help="describe a model version or a repository")
    inspect.add_argument("path", metavar="MODEL_OR_REPOSITORY")
    inspect.add_argument(
        "--measure-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="time limit of measuring batch costs, for each layout of instances and threads (default: %(default)s)",
    )
    inspect.set_defaults(run=_inspect)
    for command in commands.choices.values():
        command.allow_abbrev = False  # what is typed by half is a slip, and means something else with the next flag
    return parser


class _NamedOtherwise(argparse.Action):
    """Names the flag, ``const``, that stands for one of another server."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, __: object, flag: str | None = None) -> NoReturn:
        parser.exit(2, f"convserve: {flag} is {self.const} here; docs/operations.md has a table for users of Triton\n")


def _serve(flags: argparse.Namespace) -> int:
    _check_runtime()
    resolved = settings.resolve(flags)
    logs.set_up(resolved.log_level, resolved.log_format)
    from service import server  # noqa: PLC0415 - the runtime is checked before it is imported

    return server.run(resolved)


def _classify(flags: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else gRPC logs beside our one line why it could not connect
    from service.client import classify  # noqa: PLC0415 - `serve` needs no client

    try:
        return classify.classify_and_print(flags)
    except classify.NotClassified as error:
        print(f"convserve: {error}", file=sys.stderr)
        return 1


def _inspect(flags: argparse.Namespace) -> int:
    _check_runtime()
    from service import inspection  # noqa: PLC0415 - the runtime is checked before it is imported

    return 1 if inspection.print_report(flags.path, flags.measure_seconds) else 0


def _check_runtime() -> None:
    """See that exactly one of the extras `cpu` and `gpu` is installed: both install the same import package.

    Raises:
        SettingsError: Neither or both are; gives the command that mends it.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if not installed:
        raise SettingsError("no ONNX Runtime: pip install '.[cpu]' or '.[gpu]' in the checkout")
    if len(installed) > 1:
        raise SettingsError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install '.[cpu]' or '.[gpu]' in the checkout"
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
