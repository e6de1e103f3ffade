"""Proves a loaded graph: replays the golden vectors at every bucket.

One pass serves three purposes: warm-up (largest bucket first, so that the arena grows once), the check
that the answers are torch's, and first samples of what a batch costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.batching.run import Run
from service.errors import BackendFailed, GoldenMismatch, InvalidInput
from service.golden import Golden, read_golden
from service.manifest import GOLDEN_FILE
from service.preprocessing.prepare import Preparer
from service.spec import TextSpec

# Upper bounds, in tokens, of the groups of sentences that may share a batch. A batch is padded to its longest sentence;
# each group has its own costs.
LENGTH_GROUPS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Proof:
    """What replaying showed.

    Attributes:
        max_abs_error: Largest absolute difference of an output from torch's answer.
        count: How many golden examples were replayed.
        seconds: The time of each run, by bucket, in order; a bucket's first run includes its warm-up.
        row_shape: Shape of a row of the first input.
    """

    max_abs_error: float
    count: int
    seconds: Mapping[int, Sequence[float]] = field(default_factory=dict, compare=False)
    row_shape: tuple[int, ...] = field(default=(), compare=False)


def length_group(tokens: int) -> int:
    """Return the length group of a sentence; past the last group, each length is a group of its own."""
    return next((group for group in LENGTH_GROUPS if tokens <= group), tokens)


def golden_vectors(folder: Path, preparer: Preparer | None) -> Golden:
    """Read a version's golden vectors and check that its preprocessing turns the raw inputs into the tensors.

    Raises:
        ManifestInvalid: The vectors are missing or damaged.
        GoldenMismatch: The preprocessing gives other tensors.
    """
    golden = read_golden(folder / GOLDEN_FILE)
    if preparer is not None:
        check_preprocessing(golden, preparer)
    return golden


def check_preprocessing(golden: Golden, preparer: Preparer) -> None:
    """Prepare the raw golden inputs and compare them exactly with the tensors that they must become.

    Raises:
        GoldenMismatch: Names the sample and how many elements differ.
    """
    if not golden.raw:
        raise GoldenMismatch("the golden vectors hold no raw inputs, which a classifier needs")
    padding = preparer.spec.padding_id if isinstance(preparer.spec, TextSpec) else 0
    for number, (item, expected) in enumerate(zip(golden.raw, golden.inputs[0], strict=True)):
        try:
            row = preparer.row(item)
        except InvalidInput as error:
            raise GoldenMismatch(f"golden sample {number}: {error.message}") from None
        padded = np.full_like(expected, padding)
        if not _fits(row, expected, may_be_padded=isinstance(preparer.spec, TextSpec)):
            raise GoldenMismatch(
                f"golden sample {number}: has shape {row.shape} after preprocessing, expected {expected.shape}"
            )
        padded[tuple(map(slice, row.shape))] = row
        if not np.array_equal(padded, expected):
            differing = int(np.count_nonzero(padded != expected))
            raise GoldenMismatch(f"golden sample {number}: preprocessing differs in {differing} elements")


def _fits(row: np.ndarray, expected: np.ndarray, *, may_be_padded: bool) -> bool:
    """Return whether a prepared row has the golden row's shape; golden ids may be longer."""
    return row.shape == expected.shape or (may_be_padded and expected.ndim == 1 and len(row) <= len(expected))


def replay(run: Run, golden: Golden, buckets: Sequence[int], tolerance: float, threads: int = 1) -> Proof:
    """Run the golden inputs at every bucket, largest first, and compare with torch's answers.

    At each bucket every example is run once, in batches padded by repeating examples.

    Args:
        run: The backend.
        golden: Inputs and answers.
        buckets: Batch sizes that will be used.
        tolerance: Largest absolute difference that is accepted.
        threads: How many runs to make at once: as many as there will be instances.

    Raises:
        GoldenMismatch: An answer differs (names the bucket, the sample, the largest difference and the
            tolerance), the runtime failed, or the number of outputs is wrong.
    """

    def one(bucket: int, start: int) -> tuple[float, float]:
        return _replay_batch(run, golden, np.arange(start, start + bucket) % golden.count, tolerance)

    sizes = [bucket for bucket in sorted(buckets, reverse=True) for _ in range(0, golden.count, bucket)]
    starts = [start for bucket in sorted(buckets, reverse=True) for start in range(0, golden.count, bucket)]
    with ThreadPoolExecutor(threads, thread_name_prefix="replay") as pool:
        results = list(pool.map(one, sizes, starts))
    seconds: dict[int, list[float]] = {bucket: [] for bucket in buckets}
    for bucket, (_, took) in zip(sizes, results, strict=True):
        seconds[bucket].append(took)
    return Proof(max((error for error, _ in results), default=0.0), golden.count, seconds, golden.inputs[0].shape[1:])


def _replay_batch(run: Run, golden: Golden, rows: np.ndarray, tolerance: float) -> tuple[float, float]:
    """Return the largest difference and the seconds that one batch took."""
    bucket = len(rows)
    inputs = [array[rows] for array in golden.inputs]
    start = time.perf_counter()
    try:
        outputs = run(inputs)
    except BackendFailed as error:
        why = error.__cause__ or error
        raise GoldenMismatch(f"batch of {bucket}: the runtime failed on the golden inputs: {why}") from None
    seconds = time.perf_counter() - start
    if len(outputs) != len(golden.outputs):
        raise GoldenMismatch(f"{len(outputs)} outputs, the golden answers have {len(golden.outputs)}")
    pairs = zip(outputs, golden.outputs, strict=True)
    return max((_difference(got, right[rows], bucket, rows, tolerance) for got, right in pairs), default=0.0), seconds


def _difference(got: np.ndarray, expected: np.ndarray, bucket: int, rows: np.ndarray, tolerance: float) -> float:
    if got.shape != expected.shape:
        raise GoldenMismatch(f"batch of {bucket}: answer has shape {got.shape}, expected {expected.shape}")
    error = np.abs(got.astype(np.float64) - expected.astype(np.float64)).reshape(len(rows), -1).max(axis=1)
    # A NaN compares false with everything, so test for what is right, not for what is wrong.
    wrong = ~(error <= tolerance)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise GoldenMismatch(
            f"batch of {bucket}: golden sample {rows[first]} differs by {error[first]:.3g}, tolerance {tolerance:.3g}"
        )
    return float(error.max())
