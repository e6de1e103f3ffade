"""When health looks at the models again; the loop is a stand-in that runs what is due when told."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from service.repository.lifecycle import VersionStatus
from service.transport.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Loop:
    """Keeps what is due."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def is_running(self) -> bool:
        return True

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.due.append(call)

    def run(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


class Stage:
    """Health of a server whose one model changes its state while its next version loads; seen where it is served."""

    def __init__(self) -> None:
        self.looks = 0
        self.state: Any = "LOADING"
        self.draining = False
        self.meanwhile: Callable[[], None] = lambda: None
        self.loop = Loop()
        self.health = Health(
            SimpleNamespace(statuses=self._statuses),  # type: ignore[arg-type]
            lambda: not self.draining,
            lambda: self.draining,
        )
        self.health.refresh()  # a model may be loaded before there is a loop
        self.health.attach(self.loop)  # type: ignore[arg-type]
        self.looks = 0

    def _statuses(self) -> list[VersionStatus]:
        self.looks += 1
        seen = [VersionStatus("a", 1, self.state), VersionStatus("a", 2, "LOADING")]
        self.meanwhile()
        return seen

    def served(self, name: str) -> int:
        return self.health._states[name]

    def change(self, state: str) -> None:
        self.state = state
        self.health.refresh()


def test_a_server_that_drains_serves_nothing() -> None:
    stage = Stage()
    names = ("", "a", "a/1")
    assert [stage.served(name) for name in names] == [SERVING, NOT_SERVING, NOT_SERVING], "known from the start"
    stage.change("READY")
    stage.loop.run()
    assert [stage.served(name) for name in names] == [SERVING] * 3
    stage.draining = True
    stage.health.refresh()
    stage.loop.run()
    assert [stage.served(name) for name in names] == [NOT_SERVING] * 3


def test_many_changes_at_once_are_one_look() -> None:
    stage = Stage()
    for _ in range(2000):
        stage.change("READY")
    stage.loop.run()
    assert stage.looks == 1
    assert stage.served("a") == SERVING
    stage.change("UNLOADING")
    stage.loop.run()
    assert stage.served("a") == NOT_SERVING


def test_a_change_during_a_look_is_not_missed() -> None:
    stage = Stage()

    def change_once() -> None:
        stage.meanwhile = lambda: None
        stage.change("UNAVAILABLE")

    stage.meanwhile = change_once
    stage.change("READY")
    stage.loop.run()
    assert stage.served("a") == SERVING, "what was seen"
    stage.loop.run()
    assert stage.served("a") == NOT_SERVING


def test_a_change_before_the_loop_runs_is_seen_when_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.loop, "is_running", lambda: False)
    stage.change("READY")
    assert not stage.loop.due, "one that is closed would take nothing"
    monkeypatch.undo()
    stage.change("READY")
    stage.loop.run()
    assert stage.served("a") == SERVING


def test_a_look_for_which_there_was_no_memory_keeps_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()

    def no_memory(_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as shortage:
        shortage.setattr(stage.loop, "call_soon_threadsafe", no_memory)
        with pytest.raises(MemoryError):
            stage.health.refresh()
    stage.health.refresh()
    stage.loop.run()
    assert stage.looks == 1
