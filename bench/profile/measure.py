"""One model profiled: its server under each load, alone and with each sampler, then ONNX Runtime alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.compare import measure
from bench.compare.grounds import Grounds
from bench.compare.results import Turn
from bench.compare.sending import Sender
from bench.peers import PEERS
from bench.peers.bare import Bare
from bench.peers.base import Case
from bench.profile import samplers
from bench.profile.results import Profile
from bench.profile.split import Cost, Thread, by_phase, by_thread, split
from bench.profile.watching import BatchCounter, Samplers, ThreadClock, perf_script, sampling, thread_names
from bench.progress import show

BARE = "bare-1-thread"
_ALONE_SECONDS = 2.0
DOORS = {"native": "convserve", "grpcio": "convserve-grpcio"}
Keep = Callable[[Profile, Sequence[Cost]], None]


def profile_model(
    model: str, transport: str, loads: Sequence[int] | None, grounds: Grounds, tools: Samplers, terms: measure.Terms,
    keep: Keep,
) -> None:  # fmt: skip
    """Profile the server with one model, load after load.

    Args:
        model: Its name.
        transport: The server's transport.
        loads: Calls in flight; None: those that suit the model.
        grounds: What turns share.
        tools: Samplers.
        terms: What all turns have in common.
        keep: Called with each profile, in microseconds per answer, and the stacks that make it up.

    Raises:
        PeerFailed: The server did not come up, or answered wrongly.
        ClientFailed: A load gave no measurement.
        SamplerFailed: perf or py-spy failed.
    """
    peer = PEERS[DOORS[transport]]
    case, expected = grounds.case(model)
    place = grounds.place(peer)
    show(f"{model}: starting")
    with measure.checked(peer, case, place, expected, terms) as (running, _, sender):
        names = thread_names(tools.spy, running.process.pid)
        found = [
            _under_load(model, transport, in_flight, sender, names, tools, terms)
            for in_flight in loads or case.in_flight or (1, 16, 64)
        ]
    alone = _alone(case, grounds, {rows for one, _ in found for rows in around(one.rows_a_batch)}, terms)
    for one, costs in found:
        keep(replace(one, bare_us=between(alone, one.rows_a_batch)), costs)


def _under_load(
    model: str, transport: str, in_flight: int, sender: Sender, names: Mapping[int, str], tools: Samplers,
    terms: measure.Terms,
) -> tuple[Profile, list[Cost]]:  # fmt: skip
    """Measure without samplers, then find out with each of them what the CPU was used for."""
    pid, place = sender.running.process.pid, sender.place
    clock, batches = ThreadClock(pid), BatchCounter(place.spare_port)
    show(f"{model}: {in_flight} in flight")
    # The clock within the counter, whose scrapes cost the server something too.
    sent = sender.measure(in_flight, terms.seconds, _beside(batches, clock))
    files = [place.folder / name for name in ("perf.data", "spy.txt")]
    commands = [
        samplers.perf_command(tools.perf, pid, files[0]),
        samplers.spy_command(tools.spy, pid, files[1]),
    ]
    costs_of_looking = []
    for command, file in zip(commands, files, strict=True):
        show(f"{model}: {in_flight} in flight, with {Path(command[0]).name}")
        costs_of_looking.append(sender.measure(in_flight, terms.seconds, sampling(command, file)).cpu_us)
    on_core = [*samplers.parse_perf(perf_script(tools.perf, files[0]))]
    in_python = samplers.parse_spy(files[1].read_text())
    a_call = 1e6 / sent.load.answers
    threads = [
        Thread(number, names.get(number, name), number in names, seconds * a_call)
        for number, (name, seconds) in clock.threads.items()
    ]
    costs = split(threads, clock.total_seconds * a_call, on_core, in_python)
    profile = Profile(
        model=model,
        in_flight=in_flight,
        transport=transport,
        client=sent.client,
        commit=terms.commit,
        answers=sent.load.answers,
        per_second=sent.load.per_second,
        p50_ms=sent.load.p50_ms,
        rows_a_batch=batches.rows_a_batch,
        padding=batches.padding,
        cpu_us=clock.total_seconds * a_call,
        phases={str(phase): cpu for phase, cpu in by_phase(costs).items()},
        threads=by_thread(costs),
        bare_us=math.nan,  # not known yet
        sampled_us=(costs_of_looking[0], costs_of_looking[1]),
        samples=(len(on_core), sum(stacks.total() for stacks in in_python.values())),
    )
    return profile, costs


@contextmanager
def _beside(*contexts: AbstractContextManager[object]) -> Iterator[None]:
    with ExitStack() as entered:
        for context in contexts:
            entered.enter_context(context)
        yield


def _alone(case: Case, grounds: Grounds, batches: Iterable[int], terms: measure.Terms) -> dict[int, float]:
    """Return the CPU of ONNX Runtime alone, in microseconds per row, by the rows of a batch."""
    bare = PEERS[BARE]
    assert isinstance(bare, Bare)
    terms = replace(terms, seconds=min(terms.seconds, _ALONE_SECONDS))
    rows = measure.bare_loop(Turn(BARE, case.name, 0), bare, case, grounds.place(bare), sorted(batches), terms)
    return {row.in_flight: row.cpu_us for row in rows}


def around(rows_a_batch: float) -> tuple[int, int]:
    """Return the whole numbers below and above a mean."""
    return max(1, math.floor(rows_a_batch)), max(1, math.ceil(rows_a_batch))


def between(alone: Mapping[int, float], rows_a_batch: float) -> float:
    """Return the cost of a row in batches of ``rows_a_batch`` rows on average, interpolated.

    >>> between({5: 100.0, 6: 90.0}, 5.5)  # 500 and 540 for a batch
    94.54545454545455
    """
    low, high = around(rows_a_batch)
    part = (rows_a_batch - low) / (high - low) if high > low else 0.0
    return (alone[low] * low * (1 - part) + alone[high] * high * part) / (low * (1 - part) + high * part)
