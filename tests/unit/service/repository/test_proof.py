from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
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
    measure,
    replay,
)
from service.tensors import TensorSpec
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
    assert mismatch(picture_golden(), spec) == f"golden sample 0: became {spec.shape}, expected (2, 3, 1)"


def test_a_raw_input_that_cannot_be_read_is_named() -> None:
    golden = picture_golden()
    broken = Golden((golden.raw[0], b"broken", golden.raw[2]), golden.inputs, golden.outputs)
    assert mismatch(broken).startswith("golden sample 1: picture is of no known format")


def test_a_classifier_without_raw_inputs_proves_nothing() -> None:
    golden = picture_golden()
    message = mismatch(Golden((), golden.inputs, golden.outputs))
    assert message == "the golden vectors hold no raw inputs, a classifier needs them"


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
    assert message == "golden sample 0: became (2,), expected (1,)"


@given(st.integers(1, 10_000))
def test_a_length_belongs_to_the_smallest_group_that_holds_it(tokens: int) -> None:
    group = length_group(tokens)
    assert group >= tokens
    assert group in LENGTH_GROUPS or (group == tokens and tokens > LENGTH_GROUPS[-1])
    assert not any(tokens <= smaller < group for smaller in LENGTH_GROUPS)


FREE = TensorSpec("ids", "INT64", (-1, -1))
PAIR = TensorSpec("x", "FP32", (-1, 2))


def test_every_bucket_is_timed_largest_first() -> None:
    backend = Backend()
    table = measure(backend, [PAIR], [1, 2, 4], max_tokens=None)
    assert list(table) == [None]
    assert [len(samples) > 0 for samples in table[None]] == [True] * 3
    assert all(seconds >= 0 for samples in table[None] for seconds in samples)
    assert list(dict.fromkeys(backend.sizes)) == [4, 2, 1]


def test_sentences_are_timed_by_length_and_longer_ones_extrapolated() -> None:
    shapes: set[tuple[int, ...]] = set()

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        shapes.add(inputs[0].shape)
        return []

    table = measure(run, [FREE], [1, 3], max_tokens=4096)
    assert shapes == {(bucket, length) for bucket in (1, 3) for length in (16, 32, 64)}
    assert list(table) == list(LENGTH_GROUPS)
    assert table[128] == [[2 * seconds for seconds in samples] for samples in table[64]]


def test_a_free_dimension_is_run_at_one() -> None:
    shapes: set[tuple[int, ...]] = set()

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        shapes.update(array.shape for array in inputs)
        return []

    measure(run, [TensorSpec("x", "FP32", (-1, -1, 3)), PAIR], [2], max_tokens=None)
    assert shapes == {(2, 1, 3), (2, 2)}


def test_text_is_run_as_text() -> None:
    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert inputs[0].tolist() == [[""], [""]]
        return []

    assert len(measure(run, [TensorSpec("s", "BYTES", (-1, 1))], [2], max_tokens=None)[None]) == 1


def test_a_graph_that_does_not_run_on_zeros_is_given_a_guess_that_grows() -> None:
    def fail(_: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise BackendFailed("no")

    (small,), (large,) = measure(fail, [PAIR], [1, 8], max_tokens=None)[None]
    assert 0 < small < large


def test_a_backend_that_fails_at_one_size_is_timed_at_the_others() -> None:
    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(inputs[0]) == 2:
            raise BackendFailed("not two")
        return []

    one, two, four = measure(run, [PAIR], [1, 2, 4], max_tokens=None)[None]
    assert len(two) == 1
    assert len(one) > 1
    assert len(four) > 1


@pytest.mark.parametrize(("warm", "runs"), [(True, 1), (False, 2)])
def test_a_slow_batch_runs_once_more_only_where_nothing_ran_before(
    warm: bool, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, batches = 0.0, 0

    def run(_: Sequence[np.ndarray]) -> list[np.ndarray]:
        nonlocal now, batches
        now, batches = now + 0.25, batches + 1
        return []

    monkeypatch.setattr("service.repository.proof.time", SimpleNamespace(perf_counter=lambda: now))
    assert measure(run, [PAIR], [8], max_tokens=None, warm=warm) == {None: [[0.25]]}
    assert batches == runs


def test_the_golden_pictures_are_the_ones_the_graph_answers() -> None:
    golden = picture_golden()
    assert replay(lambda inputs: [picture_probabilities(inputs[0])], golden, [1, 2], 1e-6).count == 3


def test_no_group_is_longer_than_the_longest_sentence() -> None:
    assert list(measure(lambda _inputs: [], [FREE], [1], max_tokens=100)) == [16, 32, 64, 128]
    assert list(measure(lambda _inputs: [], [FREE], [1], max_tokens=10)) == [16]
