"""Runs on more cores, for a batch that has them to itself (ADR 12)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from service.batching.policy import BatchingPolicy
from service.batching.run import Run


@dataclass(frozen=True, slots=True)
class LoneRuns:
    """Runs a model's batches one at a time, on more threads than an instance has. Thread-safe.

    For batches that begin while no other runs and that leave nothing waiting, if the one before did so too. The
    instances run what arrives meanwhile, beside it and on the same cores.

    Attributes:
        threads: Threads of each run.
        run: The backend with that many threads.
        policy: The instances' policy, but with the cost of batches here.
        quicker: For each group (at least one) the buckets that are quicker here than in an instance.
        cores_idle: Returns whether no other model's batches run.
    """

    threads: int
    run: Run
    policy: BatchingPolicy
    quicker: Mapping[Hashable, frozenset[int]]
    cores_idle: Callable[[], bool] = lambda: True

    def takes(self, rows: int, group: Hashable) -> bool:
        """Return whether a batch of ``rows`` that begins now is quicker here."""
        return self.policy.cost.bucket_of(rows) in self._quicker(group) and self.cores_idle()

    def _quicker(self, group: Hashable) -> frozenset[int]:
        quicker = self.quicker.get(group)
        # A shape that was never measured counts as the first that was, as in the cost model.
        return quicker if quicker is not None else next(iter(self.quicker.values()))
