from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.batching.request import BatchFacts, PendingRequest
from service.batching.response_cache import ResponseCache
from service.batching.sharing import SharedAnswers
from service.checks import check_forms
from service.dataplane import DataPlane, Ticket
from service.errors import (
    BackendFailed,
    DeadlineExceeded,
    DeadlineUnmeetable,
    Draining,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    RequestCancelled,
    ServingError,
)
from service.gather import Gather
from service.logs import _BOUNDS
from service.metrics import Metrics
from service.preparation import Burst, Terms
from service.preprocessing import image
from service.preprocessing.prepare import Preparer
from service.repository.servable import Servable
from service.tensors import TensorSpec
from service.workers import Workers
from tests.fakes import FakeClock, RecordingReply, Told
from tests.unit.service.samples import (
    IMAGE,
    FakeBatcher,
    bare_servable,
    encoded,
    image_spec,
    make_servable,
    manifest,
    picture,
    text_manifest,
    tokenizer,
)

GOOD = [picture([[value, 0, 0], [0, 0, 0]]) for value in range(8)]
LARGE = picture([[7] * 70] * 70)
TRUNCATED = encoded(Image.linear_gradient("L").resize((64, 64)), "JPEG")[:-40]
FACTS = BatchFacts(1, 1, 0.0, 0, "idle", 100.0, 0.0, 0.001)


class StepPool(Workers):
    """Workers without threads: what is submitted waits until the test runs it, in any order."""

    def __init__(self, threads: int = 2) -> None:
        super().__init__("prepare", threads, pytest.fail)
        self.waiting: list[Callable[[], object]] = []
        self.room = 1000
        self.has_memory = True

    def submit(self, work: Callable[[], object]) -> None:
        if self.room == len(self.waiting):
            raise Draining("the server is stopping")
        if not self.has_memory:
            raise MemoryError
        self.waiting.append(work)

    def run(self, number: int = 0) -> None:
        self.waiting.pop(number)()

    def run_all(self) -> None:
        while self.waiting:
            self.run()


class FakeLifecycle:
    def find(self, name: str, version: str = "") -> Servable:
        if name != "pictures":
            raise ModelNotFound(f"no model '{name}'")
        return make_servable(version=int(version or 1))


class RecordingItems:
    """Keeps the outcomes of a call of items."""

    def __init__(self) -> None:
        self.outcomes: list[Sequence[np.ndarray | InvalidInput]] = []
        self.last: list[tuple[PendingRequest | None, BatchFacts | None]] = []
        self.errors: list[ServingError] = []

    def answer(
        self, outcomes: Sequence[np.ndarray | InvalidInput], request: PendingRequest | None, facts: BatchFacts | None
    ) -> None:
        self.outcomes.append(list(outcomes))
        self.last.append((request, facts))

    def refuse(self, error: ServingError) -> None:
        self.errors.append(error)

    @property
    def times_settled(self) -> int:
        return len(self.outcomes) + len(self.errors)


class World:
    """A data plane with everything around it in the test's hands."""

    def __init__(self, threads: int = 2) -> None:
        self.clock = FakeClock()
        self.pool = StepPool(threads)
        self.batcher = FakeBatcher()
        self.plane = DataPlane(FakeLifecycle(), self.pool, 8, self.clock)  # type: ignore[arg-type]
        self.servable = make_servable(batcher=self.batcher)
        self.reply = RecordingReply()
        self.items = RecordingItems()

    def terms(self, servable: Servable, deadline: float = math.inf, **asked: Any) -> Terms:
        return Terms(servable, **{"arrival": self.clock.now, "deadline": deadline, **asked})

    def infer(self, inputs: dict[str, np.ndarray], servable: Servable | None = None, **asked: Any) -> Ticket:
        servable = servable or self.servable
        return self.plane.infer(servable, inputs, self.terms(servable, **asked), self.reply)

    def infer_pictures(self, pictures: Sequence[bytes], **asked: Any) -> Ticket:
        return self.infer({"images": objects(pictures)}, **asked)

    def infer_item(self, item: bytes, reply: RecordingReply, burst: Burst) -> Ticket:
        return self.plane.infer_items(self.servable, [item], self.terms(self.servable, burst=burst), reply)

    def classify(self, pictures: Sequence[bytes], **asked: Any) -> Ticket:
        return self.plane.classify(self.servable, pictures, self.terms(self.servable, **asked), self.items)

    def answer(self, number: int = 0) -> None:
        """Answer a submitted request: each picture with its first pixel and its place in the batch."""
        request = self.batcher.requests[number]
        first = request.inputs[0].reshape(request.rows, -1)[:, 0].astype(np.float32)
        request.answer([np.stack([first, np.arange(request.rows)], axis=1)], FACTS)

    @property
    def firsts(self) -> list[float | str]:
        """First pixel of each answered item, or why there is none."""
        (outcomes,) = self.items.outcomes
        return [outcome.message if isinstance(outcome, InvalidInput) else float(outcome[0]) for outcome in outcomes]


@pytest.fixture
def world() -> Iterator[World]:
    """A world in which every reservation must have come to its end."""
    made = World()
    yield made
    assert not made.pool.waiting
    assert made.batcher.reserved == 0
    assert made.reply.times_settled + made.items.times_settled <= 1


