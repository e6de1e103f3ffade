"""Turns a version on disk into a servable: opens it, proves it, prices it and starts its batcher."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.backend.cuda import CudaOptions
from service.backend.onnx import OnnxBackend
from service.batching.admission import BatcherLimits
from service.batching.assembly import BatchBuffer
from service.batching.batcher import Batcher
from service.batching.cost import CostModel, buckets_up_to
from service.batching.policy import BatchingPolicy
from service.batching.priority import Priorities
from service.batching.response_cache import ResponseCache
from service.batching.run import Run
from service.batching.sharing import SharedAnswers
from service.cores import Cores, Taking
from service.digests import check_digests, digest_of, uncovered
from service.errors import GraphNotRunnable, ManifestInvalid
from service.golden import Golden
from service.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, read_manifest
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.preprocessing.image import ImageLimits
from service.preprocessing.prepare import Preparer
from service.repository import proof, store
from service.repository.agreement import check_graph, labels_of
from service.repository.attempt import Attempt
from service.repository.batch_view import BatchView, batch_view
from service.repository.lone_pricing import LonePricing
from service.repository.lone_session import LoneSession
from service.repository.measuring import Subject
from service.repository.metered import MeteredBatches
from service.repository.pricing import Pricing, useful_batch_size
from service.repository.rows_apart import answers_rows_apart
from service.repository.servable import Servable
from service.repository.store import VersionFolder
from service.scheduling import at_weight
from service.settings import Settings
from service.spec import TextSpec

_LOG = logging.getLogger(__name__)
_DEFAULT_MAX_BATCH_SIZE = 32


def load(
    folder: VersionFolder,
    settings: Settings,
    metrics: Metrics,
    on_death: Callable[[], None] = lambda: None,
    attempt: Attempt | None = None,
    cache: ResponseCache | None = None,
    cores: Cores | None = None,
) -> Servable:
    """Load one version and prove that it answers as it did at export.

    Blocks, from tens of milliseconds to seconds. Nothing is registered: the lifecycle decides what becomes READY.

    Args:
        folder: The version's folder.
        settings: The settings, the model's ``serving.toml`` included.
        metrics: The families.
        on_death: Called if an instance's thread dies; see :class:`Batcher`.
        attempt: May be given up; None if loading cannot be.
        cache: The server's memory of answers; None to keep none.
        cores: Told when batches take cores; None to tell nobody.

    Returns:
        A servable whose batcher runs. The caller must close the batcher.

    Raises:
        ManifestInvalid: The manifest is damaged or contradicts the graph.
        GraphInvalid: The model file is damaged, is not the one that the manifest describes, or cannot be run here.
        ProviderUnavailable: CUDA was demanded and does not run.
        GoldenMismatch: A golden vector was not reproduced within the manifest's tolerance.
        LoadTimedOut: Loading was given up meanwhile.
    """
    started = time.monotonic()
    attempt = attempt or Attempt()
    fingerprint = store.fingerprint(folder)  # before reading, so that a change meanwhile makes it differ
    opened = _open(folder, settings, attempt)
    layout, graph, subject = opened.pricing.layout, opened.graph, opened.subject()
    shown = opened.prove(graph, layout.instances)
    cost = opened.pricing.price(subject, shown)
    attempt.commit()
    model_metrics = ModelMetrics(metrics, folder.name, str(folder.version), lambda: time.time_ns() // 1_000_000)
    observer = MeteredBatches(model_metrics, opened.labels)
    lone = taking = None
    if opened.on_cpu and cores is not None:
        lone = LoneSession(folder, fingerprint, LonePricing(opened.pricing, settings), subject, opened.prove, cores)
        taking = cores.taken_by(graph.run, layout.threads)
    batcher = _batcher(opened, taking or graph.run, cost, observer, on_death)
    shared = _shared_answers(opened, batcher, model_metrics, cache)
    if shared is not None and (shelf := shared.cache) is not None:
        model_metrics.watch_cache(lambda: shelf.size_bytes)
    at_weight(settings.weight, lambda: batcher.start(folder.name))
    model_metrics.watch_queue(batcher)
    manifest, preparer, max_batch_size = opened.manifest, opened.preparer, opened.max_batch_size
    return Servable(
        name=folder.name,
        version=folder.version,
        task=manifest.task if manifest else "tensor",
        manifest=manifest,
        inputs=graph.inputs,
        optional_inputs=() if manifest else tuple(opened.backend.optional_inputs),
        outputs=graph.outputs,
        batched=graph.batched,
        max_batch_size=max_batch_size,
        max_rows=max(max_batch_size, settings.max_request_rows if graph.batched else 0),
        labels=opened.labels,
        preparer=preparer,
        provider=opened.backend.provider,
        digest=opened.digest,
        golden=shown,
        objective_seconds=settings.latency_objective_seconds or math.inf,
        priorities=Priorities(settings.priority_levels, settings.default_priority_level),
        advertises_items=preparer is not None and settings.advertised_input == "encoded",
        load_seconds=time.monotonic() - started,
        batcher=batcher,
        metrics=model_metrics,
        interrupt=partial(_interrupt, opened.backend, taking, lone),
        lone=lone,
        shared=shared,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A version whose files were read and agree with each other; it has not run yet."""

    folder: VersionFolder
    settings: Settings
    manifest: Manifest | None
    digest: str
    labels: tuple[str, ...]
    preparer: Preparer | None
    golden: Golden | None
    pricing: Pricing
    backend: OnnxBackend
    graph: BatchView
    max_batch_size: int

    @property
    def on_cpu(self) -> bool:
        return self.backend.provider.device == "cpu"

    @property
    def text(self) -> TextSpec | None:
        """How sentences become tokens; None unless the model takes sentences."""
        spec = self.preparer.spec if self.preparer is not None else None
        return spec if isinstance(spec, TextSpec) else None

    @property
    def buckets(self) -> tuple[int, ...]:
        return buckets_up_to(self.max_batch_size)

    def subject(self) -> Subject:
        """Return what is measured."""
        max_tokens = self.text.max_tokens if self.text else None
        return Subject(self.graph, self.backend.provider, self.buckets, max_tokens)

    def prove(self, graph: BatchView, at_once: int = 1) -> proof.Proof | None:
        """Replay the golden vectors on a graph, the version's or one with other threads; None for a bare graph."""
        if self.manifest is None or self.golden is None:
            return None
        return proof.replay(graph.run, self.golden, self.buckets, self.manifest.parity.tolerance, at_once)


