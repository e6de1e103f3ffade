"""A second session of a version, with more threads, for batches that have the cores to themselves (ADR 12)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from service.backend.onnx import OnnxBackend
from service.batching.batcher import Batcher
from service.batching.lone import LoneRuns
from service.cores import Cores
from service.errors import LoadError
from service.manifest import MODEL_FILE
from service.repository.batch_view import BatchView, batch_view
from service.repository.pricing import Pricing, Subject, useful_batch_size
from service.repository.proof import Proof
from service.repository.store import VersionFolder

_LOG = logging.getLogger(__name__)
_MOST_TRIES = 5


class LoneSession:
    """Opened once its version is READY, which does not wait for it. For one thread at a time.

    Attributes:
        settled: Whether it is open, or known not to be worth it.
        threads: Of its runs; 0 while it is not open.
        runs: What the batcher was given; None while it is not open.
    """

    def __init__(
        self,
        folder: VersionFolder,
        pricing: Pricing,
        subject: Subject,
        prove: Callable[[BatchView], Proof | None],
        cores: Cores,
    ) -> None:
        """Open nothing yet.

        Args:
            folder: Of the version.
            pricing: Has priced the version.
            subject: The version as instances run it, on the CPU.
            prove: Replays the golden vectors; raises LoadError.
            cores: Told when its runs take them.
        """
        self._folder = folder
        self._pricing = pricing
        self._subject = subject
        self._prove = prove
        self._cores = cores
        self._backend: OnnxBackend | None = None
        self._tries = 0
        self.settled = False
        self.threads = 0
        self.runs: LoneRuns | None = None

    def open(self, batcher: Batcher) -> None:
        """Open, prove and price it, and give it to the batcher; :attr:`settled` tells whether that was all.

        Takes as long as loading the version did. It is priced while no batch runs, or again at the next call; and it
        holds the weights once more, so the one that is not worth that is dropped. One that does not answer as the
        golden vectors say is not used, which harms nobody: the instances run everything.
        """
        if not self._cores.idle:
            return
        self._tries += 1
        begun = self._cores.begun
        for threads in self._pricing.lone_threads(self._subject):
            if self._try(threads, batcher, lambda: self._cores.begun == begun):
                return
        self.settled = self._cores.begun == begun or self._tries == _MOST_TRIES

    def interrupt(self) -> None:
        """As :meth:`service.backend.base.Backend.interrupt`."""
        if self._backend is not None:
            self._backend.interrupt()

    def _try(self, threads: int, batcher: Batcher, undisturbed: Callable[[], bool]) -> bool:
        fields = {"model": self._folder.name, "version": self._folder.version, "threads": threads}
        try:
            backend = self._backend = OnnxBackend(self._folder.path / MODEL_FILE, "cpu", threads, lone=True)
            graph = batch_view(backend)
            golden = self._prove(graph)
        except LoadError as error:
            _LOG.warning("no batch runs on more threads when alone: %s", error, extra={"fields": fields})
            self._backend = None
            self.settled = True
            return True
        subject = Subject(graph, backend.provider, self._subject.buckets, self._subject.max_tokens)
        priced = self._pricing.price_lone(subject, threads, golden, undisturbed)
        if priced is None:
            self._backend = None
            return False
        cost, quicker = priced
        policy = dataclasses.replace(batcher.policy, cost=cost, useful_batch_size=useful_batch_size(cost))
        run = self._cores.taken_by(graph.run, threads)
        self.runs, self.threads = LoneRuns(run, policy, quicker, cores_idle=lambda: self._cores.idle), threads
        batcher.run_alone_by(self.runs)
        self.settled = True
        _LOG.info("batches that are alone run on more threads", extra={"fields": fields})
        return True
