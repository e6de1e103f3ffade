"""Accuracy as a client sees it: encoded examples, the server's preprocessing, ONNX Runtime."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.data import Split
from export.data.inputs import Preprocessing
from service.backend.base import Backend
from service.preprocessing.scores import top_k

_BATCH_SIZE = 32
_Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 accuracy on one split, with its 95 % Wilson interval; all in [0, 1]."""

    value: float
    count: int
    interval_low: float
    interval_high: float

    def __str__(self) -> str:
        """Return the text that the command line shows."""
        interval = f"95 % interval {self.interval_low:.2%} to {self.interval_high:.2%}"
        return f"top-1 {self.value:.2%} of {self.count}, error {1 - self.value:.2%}, {interval}"


def evaluate_graph(backend: Backend, preprocessing: Preprocessing, split: Split) -> Score:
    """Encode every example, preprocess it as the server does, and run the graph on it.

    Raises:
        DataInvalid: An example cannot be read; the message names its row.
    """
    right = 0
    for start in range(0, len(split), _BATCH_SIZE):
        rows = range(start, min(start + _BATCH_SIZE, len(split)))
        inputs = preprocessing.inputs_of_raw([split.raw(row) for row in rows], first_row=start + 1)
        answers = backend.run([inputs.batch(np.arange(len(rows)))])[0]
        right += sum(int(top_k(answer, 1)[0]) == split.labels[row] for row, answer in zip(rows, answers, strict=True))
    return score(right, len(split))


def score(right: int, count: int) -> Score:
    """Return the share of right answers with its 95 % interval.

    Source:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> str(score(9905, 10000))
    'top-1 99.05% of 10000, error 0.95%, 95 % interval 98.84% to 99.22%'
    """
    share = right / count
    z2 = _Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Score(share, count, max(0.0, centre - half), min(1.0, centre + half))
