from __future__ import annotations

import numpy as np
import pytest

from service.batching.request import BatchFacts
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.repository.metered import MeteredBatches
from service.tensors import BF16
from tests.fakes import make_request

FACTS = BatchFacts(2, 4, 0.5, 0, "idle", 100.0, 0.001, 0.002)


def counted(output: np.ndarray) -> dict[str, float]:
    """What is counted of two live rows of a batch, by class."""
    metrics = Metrics("0", "fake")
    bound = ModelMetrics(metrics, "m", "1", lambda: 0)
    MeteredBatches(bound, ("cat", "dog", "cow")).batch([make_request(1, 2)], [output], FACTS)
    assert bound.snapshot().inference_count == 2
    (family,) = metrics.predictions.collect()
    return {sample.labels["class"]: sample.value for sample in family.samples}


def test_the_best_class_of_each_live_row_is_counted() -> None:
    assert counted(np.array([[0.1, 0.7, 0.2], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])) == {"dog": 2}


@pytest.mark.parametrize(
    "output",
    [
        np.ones((4, 4, 3)),
        np.ones((4, 10)),
        np.ones((4, 2)),
        np.ones(4),
        np.full((4, 3), b"1", object),
        np.zeros((4, 3), BF16),
    ],
    ids=["a rank more", "more columns", "fewer columns", "a rank less", "text", "BF16"],
)
def test_of_what_is_no_number_a_class_no_predictions_are_counted(output: np.ndarray) -> None:
    assert counted(output) == {}


def test_what_cannot_be_counted_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bound = ModelMetrics(Metrics("0", "fake"), "m", "1", lambda: 0)
    MeteredBatches(bound, ("cat", "dog")).batch([make_request(1, 2)], [], FACTS)
    assert bound.snapshot().inference_count == 2
    assert "the predictions of a batch cannot be counted" in caplog.text
