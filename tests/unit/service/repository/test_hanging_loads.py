"""A version whose loading never ends has failed, and keeps nothing else from changing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from service.errors import LoadFailed
from service.repository.attempt import Attempt
from service.repository.servable import Servable
from tests.unit.service.repository.test_attempt import Threads
from tests.unit.service.repository.test_lifecycle import FakeLoader
from tests.unit.service.repository.test_reconciler import Stage
from tests.unit.service.repository.test_watchdog import watched


class HangingStage(Stage):
    """A stage whose loads are begun as ``threads`` says."""

    def __init__(self, root: Path, *places: str, **settings: Any) -> None:
        self.threads = Threads()
        super().__init__(root, *places, attempts=self.threads.attempts(), **settings)

    def failed(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value("convserve_model_change_failed", {"model": name})


def test_at_the_start_it_has_failed_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = HangingStage(tmp_path, "a/1", "b/1")
    stage.threads.hanging = {"load a/1"}
    with caplog.at_level(logging.ERROR):
        stage.start()
    assert stage.states == {"a/1": "UNAVAILABLE", "b/1": "READY"}
    assert "UNAVAILABLE: it did not end within 2.5 seconds" in caplog.text
    assert (stage.failed("a"), stage.failed("b")) == (1, 0)
    assert not stage.lifecycle.is_ready
    assert stage.reconciler.runs_on


def test_a_new_version_that_hangs_leaves_the_old_one_serving_and_others_are_followed(tmp_path: Path) -> None:
    stage = HangingStage(tmp_path, "a/1", "b/1").start()
    stage.add("a/2")
    stage.threads.hanging = {"load a/2"}
    stage.reconciler.poll()
    assert stage.states == {"a/1": "READY", "a/2": "UNAVAILABLE", "b/1": "READY"}
    assert stage.failed("a") == 1
    stage.add("b/2")
    stage.reconciler.poll()
    assert stage.serving("b") == [2]
    assert stage.threads.begun[-2:] == ["load a/2", "load b/2"], "what hung is not tried at every look"


@pytest.mark.parametrize("then", ["it changes", "what kept it is over"])
def test_a_changed_version_that_hangs_leaves_the_old_one_and_is_loaded_later(tmp_path: Path, then: str) -> None:
    stage = HangingStage(tmp_path, "a/1").start()
    old = stage.lifecycle.find("a")
    stage.change("a/1")
    stage.threads.hanging = {"load a/1"}
    stage.reconciler.poll()
    assert stage.lifecycle.find("a") is old
    stage.threads.hanging = set()
    if then == "it changes":
        stage.change("a/1")
        stage.reconciler.poll()
    else:
        stage.threads.go_on()
        watched(stage).look()
    assert stage.lifecycle.find("a") is not old
    assert stage.failed("a") == 0


def test_a_call_is_told_and_may_try_again(tmp_path: Path) -> None:
    stage = HangingStage(tmp_path, "a/1", model_control_mode="explicit").start()
    stage.threads.hanging = {"load a/1"}
    with pytest.raises(LoadFailed, match="version 1: loading did not end in time"):
        stage.reconciler.load_model("a")
    assert not stage.reconciler.changing.locked()
    stage.threads.hanging = set()
    stage.reconciler.load_model("a")
    assert stage.states == {"a/1": "READY"}


def test_what_ends_too_late_harms_nothing(tmp_path: Path) -> None:
    stage = HangingStage(tmp_path, "a/1").start()
    stage.change("a/1")
    stage.threads.hanging = {"load a/1"}
    stage.reconciler.poll()
    stage.threads.hanging = set()
    stage.change("a/1")
    stage.reconciler.poll()
    served = stage.lifecycle.find("a")
    stage.threads.go_on()
    watched(stage).look()
    assert stage.lifecycle.find("a") is served
    assert stage.loader.batchers["a/1"] is served.batcher, "no other was begun"
    assert not stage.reconciler.runs_on


def test_once_what_kept_it_is_over_it_is_loaded_anew(tmp_path: Path) -> None:
    stage = HangingStage(tmp_path, "a/1")
    stage.threads.hanging = {"load a/1"}
    stage.start()
    watchdog = watched(stage)
    watchdog.look()
    assert stage.threads.begun == ["load a/1"], "not as long as it hangs"
    stage.threads.hanging = set()
    stage.threads.go_on()
    watchdog.look()
    assert stage.states == {"a/1": "READY"}
    assert stage.failed("a") == 0


class GivenUp(FakeLoader):
    """Is given up while it loads, before or after there is something to interrupt."""

    def __init__(self, *, interruptible: bool) -> None:
        super().__init__()
        self._interruptible = interruptible

    def __call__(self, *arguments: Any) -> Servable:
        attempt: Attempt = arguments[-1]
        if self._interruptible:
            attempt.interruptible_by(lambda: None)
        attempt.give_up()
        return super().__call__(*arguments)


@pytest.mark.parametrize(("interruptible", "loads"), [(False, 4), (True, 1)])
def test_what_ends_since_it_was_interrupted_proves_nothing_and_is_not_tried_again(
    tmp_path: Path, interruptible: bool, loads: int
) -> None:
    threads = Threads()
    stage = Stage(tmp_path, "a/1", loader=GivenUp(interruptible=interruptible), attempts=threads.attempts()).start()
    watchdog = watched(stage)
    for _ in range(6):
        watchdog.look()
    assert stage.states == {"a/1": "UNAVAILABLE"}
    assert len(threads.begun) == loads


@pytest.mark.parametrize("died", [False, True])
def test_what_was_unloaded_meanwhile_does_not_come_back(tmp_path: Path, died: bool) -> None:
    stage = HangingStage(tmp_path, "a/1", model_control_mode="explicit", load_models="a").start()
    stage.change("a/1")
    stage.threads.hanging = {"load a/1"}
    with pytest.raises(LoadFailed):
        stage.reconciler.load_model("a")
    if died:
        stage.loader.on_death["a/1"]()
    stage.reconciler.unload_model("a")
    stage.threads.hanging = set()
    stage.threads.go_on()
    watched(stage).look()
    assert stage.states == {"a/1": "UNAVAILABLE"}
    assert stage.threads.begun == ["load a/1"] * 2


def test_what_always_ends_too_late_stays_down_after_some_tries(tmp_path: Path) -> None:
    stage = HangingStage(tmp_path, "a/1")
    stage.threads.hanging = {"load a/1"}
    stage.start()
    watchdog = watched(stage)
    for _ in range(6):
        if stage.reconciler.runs_on:
            stage.threads.go_on()
        watchdog.look()
    assert stage.threads.begun == ["load a/1"] * 4
    assert stage.states == {"a/1": "UNAVAILABLE"}


def test_an_older_version_stands_in_for_one_that_hangs_at_the_start(tmp_path: Path) -> None:
    stage = HangingStage(tmp_path, "a/1", "a/2")
    stage.threads.hanging = {"load a/2"}
    stage.start()
    assert stage.serving("a") == [1]
    assert stage.lifecycle.is_ready
