from __future__ import annotations

import tracemalloc
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.batching.response_cache import _ARRAY_BYTES, _ENTRY_BYTES, ResponseCache, item_key, request_key
from service.tensors import DTYPES as DATATYPES

SHELVES = st.integers(0, 1)

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


def weight(row: np.ndarray) -> int:
    return _ENTRY_BYTES + _ARRAY_BYTES + row.nbytes


@given(REQUESTS, REQUESTS)
def test_keys_are_equal_exactly_for_equal_requests(one: Request, other: Request) -> None:
    assert (key(one) == key(other)) == (said(one) == said(other))
    assert key(one) == key((one[0], [(name, array.copy()) for name, array in one[1]]))


def test_every_datatype_of_the_protocol_has_keys_of_its_own() -> None:
    for size in (0, 2):
        zeros = [np.full((1, size), "" if name == "BYTES" else 0, dtype) for name, dtype in DATATYPES.items()]
        keys = {key(("m 1", [("x", array)])) for array in zeros}
        assert len(keys) == len(DATATYPES)


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


@given(st.lists(st.text(max_size=3) | st.binary(max_size=3), unique_by=lambda item: (type(item), item)))
def test_items_have_keys_of_their_own(items: list[str | bytes]) -> None:
    keys = {item_key("m 1", item) for item in items} | {item_key("m 2", item) for item in items}
    requests = {
        key(("m 1", [("", np.array([item, None], dtype=object)[:-1])])) for item in items if isinstance(item, str)
    }
    assert len(keys) == 2 * len(items)
    assert not keys & requests


def test_a_sentence_that_reads_like_a_tensors_form_is_no_tensor() -> None:
    empty = np.zeros((1, 0), dtype="<f4")
    assert item_key("m 1", "<f4 (1, 0)") != key(("m 1", [("text", empty)]))


def test_a_view_of_a_picture_is_the_picture() -> None:
    assert item_key("m 1", memoryview(b"picture")) == item_key("m 1", b"picture")


def test_the_layout_in_memory_does_not_matter() -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert key(("m", [("x", square.T)])) == key(("m", [("x", np.ascontiguousarray(square.T))]))


class Machine(RuleBasedStateMachine):
    """Two versions share a cache; a dictionary in order of use says what it should hold."""

    @initialize(limit=st.integers(0, 5 * (_ENTRY_BYTES + _ARRAY_BYTES + 16)))
    def build(self, limit: int) -> None:
        self.limit = limit
        self.cache = ResponseCache(limit)
        self.shelves = [self.cache.shelf(), self.cache.shelf()]
        self.model: OrderedDict[tuple[int, bytes], np.ndarray] = OrderedDict()

    def size(self, shelf: int | None = None) -> int:
        return sum(weight(row) for place, row in self.model.items() if shelf in (None, place[0]))

    @rule(shelf=SHELVES, name=st.binary(min_size=1, max_size=1), length=st.integers(0, 40), value=st.integers(0, 255))
    def put(self, shelf: int, name: bytes, length: int, value: int) -> None:
        row = np.full((1, length), value, dtype=np.uint8)
        evicted = self.shelves[shelf].put(name, [row])
        if weight(row) > self.limit:
            return
        self.model.pop((shelf, name), None)
        before = len(self.model)
        while self.size() + weight(row) > self.limit:
            self.model.popitem(last=False)
        assert evicted == before - len(self.model)
        self.model[shelf, name] = row

    @rule(shelf=SHELVES, number=st.integers(0, 10))
    def get(self, shelf: int, number: int) -> None:
        names = [name for _, name in self.model] or [b"x"]
        name = names[number % len(names)]
        found = self.shelves[shelf].get(name)
        assert (found is None) == ((shelf, name) not in self.model)
        if found is not None:
            self.model.move_to_end((shelf, name))
            assert np.array_equal(found[0], self.model[shelf, name])

    @rule(shelf=SHELVES)
    def replace_the_version(self, shelf: int) -> None:
        old = self.shelves[shelf]
        old.close()
        self.shelves[shelf] = self.cache.shelf()
        for place in [place for place in self.model if place[0] == shelf]:
            del self.model[place]
        assert old.put(b"x", [np.zeros((1, 1))]) == 0  # computed for somebody who came before
        assert old.get(b"x") is None
        assert old.size_bytes == 0

    @invariant()
    def it_holds_what_it_should_within_its_bound(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert len(self.cache.entries) == len(self.model)
        assert self.cache.size_bytes == self.size() <= self.limit
        assert [shelf.size_bytes for shelf in self.shelves] == [self.size(0), self.size(1)]


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAsADictionary = Machine.TestCase


@pytest.mark.parametrize(
    "make",
    [
        lambda number: [np.full((1, 10), number, np.float32)],
        lambda number: [np.full((1, 1), number, np.int64) for _ in range(4)],
    ],
)
def test_the_bound_covers_what_python_needs(make: Callable[[int], list[np.ndarray]]) -> None:
    cache = ResponseCache(4_000_000)
    shelf = cache.shelf()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1000):
            shelf.put(number.to_bytes(32, "little"), make(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(cache.entries) == 1000
    assert taken <= cache.size_bytes <= 2 * taken


def test_what_is_kept_is_a_copy_that_nobody_can_change() -> None:
    cache = ResponseCache(10_000).shelf()
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
    cache.shelf().put(b"k", [np.array(["long" * 1000], dtype=object)])
    assert len(cache.entries) == 0
