"""``convserve-bench profile``: its arguments, and the order of events."""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare import measure
from bench.compare.grounds import Grounds
from bench.compare.machine import commit, machine, require_checkout
from bench.compare.sending import find_programs
from bench.load.options import counts, names, positive
from bench.output import make_folder, require_matplotlib
from bench.peers.cases import NAMES
from bench.profile import table
from bench.profile.flame import svg
from bench.profile.measure import DOORS, profile_model
from bench.profile.plot import draw
from bench.profile.results import Profile, Profiles
from bench.profile.samplers import SamplerFailed
from bench.profile.split import Cost
from bench.profile.watching import find_samplers
from bench.progress import show
from bench.run_folder import RunFolder

_ABOUT = """Show what this server's CPU time is spent on: by thread, from /proc; in the model, the kernel and Python,
from perf; and by Python function, from py-spy. The same load runs once without a sampler, which gives the CPU times,
and once with each sampler. Writes tables, a picture and a flame graph for each load. Run nothing else on the machine.
Exit code: 0; 1 if a model could not be profiled; 2 for invalid arguments."""
_BUNDLED, _MADE = ["lenet5-mnist", "resnet20-cifar10"], ["resnet50", "textcnn-20k"]


def add_command(commands: Any) -> None:
    """Add the command to those of ``convserve-bench``."""
    parser = commands.add_parser("profile", help="show what this server's CPU time is spent on", description=_ABOUT)
    parser.add_argument("--models", type=names(NAMES), metavar="A,B|all",
                        help=f"of {', '.join(NAMES)}; default: {','.join(_BUNDLED)}, with --work {','.join(_MADE)} "
                        "as well")  # fmt: skip
    parser.add_argument(
        "--concurrency", type=counts, metavar="N,N", help="calls in flight; default: 1,16,64; resnet50: 1,4"
    )
    parser.add_argument("--transport", choices=[*DOORS], default="native", help="the transport; default: %(default)s")
    parser.add_argument(
        "--seconds", type=positive, default=4.0, metavar="S", help="length of a measurement; default: %(default)s"
    )
    parser.add_argument("--client", choices=("auto", "h2load", "load"), default="auto",
                        help="default: h2load if it is installed, else load, which needs more CPU")  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder for generated models")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results; new profiles replace "
                        "old ones; default: bench/results/DATE-profile")  # fmt: skip
    parser.add_argument("--show", choices=("text", "markdown"), help="only print the results in --out")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Do what the command says; return the exit code."""
    kept = RunFolder.at(flags.out, "profile")
    if not flags.show:
        return _measured(flags, kept)
    profiles = Profiles.read(kept)
    profiles.profiles = [one for one in profiles.profiles if not flags.models or one.model in flags.models]
    print(table.shown(profiles, flags.show))
    return 0


def _measured(flags: argparse.Namespace, kept: RunFolder) -> int:
    tools = find_samplers()
    programs = find_programs(flags.client, among=("h2load",))
    require_matplotlib("profile")
    require_checkout("profile")
    if flags.work:
        make_folder(flags.work, "--work")
    make_folder(kept.path, "--out")
    profiles = Profiles.read(kept) if kept.results.exists() else Profiles()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    profiles.machine, profiles.date = machine(), date
    models = flags.models or [*_BUNDLED, *(_MADE if flags.work else [])]
    failures = []

    def keep(profile: Profile, costs: Sequence[Cost]) -> None:
        profiles.put(profile)
        profiles.write(kept)
        title = f"{profile.model}, {profile.in_flight} in flight, {profile.transport}: CPU us for an inference"
        door = "" if profile.transport == "native" else f"-{profile.transport}"
        kept.write(f"{profile.model}-{profile.in_flight}{door}.svg", svg(costs, title))

    with tempfile.TemporaryDirectory() as scratch:
        work = flags.work.resolve() if flags.work else None
        grounds = Grounds(work, Path(scratch), install=False)
        terms = measure.Terms(flags.seconds, programs, commit())
        for number, model in enumerate(models):
            show(model, number, len(models))
            try:
                profile_model(model, flags.transport, flags.concurrency, grounds, tools, terms, keep)
            except (SamplerFailed, *measure.FAULTS) as error:
                failures.append(f"{model}: {' '.join(str(error).split())}")
    kept.write("tables.md", table.shown(profiles, "markdown") + "\n")
    draw(profiles, kept.path / "profile.png")
    show("")
    print("\n\n".join([table.shown(profiles, "text"), *failures]))
    return 1 if failures else 0
