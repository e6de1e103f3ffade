"""Times a graph at every bucket within a budget. What does not fit is estimated, and learnt in service."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.backend.base import Provider
from service.errors import BackendFailed
from service.repository.batch_view import BatchView
from service.repository.proof import LENGTH_GROUPS, length_group
from service.tensors import TensorSpec

_LONGEST_MEASURED = 64  # tokens; longer groups are extrapolated and then learnt
_FREE_SIZE = 64  # of a free dimension: a short sentence or a small picture; at 1 a row would cost next to nothing
_MOST_FREE = 2  # dimensions of one input; with more the batch would be large
_UNMEASURED_SECONDS = 1e-3
_QUICK_SECONDS = 1e-3  # runs this short are repeated several times in a row, so that parallel runs do overlap
_IN_A_ROW = 3
_TELLING = 10  # samples; fewer may stem from one moment
_Row = list[list[float]]  # samples of every bucket


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a graph, its batch sizes and the most tokens of a sentence (None: no sentences)."""

    graph: BatchView
    provider: Provider
    buckets: Sequence[int]
    max_tokens: int | None


def groups_of(max_tokens: int | None) -> Sequence[int | None]:
    """Return the groups that have costs of their own: lengths of sentences, or only None for other models."""
    if max_tokens is None:
        return [None]
    return [group for group in LENGTH_GROUPS if group < max_tokens] + [length_group(max_tokens)]


def free_sizes(inputs: Sequence[TensorSpec]) -> Sequence[int]:
    """Return the sizes to try for the free dimensions of made-up rows, best first."""
    most_free = max(spec.shape[1:].count(-1) for spec in inputs)
    return (_FREE_SIZE, 1) if 1 <= most_free <= _MOST_FREE else (1,)


class Measuring:
    """Times batches of zeros, or of empty strings, until there is no time left."""

    def __init__(
        self, subject: Subject, threads: int = 1, samples: int = 5, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Know nothing yet.

        Args:
            subject: What is measured. The length of sentences is the free trailing dimension.
            threads: How many runs to make at once: as many as there will be instances.
            samples: How many samples of each batch are enough.
            clock: Returns seconds.
        """
        self._run = subject.graph.run
        self._inputs = subject.graph.inputs
        self._buckets = subject.buckets
        self._clock = clock
        self._threads = threads
        self._enough = samples
        self._groups = groups_of(subject.max_tokens)
        timed = [group for group in self._groups if group is None or group <= _LONGEST_MEASURED]
        self._samples: dict[tuple[int | None, int], list[float]] = {
            (group, bucket): [] for group in timed for bucket in subject.buckets
        }
        self._failed: set[tuple[int | None, int]] = set()
        self._free_size = 1

    def know(self, seconds: Mapping[int, Sequence[float]], tokens: int | None = None) -> None:
        """Use the seconds of earlier runs, by bucket; ``tokens`` is the length of their sentences."""
        group = None if tokens is None else length_group(tokens)
        for bucket, samples in seconds.items():
            if group in self._groups:
                self._samples[group, bucket] = list(samples)

    def measure(self, budget_seconds: float) -> dict[Hashable, _Row]:
        """Spend the given time on enough samples of each batch, smallest batches first.

        Unless something is known already, each bucket runs once, largest first, even if that takes longer: the
        first run of a shape may be slow, and no caller should wait for it.

        Returns:
            For each group and bucket at least one sample in seconds, as ``CostModel`` takes them. A
            third party's graph that does not run on zeros gets a guess.
        """
        stop = self._clock() + budget_seconds
        with ThreadPoolExecutor(self._threads, thread_name_prefix="measuring") as pool:
            if not any(self._samples.values()):
                self._size_up(pool)
                for bucket in reversed(self._buckets[:-1]):
                    self._time(self._groups[0], bucket, pool)
            for _ in range(self._enough):
                for group, bucket in self._samples:
                    if self._clock() + self._expected(group, bucket) <= stop:
                        self._time(group, bucket, pool)
        return self._table()

    def _size_up(self, pool: ThreadPoolExecutor) -> None:
        """Run the largest batch with the first size of free dimensions that the graph accepts."""
        largest = (self._groups[0], self._buckets[-1])
        for size in free_sizes(self._inputs):
            self._free_size = size
            self._failed.discard(largest)
            self._time(*largest, pool)
            if largest not in self._failed:
                break

    def _time(self, group: int | None, bucket: int, pool: ThreadPoolExecutor) -> None:
        samples = self._samples[group, bucket]
        if len(samples) >= self._enough or (group, bucket) in self._failed:
            return
        free = self._free_size if group is None else group
        batch = [
            np.full(
                (bucket, *(free if size == -1 else size for size in spec.shape[1:])),
                "" if spec.datatype == "BYTES" else 0,
                dtype=spec.dtype,
            )
            for spec in self._inputs
        ]
        times = _IN_A_ROW if samples and samples[-1] < _QUICK_SECONDS else 1
        try:
            for seconds in pool.map(self._seconds, [batch] * self._threads, [times] * self._threads):
                samples += seconds
        except BackendFailed:
            self._failed.add((group, bucket))

    def _seconds(self, batch: Sequence[np.ndarray], times: int) -> list[float]:
        seconds = []
        for _ in range(times):
            start = self._clock()
            self._run(batch)
            seconds.append(self._clock() - start)
        return seconds

    def _expected(self, group: int | None, bucket: int) -> float:
        """Guess the seconds of a run: those of the last one, or else in proportion to the dearest of all."""
        if samples := self._samples[group, bucket]:
            return samples[-1]
        length = group or 1
        rates = [taken[-1] / (rows * (other or 1)) for (other, rows), taken in self._samples.items() if taken]
        return max(rates, default=0.0) * bucket * length

    def _table(self) -> dict[Hashable, _Row]:
        rows = {group: self._row(group) for group in self._groups}
        measured = [group for group in self._groups if any(self._samples.get((group, b)) for b in self._buckets)]
        table: dict[Hashable, _Row] = {}
        for group in self._groups:
            if group is None or not measured or group in measured:
                table[group] = rows[group]
            else:  # from the longest shorter group, or else the shortest longer one
                near = max((other for other in measured if other and other < group), default=measured[0])
                assert near is not None
                table[group] = [[seconds * group / near for seconds in samples] for samples in rows[near]]
        return table

    def _row(self, group: int | None) -> _Row:
        """Fill a group's gaps in proportion to the next smaller batch, and cap few samples at the same cost per row.

        Few samples may stem from a moment when something else had the cores, as while a whole machine starts. A larger
        batch seldom costs more per row, and believing that it does keeps it from ever being tried. A cost that is set
        too low is corrected by running the batch.
        """
        row: _Row = []
        for index, bucket in enumerate(self._buckets):
            samples = self._samples.get((group, bucket), [])
            samples = samples[1:] or samples  # the first of several may have warmed it up
            if index and len(samples) < _TELLING:
                factor = bucket / self._buckets[index - 1]
                scaled = [seconds * factor for seconds in row[-1]]
                samples = [min(seconds, *samples) for seconds in scaled] if samples else [min(row[-1]), *scaled]
            row.append(samples or [_UNMEASURED_SECONDS * bucket])
        return row
