from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BackendFailed, GoldenMismatch
from service.golden import Golden
from service.preprocessing.prepare import Preparer
from service.repository.proof import (
    LENGTH_GROUPS,
    Proof,
    check_preprocessing,
    length_group,
    replay,
)
from tests.fakes import GUARD_SECONDS
from tests.unit.service.samples import (
    IMAGE,
    image_spec,
    picture_golden,
    picture_probabilities,
    text_spec,
    tokenizer,
)

NUMBERS = np.arange(10, dtype=np.float32).reshape(5, 2)
GOLDEN = Golden((), (NUMBERS,), (2 * NUMBERS, NUMBERS.sum(axis=1)))


class Backend:
    """Doubles and sums; records its batches; goes wrong where told.

    Attributes:
        errors: For each batch size what is added to the doubled rows of example 3.
    """

    def __init__(self, errors: dict[int, float] | None = None) -> None:
        self.errors = errors or {}
        self.sizes: list[int] = []
        self.seen: list[np.ndarray] = []

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        (numbers,) = inputs
        self.sizes.append(len(numbers))
        self.seen.append(numbers)
        doubled = 2 * numbers
        doubled[numbers[:, 0] == 6] += np.float32(self.errors.get(len(numbers), 0.0))
        return [doubled, numbers.sum(axis=1)]


def test_golden_answers_are_reproduced_largest_bucket_first() -> None:
    backend = Backend()
    assert replay(backend, GOLDEN, [1, 2, 8], 1e-6) == Proof(0.0, 5)
    assert backend.sizes == [8, 2, 2, 2, 1, 1, 1, 1, 1]


def test_every_run_is_timed() -> None:
    proof = replay(Backend(), GOLDEN, [1, 2, 8], 1e-6)
    assert {bucket: len(seconds) for bucket, seconds in proof.seconds.items()} == {1: 5, 2: 3, 8: 1}
    assert all(seconds > 0 for samples in proof.seconds.values() for seconds in samples)
    assert proof.row_shape == (2,)


def test_batches_run_at_once_when_told_to() -> None:
    together = threading.Barrier(2)

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        together.wait(GUARD_SECONDS)
        return [2 * inputs[0], inputs[0].sum(axis=1)]

    golden = Golden((), (NUMBERS[:4],), (2 * NUMBERS[:4], NUMBERS[:4].sum(axis=1)))
    assert replay(run, golden, [1, 2], 1e-6, threads=2).count == 4


@given(st.sets(st.integers(1, 12), min_size=1, max_size=4))
def test_every_example_runs_at_every_bucket(buckets: set[int]) -> None:
    backend = Backend()
    replay(backend, GOLDEN, sorted(buckets), 1e-6)
    for bucket in buckets:
        rows = np.concatenate([seen for seen in backend.seen if len(seen) == bucket])
        assert {row[0] for row in rows.tolist()} == set(NUMBERS[:, 0].tolist())


def test_the_worst_bucket_counts() -> None:
    proof = replay(Backend({1: 0.001, 2: 0.25, 4: 0.125}), GOLDEN, [1, 2, 4], 0.5)
    assert proof.max_abs_error == pytest.approx(0.25)


@pytest.mark.parametrize("bucket", [1, 2, 4])
def test_one_wrong_bucket_is_enough_and_is_named(bucket: int) -> None:
    with pytest.raises(GoldenMismatch) as caught:
        replay(Backend({bucket: 0.25}), GOLDEN, [1, 2, 4], 1e-3)
    assert str(caught.value) == f"batch of {bucket}: golden sample 3 differs by 0.25, tolerance 0.001"


def test_the_tolerance_itself_is_allowed() -> None:
    assert replay(Backend({1: 0.25}), GOLDEN, [1], 0.25).max_abs_error == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_never_within_tolerance(value: float) -> None:
    with pytest.raises(GoldenMismatch, match="golden sample 3 differs by"):
        replay(Backend({1: value}), GOLDEN, [1], 1e9)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_an_impossible_tolerance_accepts_nothing(tolerance: float) -> None:
    with pytest.raises(GoldenMismatch):
        replay(Backend(), GOLDEN, [1], tolerance)


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(GoldenMismatch, match=r"batch of 2: answer has shape \(2, 1\), expected \(2, 2\)"):
        replay(lambda inputs: [inputs[0][:, :1], inputs[0].sum(axis=1)], GOLDEN, [2], 1.0)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_outputs_is_refused(count: int) -> None:
    with pytest.raises(GoldenMismatch, match=f"{count} outputs, the golden answers have 2"):
        replay(lambda inputs: [2 * inputs[0]] * count, GOLDEN, [1], 1.0)


