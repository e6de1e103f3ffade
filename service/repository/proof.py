"""Proof and price of a loaded graph: replay the golden vectors at every bucket, and time each.

One pass serves three ends: warm-up (largest bucket first, so that the arena grows once), the check
that the answers are torch's, and the cost table that batching decides by.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from service.batching.instance import Run
from service.errors import BackendFailed, GoldenMismatch, InvalidInput
from service.golden import Golden
from service.preprocessing.prepare import Preparer
from service.spec import TextSpec
from service.tensors import TensorSpec

# Sentence lengths at which cost is measured; longer groups are extrapolated and then learned.
LENGTH_GROUPS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_LONGEST_MEASURED = 64
_REPEATS = 4
_REPEAT_BELOW_SECONDS = 0.05  # a batch that takes longer tells enough in one run
_UNMEASURED_SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class Proof:
    """What replaying showed.

    Attributes:
        max_abs_error: Largest absolute difference of an output from torch's answer.
        count: Golden examples replayed.
    """

    max_abs_error: float
    count: int


def length_group(tokens: int) -> int:
    """Return the length group of a sentence: its bucket of lengths."""
    for group in LENGTH_GROUPS:
        if tokens <= group:
            return group
    return tokens


def check_preprocessing(golden: Golden, preparer: Preparer) -> None:
    """Prepare the raw golden inputs and compare them with the tensors they must become, exactly.

    Raises:
        GoldenMismatch: Names the sample and how many elements differ.
    """
    if not golden.raw:
        raise GoldenMismatch("the golden vectors hold no raw inputs, a classifier needs them")
    padding = preparer.spec.padding_id if isinstance(preparer.spec, TextSpec) else 0
    for number, (item, expected) in enumerate(zip(golden.raw, golden.inputs[0], strict=True)):
        try:
            row = preparer.row(item)
        except InvalidInput as error:
            raise GoldenMismatch(f"golden sample {number}: {error.message}") from None
        padded = np.full_like(expected, padding)
        if not _fits(row, expected, may_be_padded=isinstance(preparer.spec, TextSpec)):
            raise GoldenMismatch(f"golden sample {number}: became {row.shape}, expected {expected.shape}")
        padded[tuple(map(slice, row.shape))] = row
        if not np.array_equal(padded, expected):
            differing = int(np.count_nonzero(padded != expected))
            raise GoldenMismatch(f"golden sample {number}: preprocessing differs in {differing} elements")


def _fits(row: np.ndarray, expected: np.ndarray, *, may_be_padded: bool) -> bool:
    """Tell whether a prepared row has the golden one's shape, which for ids may be longer."""
    return row.shape == expected.shape or (may_be_padded and expected.ndim == 1 and len(row) <= len(expected))


def replay(run: Run, golden: Golden, buckets: Sequence[int], tolerance: float) -> Proof:
    """Run the golden inputs at every bucket, largest first, and compare with torch's answers.

    At each bucket every example is run once, in batches padded by repeating examples.

    Raises:
        GoldenMismatch: Names the bucket, the sample, the largest difference and the tolerance; or the
            runtime failed, or gives another number of outputs.
    """
    worst = 0.0
    for bucket in sorted(buckets, reverse=True):
        for start in range(0, golden.count, bucket):
            rows = np.arange(start, start + bucket) % golden.count
            try:
                outputs = run([array[rows] for array in golden.inputs])
            except BackendFailed:
                raise GoldenMismatch(f"batch of {bucket}: the runtime failed on the golden inputs") from None
            if len(outputs) != len(golden.outputs):
                raise GoldenMismatch(f"{len(outputs)} outputs, the golden answers have {len(golden.outputs)}")
            for got, expected in zip(outputs, golden.outputs, strict=True):
                worst = max(worst, _difference(got, expected[rows], bucket, rows, tolerance))
    return Proof(worst, golden.count)


def _difference(got: np.ndarray, expected: np.ndarray, bucket: int, rows: np.ndarray, tolerance: float) -> float:
    if got.shape != expected.shape:
        raise GoldenMismatch(f"batch of {bucket}: answer has shape {got.shape}, expected {expected.shape}")
    error = np.abs(got.astype(np.float64) - expected.astype(np.float64)).reshape(len(rows), -1).max(axis=1)
    # A NaN compares false with everything, so ask for what is right, not for what is wrong.
    wrong = ~(error <= tolerance)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise GoldenMismatch(
            f"batch of {bucket}: golden sample {rows[first]} differs by {error[first]:.3g}, tolerance {tolerance:.3g}"
        )
    return float(error.max())


def measure(
    run: Run, inputs: Sequence[TensorSpec], buckets: Sequence[int], *, max_tokens: int | None, warm: bool = False
) -> dict[Hashable, list[list[float]]]:
    """Time each bucket, for each measured group of lengths if the model takes sentences.

    Args:
        run: The backend.
        inputs: The graph's inputs; zeros are run, or empty strings.
        buckets: Batch sizes, ascending.
        max_tokens: Longest sentence, whose length is then the free trailing dimension; None for no sentences.
        warm: The graph ran at these batch sizes before, so slow ones need no run to warm up.

    Returns:
        For each group the measured seconds of each bucket, as ``CostModel`` takes them. A graph
        that does not run on zeros (a third party's) is given a guess, which serving corrects.
    """
    if max_tokens is None:
        return {None: _measure_group(run, inputs, buckets, 1, warm)}
    groups = [group for group in LENGTH_GROUPS if group < max_tokens] + [length_group(max_tokens)]
    table: dict[Hashable, list[list[float]]] = {}
    for group in groups:
        if group <= _LONGEST_MEASURED:
            table[group] = _measure_group(run, inputs, buckets, group, warm)
            longest = group
        else:
            table[group] = [[seconds * group / longest for seconds in samples] for samples in table[longest]]
    return table


def _measure_group(
    run: Run, inputs: Sequence[TensorSpec], buckets: Sequence[int], free: int, warm: bool
) -> list[list[float]]:
    samples: list[list[float]] = []
    for bucket in sorted(buckets, reverse=True):
        batch = [
            np.full(
                (bucket, *(free if size == -1 else size for size in spec.shape[1:])),
                "" if spec.datatype == "BYTES" else 0,
                dtype=spec.dtype,
            )
            for spec in inputs
        ]
        try:
            samples.append(_time(run, batch, warm))
        except BackendFailed:
            samples.append([_UNMEASURED_SECONDS * bucket])
    return samples[::-1]


def _time(run: Run, batch: Sequence[np.ndarray], warm: bool) -> list[float]:
    """Time a few runs, after one to warm up; that one stands for all where it was warm already and slow."""
    first = _seconds(run, batch)
    samples = [first] if warm and first >= _REPEAT_BELOW_SECONDS else []
    while len(samples) < _REPEATS and (not samples or samples[-1] < _REPEAT_BELOW_SECONDS):
        samples.append(_seconds(run, batch))
    return samples


def _seconds(run: Run, batch: Sequence[np.ndarray]) -> float:
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start