def _open(folder: VersionFolder, settings: Settings, attempt: Attempt) -> _Opened:
    # A manifest that cannot be read, such as a broken link, does not count as none: it demands a proof.
    manifest = read_manifest(folder.path) if _is_there(folder.path / MANIFEST_FILE) else None
    if manifest is not None:
        check_digests(manifest, folder.path)
        if names := uncovered(manifest):
            fields = {"model": folder.name, "version": folder.version}
            _LOG.warning(
                "%s have no digest; `convserve-export seal` adds them", ", ".join(names), extra={"fields": fields}
            )
    digest = manifest.model_digest if manifest is not None else digest_of(folder.path / MODEL_FILE)
    pricing = Pricing(folder, digest, settings)
    backend = at_weight(
        settings.weight,
        lambda: OnnxBackend(
            folder.path / MODEL_FILE, settings.device, pricing.layout.session_threads, CudaOptions.of(settings)
        ),
    )
    attempt.interruptible_by(backend.interrupt)
    if not backend.inputs:
        raise GraphNotRunnable("the graph has no input, expected at least one: export it with one")
    if manifest is not None:
        check_graph(manifest, backend)
    graph = batch_view(backend, manifest is not None or answers_rows_apart(backend, folder.name, backend.first_axes))
    preparer = None
    if manifest is not None and manifest.preprocessing is not None:
        limits = ImageLimits(settings.max_picture_bytes, settings.max_picture_pixels)
        preparer = Preparer(manifest.preprocessing, folder.path, limits)
    return _Opened(
        folder,
        settings,
        manifest,
        digest,
        labels_of(manifest, folder),
        preparer,
        proof.golden_vectors(folder.path, preparer) if manifest is not None else None,
        pricing,
        backend,
        graph,
        _max_batch_size(settings, manifest, graph.batched),
    )


def _is_there(path: Path) -> bool:
    """As os.path.lexists, which takes whatever the disk refuses to tell for none."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ManifestInvalid(f"{path}: {error.strerror}") from None
    return True


def _max_batch_size(settings: Settings, manifest: Manifest | None, batched: bool) -> int:
    if not batched:
        return 1
    wished = settings.max_batch_size or _DEFAULT_MAX_BATCH_SIZE
    return min(wished, manifest.max_batch_size) if manifest else wished


def _batcher(
    opened: _Opened, run: Run, cost: CostModel, observer: MeteredBatches, on_death: Callable[[], None]
) -> Batcher:
    settings, pricing = opened.settings, opened.pricing
    padding_id = opened.text.padding_id if opened.text else 0
    return Batcher(
        run,
        BatchingPolicy(cost, opened.max_batch_size, settings.max_queue_delay_seconds, useful_batch_size(cost)),
        limits=BatcherLimits(
            settings.max_queued_requests,
            pricing.instances,
            prompt=settings.refusals == "prompt",
            # A device has its own threads; a light model must not run at a caller's weight.
            runs_inline=opened.on_cpu and settings.weight == 1,
            answers_apart=pricing.spares_a_core,
        ),
        new_buffer=lambda: BatchBuffer(opened.graph.inputs, opened.max_batch_size, padding_id),
        observer=observer,
        on_death=on_death,
    )


def _shared_answers(
    opened: _Opened, batcher: Batcher, metrics: ModelMetrics, cache: ResponseCache | None
) -> SharedAnswers | None:
    settings, folder = opened.settings, opened.folder
    shelf = cache.shelf() if cache is not None and settings.response_cache else None
    if shelf is None and not settings.merge_identical_requests:
        return None
    return SharedAnswers(
        batcher,
        identity=f"{folder.name} {folder.version} {opened.digest}",
        names=[spec.name for spec in opened.graph.inputs],
        metrics=metrics,
        cache=shelf,
        merges=settings.merge_identical_requests,
        most_joined=settings.max_queued_requests,
    )


def _interrupt(backend: OnnxBackend, taking: Taking | None, lone: LoneSession | None) -> None:
    backend.interrupt()
    if taking is not None:
        taking.give_up()
    if lone is not None:
        lone.interrupt()
