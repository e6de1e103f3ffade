from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from service.errors import ManifestInvalid
from service.golden import Golden, read_golden, write_golden

_dtypes = st.sampled_from([np.dtype(name) for name in ("uint8", "int64", "float32", "float16", "bool")])


@st.composite
def goldens(draw: st.DrawFn) -> Golden:
    count = draw(st.integers(1, 4))
    trailing = nps.array_shapes(min_dims=0, max_dims=2, max_side=3)
    arrays = trailing.flatmap(lambda shape: nps.arrays(draw(_dtypes), (count, *shape)))
    raw = draw(st.just([]) | st.lists(st.binary(max_size=5), min_size=count, max_size=count))
    inputs = draw(st.lists(arrays, min_size=1, max_size=3))
    return Golden(tuple(raw), tuple(inputs), tuple(draw(st.lists(arrays, min_size=1, max_size=12))))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(golden=goldens())
def test_reading_gives_back_what_was_written(tmp_path: Path, golden: Golden) -> None:
    path = tmp_path / "golden.npz"
    write_golden(golden, path)
    read = read_golden(path)
    assert read.raw == golden.raw
    assert read.count == golden.count
    for got, want in zip((*read.inputs, *read.outputs), (*golden.inputs, *golden.outputs), strict=True):
        np.testing.assert_array_equal(got, want, strict=True)


def write(path: Path, **changes: Any) -> Path:
    """Write an archive of one example; None leaves an array out."""
    arrays: dict[str, Any] = {
        "input_0": np.zeros((1, 2)),
        "output_0": np.zeros((1, 3)),
        "raw_bytes": np.frombuffer(b"abc", np.uint8),
        "raw_sizes": np.array([3]),
    }
    arrays |= changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        read_golden(path)
    assert str(caught.value).startswith(f"{path}: golden vectors are ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_0": None}, "empty or of different lengths"),
        ({"output_0": None}, "empty or of different lengths"),
        ({"input_0": np.zeros((2, 2))}, r"different lengths \[1, 2\]"),
        ({"input_0": np.zeros((0, 2)), "output_0": np.zeros((0, 3))}, "empty"),
        ({"raw_sizes": np.array([1, 2])}, r"different lengths \[1, 2\]"),
        ({"raw_sizes": None}, "raw_sizes"),
        ({"raw_bytes": None}, "raw_bytes"),
        ({"raw_sizes": np.array([4])}, "do not add up to the 3 bytes"),
        ({"raw_sizes": np.array([-1, 4])}, "do not add up to the 3 bytes"),
        ({"raw_sizes": np.array(3)}, "not readable"),
        ({"raw_sizes": np.array(["three"])}, "not readable"),
        ({"input_0": None, "input_7": np.zeros((1, 2))}, "input_0"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestInvalid, match=message):
        read_golden(write(tmp_path / "golden.npz", **changes))


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    refusal(tmp_path / "golden.npz")
    (tmp_path / "golden.npz").write_bytes(b"")
    refusal(tmp_path / "golden.npz")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "golden.npz")
    refusal(tmp_path / "golden.npz")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "lone.npy", np.zeros(3))
    refusal(tmp_path / "lone.npy")
    (tmp_path / "pickled.npz").write_bytes(pickle.dumps({"input_0": 1}))
    refusal(tmp_path / "pickled.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (pytest.fail, ("unpickled",))

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    assert "allow_pickle=False" in refusal(write(tmp_path / "golden.npz", input_0=trap))


def test_no_truncation_goes_unnoticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "golden.npz").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        refusal(tmp_path / "cut.npz")


def test_damage_is_refused_and_nothing_else_raised(tmp_path: Path) -> None:
    write(tmp_path / "golden.npz", input_0=np.arange(400).reshape(1, 400))
    whole = (tmp_path / "golden.npz").read_bytes()
    for place in range(0, len(whole), 5):
        (tmp_path / "bad.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_golden(tmp_path / "bad.npz")  # bytes that nobody reads, such as dates, may change
        except ManifestInvalid:
            continue


@pytest.mark.parametrize("raw", [(), (b"", b"")])
def test_no_raw_and_empty_raw_are_told_apart(tmp_path: Path, raw: tuple[bytes, ...]) -> None:
    path = tmp_path / "golden.npz"
    write_golden(Golden(raw, (np.zeros((2, 1)),), (np.zeros((2, 1)),)), path)
    assert read_golden(path).raw == raw
