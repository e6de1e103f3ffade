"""A second session of a version, with more threads, for batches that have the cores to themselves (ADR 12)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable

from service.backend.onnx import OnnxBackend
from service.batching.batcher import Batcher
from service.batching.lone import LoneRuns
from service.cores import Cores, Taking
from service.errors import LoadError
from service.manifest import MODEL_FILE
from service.repository import store
from service.repository.attempt import Attempt
from service.repository.batch_view import BatchView, batch_view
from service.repository.lone_pricing import Disturbed, LonePricing
from service.repository.measuring import Subject
from service.repository.pricing import useful_batch_size
from service.repository.store import Fingerprint, VersionFolder

_LOG = logging.getLogger(__name__)
_MOST_LEFT_OUT = 256  # looks that are skipped after one in vain


class LoneSession:
    """Opened after its version is READY, which does not wait for it. For one thread at a time.

    Attributes:
        settled: Whether the session is open, or known not to be worth it.
        runs: What the batcher was given; None if the session is not open.
    """

    def __init__(
        self,
        folder: VersionFolder,
        fingerprint: Fingerprint,
        pricing: LonePricing,
        subject: Subject,
        prove: Callable[[BatchView], object],
        cores: Cores,
    ) -> None:
        """Open nothing yet.

        Args:
            folder: The version's folder.
            fingerprint: The fingerprint of what is served, weights beside the model file included.
            pricing: The version's lone pricing.
            subject: The version as instances run it, on the CPU.
            prove: Replays the golden vectors; raises LoadError.
            cores: Told when the session's runs take cores.
        """
        self._folder = folder
        self._fingerprint = fingerprint
        self._pricing = pricing
        self._subject = subject
        self._prove = prove
        self._cores = cores
        self._backend: OnnxBackend | None = None
        self._taking: Taking | None = None
        self._in_vain = self._left_out = 0
        self.settled = False
        self.runs: LoneRuns | None = None

    def open(self, batcher: Batcher, attempt: Attempt | None = None) -> None:
        """Open, prove and price the session, and give it to the batcher. Call this at intervals until it is settled.

        It takes as long as loading the version, and some three times as long the first time on a machine. Unknown costs
        are measured while no batch runs; a disturbed measurement is repeated, ever more seldom. The session holds the
        weights a second time, so one that is not worth that is dropped. One that fails the golden vectors, whose file
        has changed, or that was given up is not used, which harms nobody: the instances run everything.
        """
        attempt = attempt or Attempt()
        if self._left_out:
            self._left_out -= 1
            return
        candidates = self._pricing.candidates(self._subject)
        if candidates and not self._cores.idle and not self._pricing.knows(self._subject, candidates):
            return
        fields: dict[str, object] = {"model": self._folder.name, "version": self._folder.version}
        begun = self._cores.begun
        try:
            self.runs = self._opened(candidates, batcher, lambda: self._cores.begun == begun, attempt)
        except Disturbed:
            self._in_vain += 1
            self._left_out = min(2**self._in_vain, _MOST_LEFT_OUT)
            return
        except LoadError as error:
            _LOG.warning("batches that run alone get no extra threads: %s", error, extra={"fields": fields})
        except Exception:  # no memory, no thread
            _LOG.exception("batches that run alone get no extra threads", extra={"fields": fields})
        self.settled = True
        if self.runs is not None:
            batcher.run_alone_by(self.runs)
            fields["threads"] = self.runs.threads
            _LOG.info("batches that run alone use more threads", extra={"fields": fields})

    def interrupt(self) -> None:
        """Like :meth:`service.backend.base.Backend.interrupt`; the cores of running batches count as free."""
        if self._backend is not None:
            self._backend.interrupt()
        if self._taking is not None:
            self._taking.give_up()

    def give_up(self) -> None:
        """Settle for no session: opening it takes too long."""
        self.settled = True

    def _opened(
        self, candidates: Iterable[int], batcher: Batcher, undisturbed: Callable[[], bool], attempt: Attempt
    ) -> LoneRuns | None:
        """Return the runs with the most threads that make any batch quick enough; None if none do."""
        path, cores = self._folder.path / MODEL_FILE, self._cores
        for threads in candidates:
            backend = OnnxBackend(path, "cpu", threads, lone=True)
            if store.fingerprint(self._folder) != self._fingerprint:
                return None  # the served files are gone; if the change is to be followed, it will be soon
            attempt.interruptible_by(backend.interrupt)
            graph = batch_view(backend, self._subject.graph.batched)
            self._prove(graph)
            lone = dataclasses.replace(self._subject, graph=graph)
            priced = self._pricing.price(self._subject, lone, threads, undisturbed)
            if priced is not None:
                cost, quicker = priced
                policy = dataclasses.replace(batcher.policy, cost=cost, useful_batch_size=useful_batch_size(cost))
                attempt.commit()
                run = cores.taken_by(graph.run, threads)
                self._backend, self._taking = backend, run
                return LoneRuns(threads, run, policy, quicker, cores_idle=lambda: cores.idle)
        return None
