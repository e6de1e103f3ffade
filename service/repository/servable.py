"""One loaded and proven model version: manifest, backend and batcher, fit for traffic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from service.backend.base import Provider
from service.backend.cuda import CudaOptions
from service.backend.onnx import OnnxBackend
from service.batching.admission import BatcherLimits
from service.batching.assembly import BatchBuffer
from service.batching.batcher import Batcher
from service.batching.cost import CostModel, buckets_up_to
from service.batching.front import Front
from service.batching.policy import BatchingPolicy
from service.batching.priority import Priorities
from service.batching.response_cache import ResponseCache
from service.batching.sharing import SharedAnswers
from service.cores import Cores, Taking
from service.errors import GraphInvalid
from service.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, Task, file_digest, read_manifest
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.preprocessing.image import ImageLimits
from service.preprocessing.prepare import Preparer
from service.repository import proof
from service.repository.agreement import check_graph, labels_of
from service.repository.batch_view import BatchView, batch_view
from service.repository.lone_pricing import LonePricing
from service.repository.lone_session import LoneSession
from service.repository.metered import MeteredBatches
from service.repository.pricing import Pricing, Subject, useful_batch_size
from service.repository.rows_apart import answers_rows_apart
from service.repository.store import VersionFolder
from service.scheduling import at_weight
from service.settings import Settings
from service.spec import TextSpec
from service.tensors import TensorSpec

_DEFAULT_MAX_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Servable:
    """A version that answered its golden vectors here, or says that it has none.

    Attributes:
        name: Model name.
        version: Version number.
        task: What goes in and what comes out.
        manifest: As published; None for a bare third-party graph.
        inputs: Inputs as callers send them. With batching the first dimension is -1.
        optional_inputs: Inputs with a default, as they stand in the graph; none where a manifest states
            what was proven, since another weight would be another model.
        outputs: Outputs in the same convention.
        batched: Whether calls may share a batch; False for a graph with a fixed first axis.
        max_batch_size: Most rows in a batch.
        max_rows: Most rows in a request; those that a batch cannot hold are run in several.
        labels: By class; empty without labels.
        preparer: Turns pictures or sentences into the input; None for task ``"tensor"``.
        provider: What was asked for and what runs.
        digest: ``sha256:…`` of model.onnx.
        golden: What replaying showed; None if the version has no golden vectors (``verified: false``).
        priorities: Its levels of priority.
        advertises_items: Whether metadata shows BYTES, encoded pictures or sentences, in place of the tensor.
        objective_seconds: Longest time an answer may take, infinite for none.
        load_seconds: Time that loading took.
        batcher: Takes the requests.
        metrics: Counts them.
        shared: Stands before the batcher where answers are shared; None otherwise.
        interrupt: Makes the backend's runs under way end, if it still listens, and counts their cores as free; for a
            version given up.
        lone: Its session for batches that have the cores to themselves; None where it can have none.
    """

    name: str
    version: int
    task: Task
    manifest: Manifest | None
    inputs: tuple[TensorSpec, ...]
    optional_inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    max_batch_size: int
    max_rows: int
    labels: tuple[str, ...]
    preparer: Preparer | None
    provider: Provider
    digest: str
    golden: proof.Proof | None
    objective_seconds: float
    priorities: Priorities
    advertises_items: bool
    load_seconds: float
    batcher: Batcher
    metrics: ModelMetrics
    interrupt: Callable[[], None]
    lone: LoneSession | None = None
    shared: SharedAnswers | None = None

    @property
    def front(self) -> Front:
        """Who takes requests."""
        return self.shared or self.batcher

    @property
    def verified(self) -> bool:
        """Whether the answers were checked on this device."""
        return self.golden is not None

    def group_of(self, inputs: Sequence[np.ndarray]) -> Hashable:
        """Return which requests these inputs may share a batch with."""
        if self.preparer is not None and isinstance(self.preparer.spec, TextSpec):
            return proof.length_group(inputs[0].shape[1])
        if all(-1 not in spec.shape[1:] for spec in self.inputs):
            return None
        return tuple(array.shape[1:] for array in inputs)


def summary(servable: Servable) -> dict[str, object]:
    """Return what the log says of a version that became READY."""
    return {
        "model": servable.name,
        "version": servable.version,
        "task": servable.task,
        "verified": servable.verified,
        "golden_max_abs_error": servable.golden.max_abs_error if servable.golden else None,
        "provider": servable.provider.actual,
        "requested": servable.provider.requested,
        "max_batch_size": servable.max_batch_size,
        "load_seconds": round(servable.load_seconds, 3),
    }


def load(
    folder: VersionFolder,
    settings: Settings,
    metrics: Metrics,
    on_death: Callable[[], None] = lambda: None,
    cache: ResponseCache | None = None,
    cores: Cores | None = None,
) -> Servable:
    """Load one version and prove that it answers as it did at export.

    Blocking, from tens of milliseconds to seconds; call it from the loader's thread. Nothing is
    registered: the lifecycle decides what becomes READY.

    Args:
        folder: Where it is.
        settings: With the model's ``serving.toml`` laid over them.
        metrics: The families.
        on_death: Called if an instance's thread dies; see :class:`Batcher`.
        cache: The server's memory of answers; None keeps none.
        cores: Told when batches take them; None tells nobody.

    Returns:
        A servable whose batcher runs. The caller must close the batcher.

    Raises:
        ManifestInvalid: The manifest is damaged or contradicts the graph.
        GraphInvalid: The model file is damaged, or is not the one that the manifest describes.
        ProviderUnavailable: CUDA was demanded and does not run.
        GoldenMismatch: A golden vector was not reproduced within the manifest's tolerance.
    """
    started = time.monotonic()
    manifest = read_manifest(folder.path) if (folder.path / MANIFEST_FILE).is_file() else None
    digest = file_digest(folder.path / MODEL_FILE)
    if manifest is not None and digest != manifest.model_digest:
        raise GraphInvalid(f"model file has digest {digest}, the manifest says {manifest.model_digest}")
    pricing = Pricing(folder, digest, settings)
    threads = pricing.layout.threads
    backend = at_weight(
        settings.weight,
        lambda: OnnxBackend(
            folder.path / MODEL_FILE, settings.device, pricing.layout.session_threads, CudaOptions.of(settings)
        ),
    )
    if manifest is not None:
        check_graph(manifest, backend)
    labels = labels_of(manifest, folder)
    graph = batch_view(backend, manifest is not None or answers_rows_apart(backend, folder.name))
    max_batch_size = _max_batch_size(settings, manifest, graph.batched)
    preparer = None
    if manifest is not None and manifest.preprocessing is not None:
        limits = ImageLimits(settings.max_picture_bytes, settings.max_picture_pixels)
        preparer = Preparer(manifest.preprocessing, folder.path, limits)
    buckets = buckets_up_to(max_batch_size)
    golden = proof.golden_vectors(folder.path, preparer) if manifest is not None else None

    def prove(graph: BatchView, at_once: int = 1) -> proof.Proof | None:
        if manifest is None or golden is None:  # a bare graph
            return None
        return proof.replay(graph.run, golden, buckets, manifest.parity.tolerance, at_once)

    shown = prove(graph, pricing.layout.instances)
    text = preparer.spec if preparer is not None and isinstance(preparer.spec, TextSpec) else None
    subject = Subject(graph, backend.provider, buckets, text.max_tokens if text else None)
    cost = pricing.price(subject, shown)
    on_cpu = backend.provider.device == "cpu"
    lone = None
    if on_cpu and cores is not None:
        lone = LoneSession(folder, digest, LonePricing(pricing, settings), subject, prove, cores)
    model_metrics = ModelMetrics(metrics, folder.name, str(folder.version), lambda: time.time_ns() // 1_000_000)
    observer = MeteredBatches(model_metrics, labels)
    padding_id = text.padding_id if text else 0
    taking = cores.taken_by(graph.run, threads) if cores is not None and on_cpu else None
    batcher = Batcher(
        taking or graph.run,
        BatchingPolicy(cost, max_batch_size, settings.max_queue_delay_seconds, useful_batch_size(cost)),
        limits=BatcherLimits(
            settings.max_queued_requests,
            pricing.instances,
            prompt=settings.refusals == "prompt",
            # A device has its own threads, a light model its own turns.
            runs_inline=on_cpu and settings.weight == 1,
            answers_apart=pricing.spares_a_core,
        ),
        new_buffer=lambda: BatchBuffer(graph.inputs, max_batch_size, padding_id),
        observer=observer,
        on_death=on_death,
    )
    shared = None
    shelf = cache.shelf() if cache is not None and settings.response_cache else None
    if shelf is not None or settings.merge_identical_requests:
        if shelf is not None:
            model_metrics.watch_cache(lambda: shelf.size_bytes)
        shared = SharedAnswers(
            batcher,
            identity=f"{folder.name} {folder.version} {digest}",
            names=[spec.name for spec in graph.inputs],
            observer=observer,
            cache=shelf,
            merges=settings.merge_identical_requests,
            most_joined=settings.max_queued_requests,
        )

    at_weight(settings.weight, lambda: batcher.start(folder.name))
    model_metrics.watch_queue(batcher)
    servable = Servable(
        name=folder.name,
        version=folder.version,
        task=manifest.task if manifest else "tensor",
        manifest=manifest,
        inputs=graph.inputs,
        optional_inputs=() if manifest else tuple(backend.optional_inputs),
        outputs=graph.outputs,
        batched=graph.batched,
        max_batch_size=max_batch_size,
        max_rows=max(max_batch_size, settings.max_request_rows if graph.batched else 0),
        labels=labels,
        preparer=preparer,
        provider=backend.provider,
        digest=digest,
        golden=shown,
        objective_seconds=settings.latency_objective_seconds or math.inf,
        priorities=Priorities(settings.priority_levels, settings.default_priority_level),
        advertises_items=preparer is not None and settings.advertised_input == "encoded",
        load_seconds=time.monotonic() - started,
        batcher=batcher,
        metrics=model_metrics,
        interrupt=lambda: _interrupt(backend, taking, lone),
        lone=lone,
        shared=shared,
    )
    _publish_gauges(servable, cost, metrics)
    return servable


def _interrupt(backend: OnnxBackend, taking: Taking[..., list[np.ndarray]] | None, lone: LoneSession | None) -> None:
    backend.interrupt()
    if taking is not None:
        taking.give_up()
    if lone is not None:
        lone.interrupt()


def _max_batch_size(settings: Settings, manifest: Manifest | None, batched: bool) -> int:
    if not batched:
        return 1
    wished = settings.max_batch_size or _DEFAULT_MAX_BATCH_SIZE
    return min(wished, manifest.max_batch_size) if manifest else wished


def _publish_gauges(servable: Servable, cost: CostModel, metrics: Metrics) -> None:
    labels = (servable.name, str(servable.version))
    provider = servable.provider
    metrics.provider_info.labels(*labels, provider.requested, provider.actual, provider.device).set(1)
    metrics.golden_passed.labels(*labels).set(servable.verified)
    if servable.golden is not None:
        metrics.golden_error.labels(*labels).set(servable.golden.max_abs_error)
    metrics.load_seconds.labels(*labels).set(servable.load_seconds)
    for group, rows in cost.table().items():
        for bucket, seconds, _ in rows:
            metrics.batch_cost.labels(*labels, "" if group is None else str(group), str(bucket)).set(seconds)
