"""One loaded and proven model version: manifest, backend and batcher, ready for traffic."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from service.backend.base import Provider
from service.batching.batcher import Batcher
from service.batching.priority import Priorities
from service.batching.sharing import SharedAnswers
from service.manifest import Manifest, Task
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.preprocessing.prepare import Preparer
from service.repository import proof
from service.repository.lone_session import LoneSession
from service.spec import TextSpec
from service.tensors import AnyRank, TensorSpec


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Servable:
    """A version that reproduced its golden vectors here, or states that it has none.

    Attributes:
        name: Model name.
        version: Version number.
        task: What goes in and what comes out.
        manifest: As published; None for a bare third-party graph.
        inputs: Inputs as callers send them. With batching the first dimension is -1.
        optional_inputs: Inputs with a default, as they stand in the graph. There are none with a manifest, which
            states what was proven: other weights would be another model.
        outputs: Outputs in the same convention.
        batched: Whether calls may share a batch; False for a graph with a fixed first axis.
        max_batch_size: Most rows in a batch.
        max_rows: Most rows in a request; a request that exceeds a batch is run in several.
        labels: By class; empty without labels.
        preparer: Turns pictures or sentences into the input; None for task ``"tensor"``.
        provider: What was asked for and what runs.
        digest: ``sha256:…`` of model.onnx.
        golden: What replaying showed; None if the version has no golden vectors (``verified: false``).
        priorities: Its levels of priority.
        advertises_items: Whether metadata shows BYTES, encoded pictures or sentences, in place of the tensor.
        objective_seconds: Longest time an answer may take; infinite for none.
        load_seconds: Time that loading took.
        batcher: Takes the requests.
        metrics: Counts them.
        shared: Stands in front of the batcher if answers are shared; None otherwise.
        interrupt: For a version given up: ends the backend's current runs, if it still listens, and counts their
            cores as free.
        lone: Its session for batches that have the cores to themselves; None if it can have none.
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
    def front(self) -> Batcher | SharedAnswers:
        """Takes the requests: the shared answers or, without them, the batcher."""
        return self.shared or self.batcher

    @property
    def verified(self) -> bool:
        """Whether the answers were checked on this device."""
        return self.golden is not None

    def group_of(self, inputs: Sequence[np.ndarray]) -> Hashable:
        """Return the group of requests that these inputs may share a batch with."""
        if self.preparer is not None and isinstance(self.preparer.spec, TextSpec):
            return proof.length_group(inputs[0].shape[1])
        if all(-1 not in spec.shape[1:] and not isinstance(spec, AnyRank) for spec in self.inputs):
            return None
        return tuple(array.shape[1:] for array in inputs)


def summary(servable: Servable) -> dict[str, object]:
    """Return what the log says about a version that became READY."""
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


def show_facts(servable: Servable, metrics: Metrics) -> None:
    """Show what loading found out about a version, in place of what it found out about an earlier one."""
    labels = (servable.name, str(servable.version))
    provider = servable.provider
    metrics.forget_facts(*labels)
    metrics.provider_info.labels(*labels, provider.requested, provider.actual, provider.device).set(1)
    metrics.golden_passed.labels(*labels).set(servable.verified)
    if servable.golden is not None:
        metrics.golden_error.labels(*labels).set(servable.golden.max_abs_error)
    metrics.load_seconds.labels(*labels).set(servable.load_seconds)
    for group, rows in servable.batcher.policy.cost.table().items():
        for bucket, seconds in rows:
            metrics.batch_cost.labels(*labels, "" if group is None else str(group), str(bucket)).set(seconds)
