"""Passes what a batcher reports on to the metrics."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from service.batching.request import BatchFacts, PendingRequest
from service.model_metrics import ModelMetrics

_LOG = logging.getLogger(__name__)
_MAX_COUNTED_CLASSES = 1000  # each class is a series; a model with more has its predictions uncounted


class MeteredBatches:
    """Counts what a batcher reports."""

    def __init__(self, metrics: ModelMetrics, labels: Sequence[str]) -> None:
        self._metrics = metrics
        self.rejected, self.cancelled = metrics.rejected, metrics.cancelled  # as the batcher reports them
        self._labels = labels if len(labels) <= _MAX_COUNTED_CLASSES else ()

    def batch(self, requests: Sequence[PendingRequest], outputs: Sequence[np.ndarray], facts: BatchFacts) -> None:
        """Count a batch, and its predictions."""
        self._metrics.observe_batch(
            [facts.released - request.queued for request in requests],
            rows=facts.rows,
            padding=facts.padding_ratio,
            assemble=facts.assemble_seconds,
            infer=facts.infer_seconds,
            reason=facts.release_reason,
        )
        try:
            self._count_predictions(outputs, facts.rows)
        except Exception:  # counting must never harm a caller
            _LOG.exception("the predictions of a batch cannot be counted")

    def _count_predictions(self, outputs: Sequence[np.ndarray], rows: int) -> None:
        if self._labels and _are_of_classes(outputs[0], len(self._labels)):
            probabilities = outputs[0][:rows]
            best = probabilities.argmax(axis=1)
            self._metrics.observe_predictions(best, probabilities[np.arange(rows), best], self._labels)

    def replied(self, requests: Sequence[PendingRequest], facts: BatchFacts, seconds: float) -> None:
        """Count the time that the replies took."""
        self._metrics.observe_postprocess(len(requests), facts.rows, seconds)


def _are_of_classes(output: np.ndarray, classes: int) -> bool:
    """Return whether an output holds a number per class; the labels of a tensor model may name something else."""
    return output.ndim == 2 and output.shape[1] == classes and output.dtype.kind in "fiu"
