"""How many threads make a batch that has the cores to itself quicker, and what it costs then (ADR 12)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from service.batching import choice
from service.batching.choice import Layout
from service.batching.cost import CostModel
from service.processors import usable_cores
from service.repository.kept_costs import Entry, Samples, summarise
from service.repository.measuring import Measuring, Subject
from service.repository.pricing import Pricing, samples_of
from service.settings import Settings

_WORTH_SECONDS = 3e-4  # a row that takes less gains little from more threads, and a session costs memory
_MEASURING_SECONDS = 0.25  # for each number of threads, besides one run of every batch size

Quicker = Mapping[Hashable, frozenset[int]]


class Disturbed(Exception):
    """Batches ran beside a measurement, which is therefore void."""


class LonePricing:
    """Compares a run on more threads with an instance's run, both with the cores to themselves."""

    def __init__(self, pricing: Pricing, settings: Settings) -> None:
        """Keep the version's pricing and settings."""
        self._pricing = pricing
        self._settings = settings
        self._threads = pricing.layout.threads
        self._measured: dict[int, Samples] = {}

    def candidates(self, usual: Subject) -> Sequence[int]:
        """Return the numbers of threads that may be quicker, best first, without those known not to be.

        There are none if the operator has fixed the threads of a run or has given the model less weight than others,
        or if a row takes hardly any time.
        """
        settings = self._settings
        if settings.intra_op_threads or settings.weight < 1 or self._pricing.row_seconds < _WORTH_SECONDS:
            return ()
        alone = self._known(usual, self._threads)
        found = []
        for threads in choice.lone_threads(usable_cores(), self._threads, settings.lone_threads):
            lone = self._known(usual, threads)
            if alone is None or lone is None or self._quicker(usual, alone, threads, lone):
                found.append(threads)
        return found

    def knows(self, usual: Subject, candidates: Iterable[int]) -> bool:
        """Return whether everything to be compared has been measured."""
        return all(self._known(usual, threads) is not None for threads in (self._threads, *candidates))

    def price(
        self, usual: Subject, lone: Subject, threads: int, undisturbed: Callable[[], bool]
    ) -> tuple[CostModel, Quicker] | None:
        """Return the costs, kept or measured now, and the buckets that are quicker, by group; None if none is.

        Raises:
            Disturbed: A batch did.
        """
        alone = self._table(usual, self._threads, undisturbed)
        table = self._table(lone, threads, undisturbed)
        quicker = self._quicker(usual, alone, threads, table)
        # Costs of every bucket: a batch is not padded beyond the size that was found to be quicker.
        return (CostModel(lone.buckets, table), quicker) if quicker else None

    def _known(self, subject: Subject, threads: int) -> Samples | None:
        if threads in self._measured:
            return self._measured[threads]
        entry = self._entry(subject)
        return samples_of(entry.lone_of(threads), subject)

    def _entry(self, subject: Subject) -> Entry:
        """Return what is kept, read anew: `convserve inspect` may write it too."""
        entry = self._pricing.kept.read(self._pricing.key)
        if entry is None or entry.provider != subject.provider.actual:
            return Entry(self._pricing.key, subject.provider.actual, ())
        return entry

    def _table(self, subject: Subject, threads: int, undisturbed: Callable[[], bool]) -> Samples:
        table = self._known(subject, threads)
        if table is None:
            table = Measuring(subject).measure(_MEASURING_SECONDS)
            if not undisturbed():
                raise Disturbed
            self._measured[threads] = table
            self._pricing.kept.write(
                self._entry(subject).updated_lone(summarise(Layout(1, threads), table, subject.buckets))
            )
        return table

    def _quicker(self, subject: Subject, alone: Samples, threads: int, lone: Samples) -> Quicker:
        quicker = {
            group: choice.quicker_alone(subject.buckets, self._threads, usual, threads, lone[group])
            for group, usual in alone.items()
        }
        return quicker if any(quicker.values()) else {}
