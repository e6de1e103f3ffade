"""The session for batches that are alone: proven, priced while nothing runs, and kept only where it is worth it."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.backend.base import Provider
from service.backend.onnx import OnnxBackend
from service.batching.cost import CostModel
from service.batching.lone import LoneRuns
from service.batching.policy import BatchingPolicy
from service.cores import Cores
from service.errors import GoldenMismatch
from service.manifest import MODEL_FILE
from service.repository import store
from service.repository.attempt import Attempt
from service.repository.batch_view import BatchView
from service.repository.lone_pricing import Disturbed
from service.repository.lone_session import LoneSession
from service.repository.measuring import Subject
from tests.fakes import linear_cost
from tests.unit.service.samples import doubling, write_model

SUBJECT = Subject(BatchView((), (), True, lambda *_: []), Provider("cpu", "CPUExecutionProvider", "cpu"), (1, 2), None)
QUICKER = {None: frozenset({1, 2})}


class FakeBatcher:
    def __init__(self) -> None:
        self.policy = BatchingPolicy(linear_cost(groups=[None]), 8, 0.25)
        self.lone: LoneRuns | None = None

    def run_alone_by(self, lone: LoneRuns) -> None:
        self.lone = lone


class FakePricing:
    """Finds these buckets quicker with so many threads; ``during`` is called while it measures."""

    def __init__(self, quicker: Mapping[int, Mapping[Hashable, frozenset[int]]]) -> None:
        self.quicker = quicker
        self.during: Callable[[], object] = lambda: None
        self.measured: list[int] = []
        self.is_measured = False

    def candidates(self, _usual: Subject) -> Sequence[int]:
        return list(self.quicker)

    def knows(self, _usual: Subject, _candidates: Iterable[int]) -> bool:
        return self.is_measured

    def price(
        self, usual: Subject, lone: Subject, threads: int, undisturbed: Callable[[], bool]
    ) -> tuple[CostModel, Mapping[Hashable, frozenset[int]]] | None:
        assert lone.graph is not usual.graph
        self.measured.append(threads)
        self.during()
        if not undisturbed():
            raise Disturbed
        found = self.quicker[threads]
        return (linear_cost(0.001, groups=[None]), found) if found else None


class Stage:
    def __init__(self, folder: Path, quicker: Mapping[int, Mapping[Hashable, frozenset[int]]]) -> None:
        self.cores = Cores([0, 1], move=lambda *_: None, here=lambda: 0)
        self.batcher = FakeBatcher()
        self.pricing = FakePricing(quicker)
        self.proven: list[BatchView] = []
        self.error: Exception | None = None
        self.folder = write_model(folder, doubling())
        self.session = LoneSession(
            self.folder,
            store.fingerprint(self.folder),
            self.pricing,  # type: ignore[arg-type]
            SUBJECT,
            self.prove,
            self.cores,
        )

    def prove(self, graph: BatchView) -> None:
        if self.error is not None:
            raise self.error
        self.proven.append(graph)

    def open(self) -> LoneRuns | None:
        self.session.open(self.batcher)  # type: ignore[arg-type]
        return self.batcher.lone

    def run_a_batch(self) -> None:
        self.cores.taken_by(lambda: None, 1)()


def test_it_is_proven_and_given_to_the_batcher_with_costs_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    lone = stage.open()
    assert lone is not None
    assert len(stage.proven) == 1
    assert (stage.session.settled, lone.threads, lone.quicker) == (True, 2, QUICKER)
    assert lone.policy.cost.seconds(1, None) == 0.0015
    assert lone.policy.max_queue_delay_seconds == 0.25
    np.testing.assert_equal(lone.run([np.ones((3, 2), np.float32)]), [np.full((3, 2), 2.0)])


def test_its_runs_take_the_cores_and_look_whether_others_do(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    lone = stage.open()
    assert lone is not None
    assert lone.cores_idle()
    begun = stage.cores.begun
    assert stage.cores.taken_by(lone.cores_idle, 1)() is False
    lone.run([np.ones((1, 2), np.float32)])
    assert stage.cores.begun == begun + 2
    assert stage.cores.idle


def test_fewer_threads_are_tried_where_all_cores_gain_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {8: {}, 4: {}, 2: QUICKER})
    lone = stage.open()
    assert lone is not None
    assert (lone.threads, stage.pricing.measured) == (2, [8, 4, 2])


def test_what_gains_nothing_is_dropped_before_fewer_threads_are_measured(
    tmp_path: Path, without_garbage_collection: None
) -> None:
    """It holds the weights once more."""
    stage, opened, others = Stage(tmp_path, {8: {}, 4: {}, 2: QUICKER}), list[int](), _backends()
    stage.session._prove = lambda _: None
    stage.pricing.during = lambda: opened.append(_backends() - others)
    assert stage.open() is not None
    assert opened == [1, 1, 1]


def _backends() -> int:
    return sum(type(kept) is OnnxBackend for kept in gc.get_objects())


@pytest.mark.parametrize("quicker", [{}, {2: {}}], ids=["nothing to try", "no quicker"])
def test_one_that_gains_nothing_is_not_kept(tmp_path: Path, quicker: Mapping[int, Mapping]) -> None:  # type: ignore[type-arg]
    stage = Stage(tmp_path, quicker)
    assert stage.open() is None
    assert (stage.session.settled, stage.session.runs) == (True, None)
    stage.session.interrupt()  # there is nothing to interrupt


@pytest.mark.parametrize(
    "error",
    [GoldenMismatch("batch of 2: golden sample 1 differs by 3, tolerance 0.001"), MemoryError("no more")],
    ids=["other answers", "no memory"],
)
def test_one_that_fails_is_not_used_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    stage = Stage(tmp_path, {4: QUICKER, 2: QUICKER})
    stage.error = error
    with caplog.at_level(logging.WARNING):
        assert stage.open() is None
    assert stage.session.settled
    assert stage.pricing.measured == []
    assert str(error) in caplog.text


def test_one_of_a_file_that_has_changed_is_not_used(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    onnx.save(doubling(("N", 3)), stage.folder.path / MODEL_FILE)
    assert stage.open() is None
    assert (stage.session.settled, stage.proven) == (True, [])


def test_one_of_weights_beside_it_that_have_changed_is_not_used(tmp_path: Path) -> None:
    """Of a bare graph no golden answer would tell."""
    stage = Stage(tmp_path, {2: QUICKER})
    (stage.folder.path / "weights.bin").write_bytes(b"others")
    assert stage.open() is None
    assert (stage.session.settled, stage.proven) == (True, [])


def test_what_is_known_is_opened_whatever_runs(tmp_path: Path) -> None:
    """A caller who is alone all the time leaves no moment in which no batch runs."""
    stage = Stage(tmp_path, {2: QUICKER})
    stage.pricing.is_measured = True
    assert stage.cores.taken_by(stage.open, 1)() is not None


def test_it_waits_until_no_batch_runs(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    for _ in range(10):
        stage.cores.taken_by(stage.open, 1)()
        assert stage.batcher.lone is None
        assert not stage.session.settled
    assert stage.open() is not None


def test_what_was_measured_beside_a_batch_is_not_believed_and_measured_ever_more_seldom(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {4: {}, 2: QUICKER})
    stage.pricing.during = stage.run_a_batch
    looks = []
    for look in range(800):
        stage.open()
        if len(stage.pricing.measured) > len(looks):
            looks.append(look)
    assert set(stage.pricing.measured) == {4}, "no smaller number is tried for that"
    assert looks == [0, 3, 8, 17, 34, 67, 132, 261, 518, 775]
    assert (stage.session.settled, stage.batcher.lone) == (False, None)
    stage.pricing.during = lambda: None
    while not stage.session.settled:
        stage.open()
    assert stage.batcher.lone is not None


def test_one_that_is_given_up_while_it_is_opened_is_not_used(tmp_path: Path) -> None:
    stage, attempt = Stage(tmp_path, {2: QUICKER}), Attempt()
    stage.pricing.during = attempt.give_up
    stage.session.open(stage.batcher, attempt)  # type: ignore[arg-type]
    assert (stage.batcher.lone, stage.session.runs, stage.session.settled) == (None, None, True)


def test_its_weights_are_let_go_with_it(tmp_path: Path, without_garbage_collection: None) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    stage.session._prove = lambda _: None
    stage.open()
    assert stage.session._backend is not None
    backend = weakref.ref(stage.session._backend)
    del stage
    assert backend() is None


def test_its_runs_can_be_interrupted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    lone = stage.open()
    assert lone is not None
    lone.run([np.ones((1, 2), np.float32)])
    stage.session.interrupt()
    backend = stage.session._backend
    assert backend is not None
    assert all(options.terminate for options in backend._run_options)


def test_what_is_given_up_takes_no_core_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, {2: QUICKER})
    seen: list[bool] = []

    def given_up_meanwhile(*_: object) -> list[np.ndarray]:
        seen.append(stage.cores.idle)
        stage.session.interrupt()
        seen.append(stage.cores.idle)
        return []

    monkeypatch.setattr(OnnxBackend, "run", given_up_meanwhile)
    lone = stage.open()
    assert lone is not None
    lone.run([np.ones((1, 2), np.float32)])
    assert (seen, stage.cores.idle) == ([False, True], True)
