"""How a model is best run, chosen by its measured cost. Pure.

A *layout* is the number of instances that run at once and the number of threads of each run. Its table holds l(b)
as measured with all of its instances running, as they do under load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What the server spends on a batch around the run (a thread woken, rows copied, a head made, the
# interpreter's lock waited for), estimated high: a batch that is too small costs everybody's throughput.
BATCH_OVERHEAD_SECONDS = 3e-4
# What it spends on a request elsewhere: HTTP/2 in and out, intake, reply; measured for LeNet-5 at 64 in flight.
ROW_OVERHEAD_SECONDS = 3.5e-5
_AS_FAST = 0.95  # a layout with this share of the greatest throughput is as good
_QUICKER = 0.9  # and is taken for its latency if that is at most this share
_USEFUL = 0.98  # share of the greatest throughput that the largest useful batch has
_FREE = 0.98  # padding to the next bucket costs nothing where the smaller one takes this share of its time
_LEAST_GAINED = 0.625  # of the cores that a batch takes for itself: so many times quicker, at least, as it takes cores
_LONG_ENOUGH_SECONDS = 1e-3
_SHORT_SECONDS = 0.01
_SPLIT = range(4, 8)  # how many instances share the cores where there are more of these

Costs = Sequence[tuple[int, float]]  # (bucket, seconds), ascending


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """Instances, and threads within one run of each; both at least 1."""

    instances: int
    threads: int

    @property
    def session_threads(self) -> int:
        """Threads of the session that all instances share, one caller of ``run`` included.

        All callers share one pool of workers. It is large enough for each instance to have its own workers when all
        of them run; an instance that runs alone has all.
        """
        return self.instances * (self.threads - 1) + 1


def default_layout(cores: int, instances: int = 0, threads: int = 0) -> Layout:
    """Return the layout to use without measurements, keeping what the operator has fixed (0: nothing).

    Up to seven cores get one instance each. More cores get four to seven instances of several threads, in the number
    that leaves the fewest cores idle.
    """
    if not instances:
        instances = cores if cores < _SPLIT.stop else min(_SPLIT, key=lambda count: cores % count)
    return Layout(instances, threads or max(1, cores // instances))


def layouts(cores: int, instances: int = 0, threads: int = 0) -> tuple[Layout, ...]:
    """Return the layouts worth measuring, the default first.

    Args:
        cores: Cores that the process may use.
        instances: The instances that the operator has fixed; 0 for none.
        threads: The threads that the operator has fixed; 0 for none.
    """
    counts = [instances] if instances else [count for count in (1, 2, 3, 4, 6, 8, 12, 16) if count <= cores]
    found = [default_layout(cores, instances, threads), *(default_layout(cores, count, threads) for count in counts)]
    return tuple(dict.fromkeys(found))


def choose_layout(measured: Mapping[Layout, Costs], default: Layout) -> Layout:
    """Choose the layout that answers most rows per second; among equals, the one quickest with a single row.

    The default stays unless another is better by more than the error of a measurement.

    Args:
        measured: What each layout costs; a layout that is missing is no candidate.
        default: The choice if nothing is measured.
    """
    if not measured:
        return default
    rates = {layout: layout.instances * _greatest_rate(costs) for layout, costs in measured.items()}
    enough = _AS_FAST * max(rates.values())
    good = sorted(layout for layout, rate in rates.items() if rate >= enough)
    quickest = min(good, key=lambda layout: measured[layout][0][1])
    if default in good and measured[quickest][0][1] > _QUICKER * measured[default][0][1]:
        return default
    return quickest


def instances_with_room(layout: Layout, row_seconds: float, cores: int) -> int:
    """Return how many of a layout's instances to run so that the threads that feed them have cores left.

    A row of a small model costs less than its way through the server. With an instance on every core,
    intake would wait for the instances, which wait for intake.

    Args:
        layout: The chosen layout.
        row_seconds: What a row costs at the best batch size.
        cores: Cores that the process may use.
    """
    share = row_seconds / (row_seconds + ROW_OVERHEAD_SECONDS)
    return max(1, min(layout.instances, round(cores * share / layout.threads)))


def useful_batch_size(costs: Costs) -> int:
    """Return the smallest batch with nearly the greatest throughput: a larger one makes requests wait for nothing.

    All batches that are short enough are useful: leaving one out would save little.
    """
    enough = _USEFUL * _greatest_rate(costs)
    useful = next(bucket for bucket, seconds in costs if _rate(bucket, seconds) >= enough)
    return max([useful, *(bucket for bucket, seconds in costs if seconds <= _SHORT_SECONDS)])


def useful_buckets(buckets: Sequence[int], tables: Sequence[Sequence[Sequence[float]]]) -> tuple[int, ...]:
    """Return the buckets worth having: those where padding to the next one would cost time, and the largest.

    A bucket is left out only if even its quickest run was no quicker than the slowest run of the next bucket, and
    all runs took long enough to tell. So noise keeps a bucket, which costs little, rather than drops it.

    Args:
        buckets: Ascending.
        tables: At least one, for each group of requests: the samples of each bucket, in seconds.
    """
    kept = [len(buckets) - 1]
    for index in range(len(buckets) - 2, -1, -1):
        if any(min(table[index]) < max(_LONG_ENOUGH_SECONDS, _FREE * max(table[kept[-1]])) for table in tables):
            kept.append(index)
    return tuple(buckets[index] for index in reversed(kept))


def lone_threads(cores: int, threads: int, most: int = 0) -> tuple[int, ...]:
    """Return the numbers of threads worth trying for a batch that has the cores to itself, the greatest first.

    Args:
        cores: Cores that the process may use.
        threads: Threads of an instance's run.
        most: The most threads that the operator allows; 0 for all cores.
    """
    found = []
    count = min(cores, most or cores)
    while count > threads:
        found.append(count)
        count //= 2
    return tuple(found)


def quicker_alone(
    buckets: Sequence[int],
    threads: int,
    usual: Sequence[Sequence[float]],
    lone_threads: int,
    lone: Sequence[Sequence[float]],
) -> frozenset[int]:
    """Return the buckets for which more threads pay: quicker by a tenth, and no bad use of the cores.

    Compares the quickest runs, which other work on the machine disturbs least.

    Args:
        buckets: Ascending.
        threads: Threads of an instance's run.
        usual: For each bucket at least one sample of an instance's run, in seconds.
        lone_threads: Threads of a run that has the cores to itself.
        lone: For each bucket at least one sample of such a run, in seconds.
    """
    most = min(_QUICKER, threads / lone_threads / _LEAST_GAINED)
    return frozenset(
        bucket for bucket, seconds, alone in zip(buckets, usual, lone, strict=True) if min(alone) <= most * min(seconds)
    )


def _greatest_rate(costs: Costs) -> float:
    return max(_rate(bucket, seconds) for bucket, seconds in costs)


def _rate(bucket: int, seconds: float) -> float:
    return bucket / (seconds + BATCH_OVERHEAD_SECONDS)
