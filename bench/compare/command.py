"""``convserve-bench compare``: its arguments, and the order of events."""

from __future__ import annotations

import argparse
import datetime
import os
import tempfile
from pathlib import Path
from typing import Any

from bench.compare import measure, table
from bench.compare.grounds import HERE, Grounds
from bench.compare.machine import commit, machine, require_checkout
from bench.compare.plot import draw
from bench.compare.results import Results
from bench.compare.sending import find_programs
from bench.compare.stand import interleaved, take
from bench.errors import OptionsInvalid
from bench.load import steal
from bench.load.options import count, counts, names, positive
from bench.output import make_folder, require_matplotlib
from bench.peers import PEERS
from bench.peers.cases import NAMES
from bench.progress import show
from bench.run_folder import RunFolder

_ABOUT = """Measure servers side by side with the same ONNX files: throughput, latency, CPU time of all the server's
processes per inference, memory, start time, size. In each turn, a peer is started, its answers are checked, load is
sent, its answers are checked again, and it is stopped. Turns alternate: A B C, A B C, …. A failure becomes a row that
states the reason. Run nothing else on the machine. Exit code: 0; 1 if a turn failed; 2 for invalid arguments."""


def add_command(commands: Any) -> None:
    """Add the command to those of ``convserve-bench``."""
    parser = commands.add_parser("compare", help="compare servers and bare ONNX Runtime", description=_ABOUT)
    some = [name for name, peer in PEERS.items() if peer.home in HERE]
    parser.add_argument("--peers", type=names(PEERS), default=some, metavar="A,B|all",
                        help=f"of {', '.join(PEERS)}; default: {','.join(some)}")  # fmt: skip
    parser.add_argument("--models", type=names(NAMES), metavar="A,B|all",
                        help=f"of {', '.join(NAMES)}; default: lenet5-mnist, --show: all")  # fmt: skip
    parser.add_argument(
        "--concurrency", type=counts, metavar="N,N", help="calls in flight; default: 1,16,64; resnet50: 1,4"
    )
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=positive, default=3.0, metavar="S", help="length of a measurement; default: %(default)s"
    )
    parser.add_argument("--client", choices=("auto", "h2load", "perf_analyzer", "load"), default="auto",
                        help="gRPC load generator; default: the first of these that is installed")  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder for environments and generated "
                        "models; without it, bare and convserve run in the current environment")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="results; default: bench/results/DATE-compare")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--append", action="store_true", help="add rounds to the results in --out")
    keep.add_argument("--replace", action="store_true", help="first delete the results of these peers and models")
    keep.add_argument("--show", choices=("text", "markdown", "short"), help="only print the results in --out")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Do what the command says; return the exit code."""
    kept = RunFolder.at(flags.out, "compare")
    if not flags.show:
        flags.models = flags.models or ["lenet5-mnist"]
        return _measured(flags, kept)
    results = Results.read(kept)
    if flags.models:
        results.forget({row.model for row in results.loads} - {*flags.models}, results.peers)
    print(table.shown(results, flags.show))
    return 0


def _measured(flags: argparse.Namespace, kept: RunFolder) -> int:
    programs = find_programs(flags.client)
    require_matplotlib("compare")
    require_checkout("compare")
    if flags.work:
        make_folder(flags.work, "--work")
    results = _opened(flags, kept)
    before = len(results.failures)
    first = results.next_round(flags.models, flags.peers)
    turns = interleaved(flags.peers, flags.models, flags.rounds, first)
    arguments = {name: value for name, value in vars(flags).items() if name not in {"run", "show", "work", "out"}}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run_about = {"date": date, "commit": commit(), "load_average": os.getloadavg()[0], **arguments}
    results.machine, results.runs = machine(), [*results.runs, run_about]
    ticks = steal.read_ticks()
    with tempfile.TemporaryDirectory() as scratch:
        terms = measure.Terms(flags.seconds, programs, run_about["commit"])
        work = flags.work.resolve() if flags.work else None
        grounds = Grounds(work, Path(scratch))
        take(turns, flags.concurrency, terms, grounds, results, kept)
    run_about["steal"] = steal.worst_share(ticks, steal.read_ticks())
    results.write(kept)
    kept.write("loads.csv", table.csv_text(results))
    kept.write("tables.md", table.shown(results, "markdown") + "\n")
    draw(results, kept.path / "compare.png")
    show("")
    print(table.shown(results, "text"))
    if doubt := steal.warning(run_about["steal"]):
        print(f"\n{doubt}")
    return 1 if len(results.failures) > before else 0


def _opened(flags: argparse.Namespace, kept: RunFolder) -> Results:
    """Return the results to add to.

    Raises:
        OptionsInvalid: There are some, and nothing says what to do with them, something else is there, or
            the folder cannot be made.
    """
    if not kept.results.exists():
        make_folder(kept.path, "--out")
        return Results()
    if not (flags.append or flags.replace):
        raise OptionsInvalid(
            f"{kept.results} exists already: give --append to add rounds, or --replace to measure these peers again"
        )
    results = Results.read(kept)
    if flags.replace:
        results.forget(flags.models, flags.peers)
    return results