def objects(items: Sequence[bytes]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def images(rows: int = 1) -> dict[str, np.ndarray]:
    return {"images": np.zeros((rows, 2, 3, 1), np.uint8)}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        call()
    return caught.value.message


# Tensors.


def test_tensors_become_one_request(world: World) -> None:
    world.infer(images(3), deadline=105.0, arrival=99.5)
    (request,) = world.batcher.requests
    assert (request.rows, request.group, request.deadline, request.arrival) == (3, None, 105.0, 99.5)
    assert request.reply is world.reply


def test_the_objective_bounds_the_deadline(world: World) -> None:
    servable = make_servable(batcher=world.batcher, objective_seconds=2.0)
    world.infer(images(), servable, deadline=200.0)
    world.infer(images(), servable, deadline=101.0)
    assert [request.deadline for request in world.batcher.requests] == [102.0, 101.0]


def test_the_priority_of_a_call_is_its_requests_handicap(world: World) -> None:
    """Of three levels; none asked for is the middle one."""
    for priority in (1, 2, 3, 0):
        world.infer(images(), priority=priority)
    assert [request.handicap for request in world.batcher.requests] == [0.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize("gain", [None, np.ones(1, np.float32)])
def test_an_optional_input_travels_with_the_request_that_brought_it(world: World, gain: np.ndarray | None) -> None:
    servable = bare_servable(batcher=world.batcher, optional_inputs=(TensorSpec("gain", "FP32", (1,)),))
    world.infer({"x": np.ones((2, 2), np.float32)} | ({} if gain is None else {"gain": gain}), servable)
    (request,) = world.batcher.requests
    assert len(request.inputs) == 1
    assert request.overrides == (None if gain is None else {"gain": gain})


@pytest.mark.parametrize(("alone", "inline"), [(None, False), (False, False), (True, True)])
def test_only_who_came_alone_may_be_run_by_the_thread_that_brings_it(
    world: World, monkeypatch: pytest.MonkeyPatch, alone: bool | None, inline: bool
) -> None:
    offered: list[bool] = []
    monkeypatch.setattr(world.batcher, "offer", lambda _request, inline: offered.append(inline))
    burst = None if alone is None else world.plane.burst()
    if burst is not None:
        burst.alone = bool(alone)
    world.infer(images(), burst=burst)
    assert offered == [inline]


@pytest.mark.parametrize(
    ("item", "alone", "inline"),
    [(GOOD[0], None, False), (GOOD[0], False, False), (GOOD[0], True, True), (LARGE, True, False)],
)
def test_items_that_came_alone_may_be_run_by_the_thread_that_decodes_them_but_not_by_the_pool(
    world: World, monkeypatch: pytest.MonkeyPatch, item: bytes, alone: bool | None, inline: bool
) -> None:
    submitted: list[bool] = []

    def submit(_request: PendingRequest, inline: bool = False) -> None:
        world.batcher.release()
        submitted.append(inline)

    monkeypatch.setattr(world.batcher, "submit", submit)
    burst = None if alone is None else world.plane.burst()
    world.classify([item], burst=burst)
    if burst is not None:
        burst.alone = bool(alone)
        burst.finish()
    world.pool.run_all()
    assert submitted == [inline]


def test_inputs_are_put_into_the_graphs_order(world: World) -> None:
    servable = bare_servable(
        inputs=(TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "INT64", (-1, 2))), batcher=world.batcher
    )
    world.infer({"b": np.zeros((2, 2), np.int64), "a": np.zeros((2, 1), np.float32)}, servable)
    assert [array.shape for array in world.batcher.requests[0].inputs] == [(2, 1), (2, 2)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "model 'pictures': expected inputs images, got none"),
        ({"x": np.zeros(1)}, "model 'pictures': expected inputs images, got x"),
        (images() | {"x": np.zeros(1)}, "model 'pictures': expected inputs images, got images, x"),
        ({"images": np.zeros((1, 2, 3, 1))}, "input 'images': expected datatype UINT8, got FP64"),
        (
            {"images": np.zeros((1, 3, 2, 1), np.uint8)},
            "input 'images': expected shape [-1, 2, 3, 1], got [1, 3, 2, 1]",
        ),
        (images(0), "batch of 0, expected 1 to 4"),
        (images(5), "batch of 5, expected 1 to 4"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(world: World, inputs: dict[str, np.ndarray], message: str) -> None:
    assert refusal(lambda: world.infer(inputs)) == message


def test_batch_sizes_must_agree(world: World) -> None:
    servable = bare_servable(inputs=(TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))))
    inputs = {"a": np.zeros(1, np.float32), "b": np.zeros(2, np.float32)}
    assert refusal(lambda: world.infer(inputs, servable)) == "inputs have different batch sizes [1, 2]"


def test_without_batching_the_callers_shape_is_the_graphs(world: World) -> None:
    servable = bare_servable(
        inputs=(TensorSpec("x", "FP32", (-1, 2, 3)),), batched=False, max_batch_size=1, batcher=world.batcher
    )
    world.infer({"x": np.ones((2, 3), np.float32)}, servable)
    assert world.batcher.requests[0].inputs[0].shape == (1, 2, 3)
    message = refusal(lambda: world.infer({"x": np.ones((1, 2, 3), np.float32)}, servable))
    assert message == "input 'x': expected shape [2, 3], got [1, 2, 3]"


