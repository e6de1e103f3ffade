from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.batching.response_cache import _ENTRY_BYTES, ResponseCache, request_key

DTYPES = st.sampled_from([np.dtype(name) for name in ("?", "u1", "<i8", "<f4", "<f8")])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
)
TEXTS = st.lists(st.text(max_size=3), max_size=4).map(lambda texts: np.array([*texts, None], dtype=object)[:-1])
REQUESTS = st.tuples(st.text(max_size=3), st.lists(st.tuples(st.text(max_size=2), ARRAYS | TEXTS), max_size=3))
Request = tuple[str, list[tuple[str, np.ndarray]]]


def key(request: Request) -> bytes:
    identity, inputs = request
    return request_key(identity, [name for name, _ in inputs], [array for _, array in inputs])


def said(request: Request) -> object:
    """The request as plain data, equal if and only if it is the same request."""
    identity, inputs = request
    return identity, [
        (name, array.dtype.str, array.shape, array.tolist() if array.dtype == object else array.tobytes())
        for name, array in inputs
    ]


@given(REQUESTS, REQUESTS)
def test_keys_are_equal_exactly_for_equal_requests(one: Request, other: Request) -> None:
    assert (key(one) == key(other)) == (said(one) == said(other))
    assert key(one) == key((one[0], [(name, array.copy()) for name, array in one[1]]))


def test_nothing_is_lost_between_the_parts() -> None:
    numbers = np.arange(4, dtype=np.float32)
    requests: list[Request] = [
        ("m 1", [("x", numbers.reshape(1, 4))]),
        ("m 1", [("x", numbers.reshape(4, 1))]),
        ("m 1", [("x", numbers.view(np.int32).reshape(1, 4))]),
        ("m 1", [("y", numbers.reshape(1, 4))]),
        ("m 2", [("x", numbers.reshape(1, 4))]),
        ("m 1", [("x", numbers[:2].reshape(1, 2)), ("", numbers[2:].reshape(1, 2))]),
        ("m 1", [("x", np.array(["ab", "c"], dtype=object))]),
        ("m 1", [("x", np.array(["a", "bc"], dtype=object))]),
    ]
    assert len({key(request) for request in requests}) == len(requests)


def test_the_layout_in_memory_does_not_matter() -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert key(("m", [("x", square.T)])) == key(("m", [("x", np.ascontiguousarray(square.T))]))


@given(
    st.integers(0, 5 * (_ENTRY_BYTES + 16)),
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 40)), max_size=60),
)
def test_it_is_a_bounded_cache_of_the_least_recently_used(limit: int, steps: list[tuple[bool, int, int]]) -> None:
    cache = ResponseCache(limit)
    model: OrderedDict[bytes, np.ndarray] = OrderedDict()
    evicted = 0

    def size() -> int:
        return sum(_ENTRY_BYTES + row.nbytes for row in model.values())

    for puts, name, length in steps:
        place = bytes([name])
        if puts:
            row = np.full((1, length), name, dtype=np.uint8)
            evicted = cache.put(place, [row])
            if _ENTRY_BYTES + row.nbytes <= limit:
                model.pop(place, None)
                before = len(model)
                while size() + _ENTRY_BYTES + row.nbytes > limit:
                    model.popitem(last=False)
                assert evicted == before - len(model)
                model[place] = row
        else:
            found = cache.get(place)
            assert (found is None) == (place not in model)
            if found is not None:
                model.move_to_end(place)
                assert np.array_equal(found[0], model[place])
        assert cache.size_bytes == size() <= max(limit, 0)
        assert len(cache) == len(model)


def test_what_is_kept_is_a_copy_that_nobody_can_change() -> None:
    cache = ResponseCache(10_000)
    batch = np.arange(100, dtype=np.float32).reshape(10, 10)
    cache.put(b"k", [batch[3:4]])
    batch[:] = 0
    found = cache.get(b"k")
    assert found is not None
    assert found[0].tolist() == [list(range(30, 40))]
    assert found[0].base is None
    assert not found[0].flags.writeable


def test_text_is_not_kept() -> None:
    cache = ResponseCache(10_000)
    cache.put(b"k", [np.array(["long" * 1000], dtype=object)])
    assert len(cache) == 0