def test_a_backend_that_fails_reproduces_nothing() -> None:
    def fail(_: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise BackendFailed("no")

    with pytest.raises(GoldenMismatch, match="batch of 4: the runtime failed on the golden inputs"):
        replay(fail, GOLDEN, [1, 4], 1.0)


def test_pictures_that_become_their_tensors_pass() -> None:
    check_preprocessing(picture_golden(), Preparer(IMAGE, Path("nowhere")))


def mismatch(golden: Golden, spec: Any = IMAGE, folder: Path = Path("nowhere")) -> str:
    with pytest.raises(GoldenMismatch) as caught:
        check_preprocessing(golden, Preparer(spec, folder))
    return str(caught.value)


def test_one_different_pixel_is_found() -> None:
    golden = picture_golden()
    images = golden.inputs[0].copy()
    images[1, 0, 2, 0] ^= 1
    message = mismatch(Golden(golden.raw, (images,), golden.outputs))
    assert message == "golden sample 1: preprocessing differs in 1 elements"


@pytest.mark.parametrize(
    "changes", [{"width": 2}, {"height": 1, "width": 9}, {"mode": "RGB", "mean": (0, 0, 0), "std": (1, 1, 1)}]
)
def test_a_picture_of_another_shape_is_named(changes: dict[str, Any]) -> None:
    spec = image_spec(**changes)
    assert (
        mismatch(picture_golden(), spec)
        == f"golden sample 0: has shape {spec.shape} after preprocessing, expected (2, 3, 1)"
    )


def test_a_raw_input_that_cannot_be_read_is_named() -> None:
    golden = picture_golden()
    broken = Golden((golden.raw[0], b"broken", golden.raw[2]), golden.inputs, golden.outputs)
    assert mismatch(broken).startswith("golden sample 1: picture is of an unknown format")


def test_a_classifier_without_raw_inputs_proves_nothing() -> None:
    golden = picture_golden()
    message = mismatch(Golden((), golden.inputs, golden.outputs))
    assert message == "the golden vectors hold no raw inputs, which a classifier needs"


@pytest.mark.parametrize("padding_id", [0, 3])
def test_sentences_may_be_padded_with_the_padding_id(tmp_path: Path, padding_id: int) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    spec = text_spec(padding_id=padding_id)
    ids = np.array([[2, 4, padding_id], [4, 4, 2]])
    golden = Golden((b"good film", b"film film good"), (ids,), (ids,))
    check_preprocessing(golden, Preparer(spec, tmp_path))
    wrong = Golden(golden.raw, (np.where(ids == padding_id, 1, ids),), golden.outputs)
    assert mismatch(wrong, spec, tmp_path) == "golden sample 0: preprocessing differs in 1 elements"


def test_a_sentence_longer_than_its_golden_ids_is_named(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    ids = np.array([[2]])
    message = mismatch(Golden((b"good film",), (ids,), (ids,)), text_spec(), tmp_path)
    assert message == "golden sample 0: has shape (2,) after preprocessing, expected (1,)"


@given(st.integers(1, 10_000))
def test_a_length_belongs_to_the_smallest_group_that_holds_it(tokens: int) -> None:
    group = length_group(tokens)
    assert group >= tokens
    assert group in LENGTH_GROUPS or (group == tokens and tokens > LENGTH_GROUPS[-1])
    assert not any(tokens <= smaller < group for smaller in LENGTH_GROUPS)


def test_the_golden_pictures_are_the_ones_the_graph_answers() -> None:
    golden = picture_golden()
    assert replay(lambda inputs: [picture_probabilities(inputs[0])], golden, [1, 2], 1e-6).count == 3