def test_strings_for_a_string_tensor_are_decoded_or_refused(world: World) -> None:
    servable = bare_servable(inputs=(TensorSpec("s", "BYTES", (-1,)),), batcher=world.batcher)
    world.infer({"s": objects(["ä".encode(), b""])}, servable)
    assert world.batcher.requests[0].inputs[0].tolist() == ["ä", ""]
    assert "an element is not UTF-8" in refusal(lambda: world.infer({"s": objects([b"\xff"])}, servable))


def test_ids_out_of_range_never_reach_a_batch(world: World, tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    servable = make_servable(text_manifest(), version_dir=tmp_path, batcher=world.batcher)
    assert "expected 0 to 4" in refusal(lambda: world.infer({"ids": np.array([[5]])}, servable))
    world.infer({"ids": np.array([[4, 2]])}, servable)
    assert world.batcher.requests[0].group == 16


def test_ids_too_many_are_refused_by_what_a_message_states(tmp_path: Path) -> None:
    """They may lie in shared memory, where gigabytes cost their owner nothing."""
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    servable = make_servable(text_manifest(), version_dir=tmp_path)
    most = servable.preparer.spec.max_tokens
    check_forms(servable, {"ids": ("INT64", (1, most))})
    for length in (0, most + 1, 2**30):
        assert f"ids have length {length}, expected 1 to {most}" in refusal(
            lambda length=length: check_forms(servable, {"ids": ("INT64", (1, length))})
        )


@pytest.mark.parametrize("error", [QueueFull("full"), DeadlineUnmeetable("late")])
def test_a_refusal_at_the_door_or_at_the_queue_is_raised(world: World, error: ServingError) -> None:
    if isinstance(error, QueueFull):
        world.batcher.door_refusal, world.batcher.places = error, 0
    else:
        world.batcher.refusal = error
    with pytest.raises(type(error)):
        world.infer(images())


def test_cancelling_a_call_of_tensors_cancels_its_request(world: World) -> None:
    ticket = world.infer(images())
    ticket.cancel()
    ticket.cancel()
    assert set(world.batcher.cancelled) == set(world.batcher.requests)


# Encoded items for ModelInfer: one bad item fails the call.


@pytest.mark.parametrize("column", [False, True])
def test_pictures_as_bytes_are_decoded_in_parts_and_put_together(world: World, column: bool) -> None:
    array = objects(GOOD[:3])
    world.infer({"images": array[:, np.newaxis] if column else array})
    assert world.batcher.reserved == 2
    world.pool.run_all()
    assert [request.rows for request in world.batcher.requests] == [2, 1]
    world.answer(1)
    assert world.reply.times_settled == 0
    world.answer(0)
    ((output,),) = world.reply.answers
    assert output.tolist() == [[0, 0], [1, 1], [2, 0]]


@pytest.mark.parametrize("shape", [(0,), (5,), (1, 2), (1, 1, 1), ()])
def test_pictures_of_another_shape_than_n_are_refused(world: World, shape: tuple[int, ...]) -> None:
    array = np.empty(shape, dtype=object)
    message = refusal(lambda: world.infer({"images": array}))
    assert message == f"input 'images': expected BYTES of shape [N], N from 1 to 4, got shape {list(shape)}"


@pytest.mark.parametrize("place", range(4))
def test_a_bad_picture_fails_the_call_and_is_named(world: World, place: int) -> None:
    pictures = [*GOOD[:4]]
    pictures[place] = b"broken"
    world.infer_pictures(pictures)
    world.pool.run_all()
    (error,) = world.reply.errors
    assert isinstance(error, InvalidInput)
    assert error.message.startswith(f"item {place}: picture is of an unknown format")
    assert all(request in world.batcher.cancelled for request in world.batcher.requests)


def test_a_part_is_queued_when_it_is_decoded(world: World) -> None:
    world.infer_pictures(GOOD[:1], arrival=90.0)
    world.clock.advance(5.0)
    world.pool.run_all()
    (request,) = world.batcher.requests
    assert (request.arrival, request.queued) == (90.0, 105.0)


# Items of a Classify call: each succeeds or fails alone.


def test_items_succeed_and_fail_alone(world: World) -> None:
    world.classify([GOOD[5], b"broken", GOOD[6], b""])
    world.pool.run_all()
    for number in range(len(world.batcher.requests)):
        world.answer(number)
    assert world.firsts == [
        5.0,
        "picture is of an unknown format, expected one of JPEG, PNG, WEBP, GIF, BMP, TIFF",
        6.0,
        "picture is empty, expected an encoded picture",
    ]
    request, facts = world.items.last[0]
    assert request in world.batcher.requests
    assert facts is FACTS


def test_items_of_which_none_is_fit_to_run_need_no_batch(world: World) -> None:
    world.classify([b"", b"broken", b""])
    world.pool.run_all()
    assert world.batcher.requests == []
    assert [isinstance(outcome, InvalidInput) for outcome in world.items.outcomes[0]] == [True] * 3
    assert world.items.last == [(None, None)]


@given(
    good=st.lists(st.booleans(), min_size=1, max_size=8),
    threads=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
)
def test_every_item_gets_its_own_outcome_in_any_order(good: list[bool], threads: int, order: Any) -> None:
    world = World(threads)
    world.classify([GOOD[place] if fit else b"broken" for place, fit in enumerate(good)])
    while world.pool.waiting:
        world.pool.run(order.randrange(len(world.pool.waiting)))
    assert all(request.rows <= world.servable.max_batch_size for request in world.batcher.requests)
    numbers = list(range(len(world.batcher.requests)))
    order.shuffle(numbers)
    for number in numbers:
        assert world.items.times_settled == 0
        world.answer(number)
    assert [first if fit else None for first, fit in zip(world.firsts, good, strict=True)] == [
        float(place) if fit else None for place, fit in enumerate(good)
    ]
    assert world.batcher.reserved == 0


@pytest.mark.parametrize("count", [0, 9])
def test_the_number_of_items_is_bounded(world: World, count: int) -> None:
    assert refusal(lambda: world.classify(GOOD[:1] * count)) == f"the call has {count} items, expected 1 to 8"


def test_a_call_that_finds_no_room_for_all_its_parts_gives_all_back(world: World) -> None:
    world.batcher.door_refusal, world.batcher.places = QueueFull("full"), 1
    with pytest.raises(QueueFull):
        world.classify(GOOD[:4])


def test_a_deadline_that_passed_before_decoding_is_exceeded_and_counted_once(world: World) -> None:
    metrics = Metrics("0", "fake")
    world.servable = make_servable(batcher=world.batcher, metrics=metrics)
    world.classify(GOOD[:4], deadline=101.0)
    world.clock.advance(1.0)
    world.pool.run_all()
    (error,) = world.items.errors
    assert isinstance(error, DeadlineExceeded)
    assert world.batcher.requests == []
    labels = {"model": "pictures", "version": "1", "reason": "deadline_exceeded"}
    assert metrics.registry.get_sample_value("convserve_rejected_total", labels) == 1


def test_the_objective_bounds_the_deadline_of_items(world: World) -> None:
    world.servable = make_servable(batcher=world.batcher, objective_seconds=3.0)
    world.classify(GOOD[:1], deadline=150.0)
    world.pool.run_all()
    assert world.batcher.requests[0].deadline == 103.0


def test_a_part_that_is_refused_fails_the_call_and_withdraws_the_others(world: World) -> None:
    world.classify(GOOD[:4])
    world.pool.run()
    world.batcher.refusal = DeadlineUnmeetable("late")
    world.pool.run()
    (error,) = world.items.errors
    assert isinstance(error, DeadlineUnmeetable)
    assert world.batcher.requests[0] in world.batcher.cancelled


def test_a_part_that_fails_in_its_batch_fails_the_call(world: World) -> None:
    world.classify(GOOD[:4])
    world.pool.run_all()
    first, second = world.batcher.requests
    first.refuse(DeadlineExceeded("too late"))
    world.answer(1)
    assert [type(error) for error in world.items.errors] == [DeadlineExceeded]
    assert second in world.batcher.cancelled


def test_an_error_of_ours_is_logged_and_its_text_kept(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        spec = IMAGE

        def row(self, item: object) -> np.ndarray:
            raise ZeroDivisionError("secret")

    world.servable = make_servable(batcher=world.batcher, preparer=Broken())
    world.classify(GOOD[:2])
    world.pool.run_all()
    (error,) = world.items.errors
    assert (error.status, error.message) == ("INTERNAL", "preparing the items failed")
    assert "ZeroDivisionError: secret" in caplog.text
    assert {record.name for record in caplog.records} <= set(_BOUNDS), "callers can have it logged without end"


def test_a_batcher_that_breaks_settles_the_call(world: World) -> None:
    world.batcher.refusal = ZeroDivisionError("secret")
    world.classify(GOOD[:1])
    world.pool.run_all()
    (error,) = world.items.errors
    assert (error.status, error.message) == ("INTERNAL", "preparing the items failed")


@pytest.mark.parametrize("room", [0, 1])
def test_a_pool_that_is_shut_down_settles_the_call(world: World, room: int) -> None:
    world.pool.room = room
    world.classify(GOOD[:4])
    world.pool.run_all()
    (error,) = world.items.errors
    assert isinstance(error, Draining)
    assert world.batcher.requests == []


@pytest.mark.parametrize("burst", [False, True])
def test_a_call_that_no_memory_is_left_to_hand_over_is_settled_and_gives_its_places_back_once(
    world: World, burst: bool
) -> None:
    world.pool.has_memory = False
    together = world.plane.burst() if burst else None
    world.classify([LARGE] * 4, burst=together)
    if together is not None:
        together.finish()
    assert [(error.status, error.message) for error in world.items.errors] == [
        ("INTERNAL", "preparing the items failed")
    ]
    assert world.batcher.reserved == 0


@pytest.mark.parametrize("error", [MemoryError, SystemExit, RuntimeError])
@pytest.mark.parametrize("place", ["add", "submit", "release", "_clock"])
def test_a_call_ends_whose_thread_dies(monkeypatch: pytest.MonkeyPatch, place: str, error: type[BaseException]) -> None:
    world = World()  # whose reservations end with the server

    def die(*_: object) -> None:
        raise error

    world.classify([TRUNCATED if place == "release" else GOOD[0]])
    with monkeypatch.context() as shortage:
        shortage.setattr(*((world.plane._preparation, place) if place == "_clock" else (Gather, place)), die)
        with contextlib.suppress(error):
            world.pool.run_all()
    assert world.items.times_settled == 1


# Calls that came together.


def test_calls_of_a_burst_are_submitted_together_at_its_end(world: World) -> None:
    replies = [RecordingReply() for _ in range(3)]
    burst = world.plane.burst()
    for value, reply in enumerate(replies):
        world.infer_item(GOOD[value], reply, burst)
    assert (world.batcher.reserved, world.batcher.requests) == (3, [])
    burst.finish()
    assert not world.pool.waiting
    for number, reply in enumerate(replies):
        world.answer(number)
        ((output,),) = reply.answers
        assert output[:, 0].tolist() == [float(number)]


@pytest.mark.parametrize(
    "items",
    [[LARGE], [GOOD[0], LARGE], [b"broken"], GOOD[:5]],
    ids=["large", "large among small", "of unknown size", "more than a batch"],
)
def test_what_would_keep_a_burst_waiting_goes_to_the_pool(world: World, items: list[bytes]) -> None:
    burst = world.plane.burst()
    world.classify(items, burst=burst)
    burst.finish()
    assert world.batcher.requests == []
    assert world.pool.waiting
    world.pool.run_all()
    for number in range(len(world.batcher.requests)):
        world.answer(number)
    assert len(world.firsts) == len(items)


@pytest.mark.parametrize(("count", "waits"), [(16, True), (17, False)])
def test_a_burst_keeps_no_call_of_many_items_whatever_a_batch_holds(count: int, waits: bool) -> None:
    world = World()
    world.plane.max_items = 17
    world.servable = make_servable(batcher=world.batcher, max_batch_size=64)
    burst = world.plane.burst()
    world.classify((3 * GOOD)[:count], burst=burst)
    assert (len(burst.parts) == 1) == waits
    assert bool(world.pool.waiting) != waits


@pytest.mark.parametrize("with_others", [False, True])
def test_items_keep_the_deadline_arrival_and_priority_of_their_call(world: World, with_others: bool) -> None:
    burst = world.plane.burst() if with_others else None
    servable = make_servable(batcher=world.batcher, objective_seconds=2.0)
    world.plane.infer_items(servable, GOOD[:1], Terms(servable, 99.5, 200.0, priority=3, burst=burst), world.reply)
    world.plane.classify(servable, GOOD[:1], Terms(servable, 99.0, 101.0, burst=burst), world.items)
    if burst is not None:
        burst.finish()
    world.pool.run_all()
    told = [(request.deadline, request.arrival, request.handicap) for request in world.batcher.requests]
    assert told == [(101.5, 99.5, 2.0), (101.0, 99.0, 1.0)]


def test_in_a_burst_items_fail_alone_too(world: World) -> None:
    burst = world.plane.burst()
    world.classify([GOOD[5], TRUNCATED, GOOD[6]], burst=burst)
    burst.finish()
    world.answer()
    assert world.firsts == [5.0, "picture is damaged or truncated (OSError)", 6.0]


def test_a_burst_of_damaged_and_good_calls_refuses_only_the_damaged(world: World) -> None:
    replies = [RecordingReply() for _ in range(3)]
    burst = world.plane.burst()
    for item, reply in zip([GOOD[1], TRUNCATED, GOOD[2]], replies, strict=True):
        world.infer_item(item, reply, burst)
    burst.finish()
    for number in range(2):
        world.answer(number)
    assert [len(reply.answers) for reply in replies] == [1, 0, 1]
    assert [error.message for error in replies[1].errors] == ["item 0: picture is damaged or truncated (OSError)"]


def test_who_expired_or_left_before_the_end_of_a_burst_is_not_decoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preparer, "quick_row", lambda *_arguments: pytest.fail("decoded"))
    left = RecordingReply()
    burst = world.plane.burst()
    world.classify(GOOD[:1], deadline=101.0, burst=burst)
    world.infer_item(GOOD[0], left, burst).cancel()
    world.clock.advance(1.0)
    burst.finish()
    assert [type(error) for error in world.items.errors] == [DeadlineExceeded]
    assert [error.status for error in left.errors] == ["CANCELLED"]


def test_a_burst_without_a_place_in_the_queue_is_refused_before_it_is_decoded(world: World) -> None:
    world.batcher.door_refusal, world.batcher.places = QueueFull("full"), 1
    burst = world.plane.burst()
    world.classify(GOOD[:1], burst=burst)
    with pytest.raises(QueueFull):
        world.infer_item(GOOD[0], world.reply, burst)
    burst.finish()
    world.answer()


def test_a_long_burst_is_finished_by_the_pool(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(preparer: Preparer, item: bytes) -> np.ndarray:
        world.clock.advance(0.008)
        return preparer.row(item)

    monkeypatch.setattr(Preparer, "quick_row", slowly)
    replies = [RecordingReply() for _ in range(8)]
    burst = world.plane.burst()
    for item, reply in zip(GOOD, replies, strict=True):
        world.infer_item(item, reply, burst)
    burst.finish()
    assert len(world.batcher.requests) == 3
    assert len(world.pool.waiting) == 2
    world.pool.run_all()
    for number in range(8):
        world.answer(number)
    assert [len(reply.answers) for reply in replies] == [1] * 8


def test_a_burst_that_the_pool_is_too_late_for_is_refused(world: World) -> None:
    world.pool.room = 0
    burst = world.plane.burst()
    world.classify([LARGE], burst=burst)
    burst.finish()
    assert [type(error) for error in world.items.errors] == [Draining]


# Callers who leave.


@pytest.mark.parametrize("decoded", [0, 1, 2])
def test_a_caller_who_leaves_withdraws_every_part(world: World, decoded: int) -> None:
    ticket = world.classify(GOOD[:4])
    for _ in range(decoded):
        world.pool.run()
    ticket.cancel()
    ticket.cancel()
    world.pool.run_all()
    assert [error.status for error in world.items.errors] == ["CANCELLED"]
    assert len(world.batcher.requests) == decoded
    assert world.batcher.cancelled == world.batcher.requests
    for number in range(decoded):
        world.answer(number)


def test_nothing_is_decoded_for_a_caller_who_has_left(world: World) -> None:
    class Counting:
        spec = image_spec()
        decoded = 0

        def row(self, item: object) -> np.ndarray:
            self.decoded += 1
            return np.zeros((2, 3, 1), np.uint8)

    preparer = Counting()
    world.servable = make_servable(batcher=world.batcher, preparer=preparer)
    world.classify(GOOD[:4]).cancel()
    world.pool.run_all()
    assert preparer.decoded == 0
    assert world.batcher.reserved == 0


def test_a_caller_who_leaves_while_a_part_is_decoded(world: World) -> None:
    class Leaving:
        spec = image_spec()

        def row(self, item: object) -> np.ndarray:
            ticket.cancel()
            return np.zeros((2, 3, 1), np.uint8)

        def stack(self, rows: list[np.ndarray]) -> np.ndarray:
            return np.stack(rows)

    world.servable = make_servable(batcher=world.batcher, preparer=Leaving())
    ticket = world.classify(GOOD[:1])
    world.pool.run_all()
    assert [error.status for error in world.items.errors] == ["CANCELLED"]
    assert world.batcher.requests == []


def test_leaving_after_the_answer_changes_nothing(world: World) -> None:
    ticket = world.classify(GOOD[:1])
    world.pool.run_all()
    world.answer()
    ticket.cancel()
    assert world.items.times_settled == 1
    assert world.batcher.cancelled == []


# Finding a servable.


def test_find_lends_until_the_lame_duck_is_over(world: World) -> None:
    assert world.plane.find("pictures", "3").version == 3
    with pytest.raises(ModelNotFound):
        world.plane.find("nothing")
    world.plane.draining = True
    with pytest.raises(Draining) as caught:
        world.plane.find("pictures")
    assert caught.value.retry_after_seconds == 1.0, "another server takes its place"


def test_lends_what_the_repository_lends_until_the_lame_duck_is_over(world: World) -> None:
    lends: list[tuple[Servable, str]] = []
    world.plane.lifecycle.lends = lambda *asked: lends.append(asked) or len(lends) == 1  # type: ignore[method-assign, func-returns-value]
    assert world.plane.lends(world.servable, "3")
    assert lends == [(world.servable, "3")]
    assert not world.plane.lends(world.servable, "3")
    lends.clear()
    world.plane.draining = True
    assert not world.plane.lends(world.servable, "3")


def test_decoding_time_is_that_of_the_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    load = image.load

    def slow(*args: Any) -> np.ndarray:
        world.clock.advance(0.25)
        return load(*args)

    monkeypatch.setattr(image, "load", slow)
    world.classify(GOOD[:2])
    world.pool.run_all()
    families = world.servable.metrics._families
    labels = {"model": "pictures", "version": "1", "phase": "decode"}
    assert families.registry.get_sample_value("convserve_phase_duration_seconds_sum", labels) == pytest.approx(0.5)


def test_decoding_time_is_counted_once_a_part(world: World) -> None:
    world.classify(GOOD[:4])
    world.pool.run_all()
    families = world.servable.metrics._families
    labels = {"model": "pictures", "version": "1", "phase": "decode"}
    assert families.registry.get_sample_value("convserve_phase_duration_seconds_count", labels) == 2


def test_a_manifest_of_a_larger_batch_makes_larger_parts() -> None:
    world = World(threads=1)
    world.servable = make_servable(dataclasses.replace(manifest()), batcher=world.batcher, max_batch_size=8)
    world.classify(GOOD)
    world.pool.run_all()
    assert [request.rows for request in world.batcher.requests] == [8]


def test_a_call_that_the_queue_could_never_hold_is_no_overload(world: World) -> None:
    world.batcher.max_queued_requests = 1
    message = refusal(lambda: world.classify(GOOD[:4]))
    assert message == "the call makes 2 batches, the queue holds 1: send fewer items"
    assert world.batcher.reserved == 0
    world.batcher.max_queued_requests = 2
    world.classify(GOOD[:4])
    world.pool.run_all()
    assert len(world.batcher.requests) == 2


class TestMoreRowsThanABatchHolds:
    """Where the operator allows them they are run in several batches, and the caller gets one answer."""

    ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)
    GAIN = np.ones(1, np.float32)

    @pytest.fixture
    def wide(self, world: World) -> World:
        optional = (TensorSpec("gain", "FP32", (1,)),)
        world.servable = bare_servable(batcher=world.batcher, max_rows=12, optional_inputs=optional)
        return world

    def offer(self, wide: World) -> tuple[Ticket, RecordingReply]:
        reply = RecordingReply()
        terms = wide.terms(wide.servable, deadline=101.0, priority=3)
        return wide.plane.infer(wide.servable, {"x": self.ROWS, "gain": self.GAIN}, terms, reply), reply

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
    def test_come_back_in_order_whichever_batch_ends_first(self, wide: World, order: Sequence[int]) -> None:
        _, reply = self.offer(wide)
        parts = wide.batcher.requests
        gain = {"gain": self.GAIN}
        assert [(part.rows, part.deadline, part.arrival, part.handicap, part.overrides) for part in parts] == [
            (4, 101.0, 100.0, 2.0, gain), (4, 101.0, 100.0, 2.0, gain), (2, 101.0, 100.0, 2.0, gain),
        ]  # fmt: skip
        for place in order:
            assert not reply.answers
            parts[place].answer([2 * parts[place].inputs[0]], FACTS)
        (outputs,) = reply.answers
        assert outputs[0].tolist() == (2 * self.ROWS).tolist()
        assert wide.batcher.reserved == 0

    def test_one_part_that_is_refused_fails_the_call_and_withdraws_the_others(self, wide: World) -> None:
        late = DeadlineUnmeetable("too many wait", retry_after_seconds=1.0)

        def refuse_from_now_on(_request: PendingRequest) -> None:
            wide.batcher.refusal = late

        wide.batcher.on_submit = refuse_from_now_on
        _, reply = self.offer(wide)
        assert reply.errors == [late]
        assert len(wide.batcher.requests) == 1
        assert wide.batcher.cancelled[0] is wide.batcher.requests[0]
        assert not wide.batcher.requests[0].refuse(late), "settled: it does not count as a caller who left"
        assert wide.batcher.reserved == 0

    def test_once_a_part_is_refused_the_others_are_not_queued(
        self, wide: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submitted: list[int] = []

        def refuse_the_first(request: PendingRequest, _inline: bool) -> None:
            wide.batcher.release()
            submitted.append(request.rows)
            if len(submitted) == 1:
                raise DeadlineUnmeetable("too many wait")

        monkeypatch.setattr(wide.batcher, "submit", refuse_the_first)
        _, reply = self.offer(wide)
        assert reply.status == "RESOURCE_EXHAUSTED"
        assert submitted == [4]
        assert wide.batcher.reserved == 0

    def test_no_part_is_run_by_the_thread_that_brings_it(self, wide: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes calls in, and the other parts wait for it."""
        submitted: list[bool] = []

        def submit(_request: PendingRequest, inline: bool = False) -> None:
            wide.batcher.release()
            submitted.append(inline)

        monkeypatch.setattr(wide.batcher, "submit", submit)
        self.offer(wide)
        assert submitted == [False] * 3

    def test_parts_that_do_not_fit_together_fail_the_call(self, wide: World, caplog: pytest.LogCaptureFixture) -> None:
        _, reply = self.offer(wide)
        for width, part in enumerate(wide.batcher.requests, 1):
            part.answer([np.zeros((part.rows, width), np.float32)], FACTS)
        assert reply.status == "INTERNAL"
        assert isinstance(reply.errors[0], BackendFailed)
        assert caplog.records
        assert {record.name for record in caplog.records} <= set(_BOUNDS), "callers can have it logged without end"

    def test_no_place_for_all_is_a_place_for_none(self, wide: World) -> None:
        wide.batcher.places, wide.batcher.door_refusal = 2, QueueFull("full", retry_after_seconds=1.0)
        with pytest.raises(QueueFull):
            self.offer(wide)
        assert not wide.batcher.requests
        assert wide.batcher.reserved == 0

    def test_all_leave_with_their_caller(self, wide: World) -> None:
        ticket, reply = self.offer(wide)
        ticket.cancel()
        assert wide.batcher.cancelled == wide.batcher.requests
        assert wide.batcher.requests[0].refuse(RequestCancelled("left")), "by the batcher, which counts it"
        assert reply.status == "CANCELLED"

    def test_there_is_a_bound(self, wide: World) -> None:
        wide.servable = dataclasses.replace(wide.servable, max_rows=9)
        assert refusal(lambda: self.offer(wide)) == "batch of 10, expected 1 to 9"

    def test_pictures_as_well(self, world: World) -> None:
        world.servable = make_servable(batcher=world.batcher, max_rows=8)
        reply, items = RecordingReply(), np.array(GOOD, object)
        world.plane.infer(world.servable, {"images": items}, world.terms(world.servable, deadline=101.0), reply)
        world.pool.run_all()
        assert [part.rows for part in world.batcher.requests] == [4, 4]
        for part in reversed(world.batcher.requests):
            part.answer([part.inputs[0].reshape(4, 6)[:, :3]], FACTS)
        assert reply.answers[0][0].shape == (8, 3)


# Items that were answered before.


class RememberingWorld(World):
    """A world whose version keeps answers, unless there is no room for any."""

    def __init__(self, limit_bytes: int = 1_000_000, *, merges: bool = False) -> None:
        super().__init__()
        self.told = Told()
        shelf = ResponseCache(limit_bytes).shelf() if limit_bytes else None
        shared = SharedAnswers(
            self.batcher, identity="pictures 1", names=["images"], metrics=self.told, cache=shelf, merges=merges,
            clock=self.clock,
        )  # fmt: skip
        self.servable = make_servable(batcher=self.batcher, shared=shared)

    def renew(self) -> None:
        """Forget the last call, for another."""
        self.reply, self.items = RecordingReply(), RecordingItems()
        self.batcher.requests.clear()

    def run_all(self) -> None:
        self.pool.run_all()
        for number in range(len(self.batcher.requests)):
            self.answer(number)


def test_known_items_need_no_place_no_decoding_and_no_run() -> None:
    world = RememberingWorld()
    world.classify(GOOD[:4])
    world.run_all()
    before = world.firsts
    world.renew()
    world.batcher.places, world.batcher.door_refusal = 0, QueueFull("full")
    world.classify([GOOD[2], GOOD[0]], deadline=200.0, arrival=99.0)
    assert world.firsts == [before[2], before[0]]
    assert not world.pool.waiting
    assert world.batcher.requests == []
    request, facts = world.items.last[0]
    assert request is not None
    assert facts is not None
    assert (facts.release_reason, facts.rows, facts.released) == ("cached", 2, world.clock.now)
    assert (request.rows, request.deadline, request.arrival) == (2, 200.0, 99.0)
    with pytest.raises(QueueFull):
        world.classify([GOOD[2], GOOD[5]])
    assert world.told.counts == {"miss": 1, "hit": 1, "evicted": 0}


def test_an_item_is_known_whatever_is_made_of_it() -> None:
    world = RememberingWorld()
    world.classify(GOOD[:2])
    world.run_all()
    world.renew()
    world.infer_pictures(GOOD[:2])
    ((output,),) = world.reply.answers
    assert output[:, 0].tolist() == [0.0, 1.0]


def test_an_item_that_has_no_answer_is_not_known() -> None:
    world = RememberingWorld()
    for _ in range(2):
        world.renew()
        world.classify([GOOD[1], b"broken"])
        world.run_all()
        assert isinstance(world.items.outcomes[0][1], InvalidInput)
    assert "hit" not in world.told.counts


@pytest.mark.parametrize("items", [[b"broken", GOOD[0]], [GOOD[0], b"broken"], GOOD[:3]])
def test_a_call_that_ran_is_one_miss_whichever_of_its_items_could(items: list[bytes]) -> None:
    world = RememberingWorld()
    world.classify(items)
    world.run_all()
    assert world.told.counts == {"miss": 1, "evicted": 0}


def test_a_call_of_which_nothing_could_run_is_no_miss() -> None:
    world = RememberingWorld()
    world.classify([b"broken", b"too"])
    world.run_all()
    assert world.items.times_settled == 1
    assert world.told.counts == {}


def test_who_shares_a_run_is_no_miss_besides() -> None:
    world = RememberingWorld(merges=True)
    for _ in range(3):
        world.classify(GOOD[:1])
    world.run_all()
    assert world.told.counts == {"merged": 2, "miss": 1, "evicted": 0}
    world.renew()
    world.classify(GOOD[:1])
    assert world.told.counts["hit"] == 1


def test_items_share_a_run_where_no_answers_are_kept() -> None:
    world = RememberingWorld(0, merges=True)
    for _ in range(2):
        world.classify(GOOD[:1])
    world.run_all()
    assert [len(outcomes) for outcomes in world.items.outcomes] == [1, 1]
    assert world.told.counts == {"merged": 1}


def test_known_items_come_too_late_after_the_deadline() -> None:
    world = RememberingWorld()
    world.classify(GOOD[:1])
    world.run_all()
    world.renew()
    with pytest.raises(DeadlineExceeded):
        world.classify(GOOD[:1], deadline=world.clock.now)
    assert world.items.times_settled == 0  # the door tells it
    assert world.told.counts == {"miss": 1, "evicted": 0, "deadline_exceeded": 1}


@given(
    calls=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4), max_size=12),
    limit_bytes=st.sampled_from([1000, 3000, 100_000]),
    merges=st.booleans(),
)
def test_with_a_memory_calls_are_answered_as_without(calls: list[list[int]], limit_bytes: int, merges: bool) -> None:
    world = RememberingWorld(limit_bytes, merges=merges)
    for call in calls:
        world.renew()
        world.classify([GOOD[place] if place < 8 else b"broken" for place in call])
        world.run_all()
        told = [first if isinstance(first, float) else "bad" for first in world.firsts]
        assert told == [float(place) if place < 8 else "bad" for place in call]
        assert world.batcher.reserved == 0
