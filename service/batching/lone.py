"""A batch that has the cores to itself runs on more of them (ADR 12)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from service.batching.policy import BatchingPolicy
from service.batching.run import Run


@dataclass(frozen=True, slots=True)
class LoneRuns:
    """Runs a model's batches one at a time, on more threads than an instance has. Thread-safe.

    For batches that begin while no other runs and that leave nothing waiting, if the one before did so too. What
    arrives meanwhile is run by the instances, beside it and on the same cores.

    Attributes:
        threads: Of each run.
        run: The backend with so many.
        policy: As the instances', but with what batches cost here.
        quicker: For each group, at least one, the buckets that are quicker here than in an instance.
        cores_idle: Tells whether no other model's batches run either.
    """

    threads: int
    run: Run
    policy: BatchingPolicy
    quicker: Mapping[Hashable, frozenset[int]]
    cores_idle: Callable[[], bool] = lambda: True

    def takes(self, rows: int, group: Hashable) -> bool:
        """Tell whether a batch of so many rows that begins now is quicker here."""
        return self.policy.cost.bucket_of(rows) in self._quicker(group) and self.cores_idle()

    def _quicker(self, group: Hashable) -> frozenset[int]:
        quicker = self.quicker.get(group)
        # As the stand-in of the costs: a shape that was never measured is taken for the first that was.
        return quicker if quicker is not None else next(iter(self.quicker.values()))
