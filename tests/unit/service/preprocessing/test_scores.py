from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from service.preprocessing.scores import top_k

_rows = st.sampled_from([np.float32, np.float64, np.uint8, np.int8, np.int32, np.int64, np.uint64]).flatmap(
    lambda dtype: nps.arrays(
        dtype,
        st.integers(1, 12),
        elements=st.floats(-3, 3, width=16) if np.issubdtype(dtype, np.floating) else None,
    )
)


@given(scores=_rows, k=st.integers(1, 15))
def test_the_k_greatest_come_first_and_lower_indices_win_ties(scores: np.ndarray, k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))[:k]
    assert top_k(scores, k).tolist() == expected


@pytest.mark.parametrize(
    "scores",
    [np.array([0, 200, 255], np.uint8), np.array([-128, 0, 127], np.int8), np.array([False, False, True])],
    ids=["uint8", "int8", "bool"],
)
def test_numbers_without_a_negative_are_ranked_too(scores: np.ndarray) -> None:
    assert top_k(scores, 1).tolist() == [2]


def test_a_nan_is_never_the_best() -> None:
    assert top_k(np.array([np.nan, 0.1, 0.2], np.float32), 3).tolist() == [2, 1, 0]
