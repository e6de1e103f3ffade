"""Versions that die or hang come back, a few times, and the others never notice."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import ManifestInvalid
from service.repository.attempt import Start
from service.repository.watchdog import Watchdog
from tests.fakes import GUARD_SECONDS, FakeClock
from tests.unit.service.repository.test_reconciler import Stage


def watched(
    stage: Stage,
    run_timeout_seconds: float = 5.0,
    clock: FakeClock | None = None,
    start: Start = lambda _name, work: work(),
) -> Watchdog:
    return Watchdog(
        stage.lifecycle, stage.reconciler, run_timeout_seconds, clock or FakeClock(), start, on_death=pytest.fail
    )


def fields_of(record: logging.LogRecord) -> Any:
    return record.__dict__["fields"]


def test_nothing_happens_while_all_is_well(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    loaded: list[str] = []
    stage.loader.during = loaded.append
    threads: list[str] = []
    watched(stage, start=lambda name, _work: threads.append(name)).look()
    assert (loaded, threads) == ([], [])
    assert stage.states == {"a/1": "READY", "b/1": "READY"}


def test_a_version_whose_instance_died_is_loaded_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    old = stage.lifecycle.find("a")
    stage.loader.on_death["a/1"]()
    assert not stage.lifecycle.is_ready
    watched(stage).look()
    assert stage.lifecycle.find("a") is not old
    assert stage.lifecycle.is_ready


def test_a_version_that_hangs_is_given_up_and_loaded_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    old, hanging, other = stage.lifecycle.find("a"), stage.loader.batchers["a/1"], stage.loader.batchers["b/1"]
    hanging.wedged = True
    with caplog.at_level(logging.ERROR):
        watched(stage).look()
    assert hanging.abandoned
    assert not other.abandoned
    assert stage.loader.interrupted == ["a/1"]
    assert stage.lifecycle.find("a") is not old
    assert [(record.message, fields_of(record)) for record in caplog.records] == [
        ("an instance hangs", {"model": "a", "version": 1})
    ]


@pytest.mark.usefixtures("without_garbage_collection")
def test_what_was_given_up_is_kept_by_its_batch_alone_and_known_until_that_ends(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    old, batcher = weakref.ref(stage.lifecycle.find("a")), stage.loader.batchers["a/1"]
    batcher.wedged, batcher.running = True, 1
    watched(stage).look()
    assert old() is None
    assert stage.reconciler.runs_on
    batcher.running = 0
    assert not stage.reconciler.runs_on
    batcher.running = 1
    del batcher
    stage.loader.batchers.clear()
    assert not stage.reconciler.runs_on, "its thread has ended"


def test_what_hangs_is_given_up_while_another_is_loaded_anew_or_waits_for_that(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    revivals: list[Callable[[], None]] = []
    watchdog = watched(stage, start=lambda _name, work: revivals.append(work))
    stage.loader.on_death["a/1"]()
    watchdog.look()
    assert stage.states == {"a/1": "UNAVAILABLE", "b/1": "READY"}
    stage.loader.batchers["b/1"].wedged = True
    watchdog.look()
    assert stage.loader.batchers["b/1"].abandoned
    assert len(revivals) == 1, "one after the other"
    revivals.pop()()
    assert stage.states == {"a/1": "READY", "b/1": "UNAVAILABLE"}
    watchdog.look()
    revivals.pop()()
    assert stage.states == {"a/1": "READY", "b/1": "READY"}


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_where_no_thread_can_be_had_it_is_loaded_anew_later(tmp_path: Path, error: Exception) -> None:
    stage = Stage(tmp_path, "a/1").start()
    threads = iter([False, True])

    def start(_name: str, work: Callable[[], None]) -> None:
        if not next(threads):
            raise error
        work()

    watchdog = watched(stage, start=start)
    stage.loader.on_death["a/1"]()
    with pytest.raises(type(error)):
        watchdog.look()
    watchdog.look()
    assert stage.states == {"a/1": "READY"}


def test_falls_of_long_ago_do_not_count(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    clock = FakeClock()
    watchdog = watched(stage, clock=clock)
    for _ in range(10):
        stage.loader.on_death["a/1"]()
        watchdog.look()
        assert stage.states == {"a/1": "READY"}
        clock.advance(1300.0)  # no more than three within an hour


def test_it_is_down_until_it_is_loaded_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    seen: list[dict[str, str]] = []
    stage.loader.during = lambda _place: seen.append(stage.states)
    stage.loader.batchers["a/1"].wedged = True
    watched(stage).look()
    assert seen == [{"a/1": "LOADING"}]
    assert stage.states == {"a/1": "READY"}


def test_without_a_limit_nothing_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, "a/1").start()
    servable = stage.lifecycle.find("a")
    monkeypatch.setattr(servable.batcher, "is_wedged", lambda _limit: True)
    watched(stage, run_timeout_seconds=0).look()
    assert stage.lifecycle.find("a") is servable
    watched(stage, run_timeout_seconds=5).look()
    assert stage.lifecycle.find("a") is not servable


def test_after_the_process_stood_still_batches_are_given_their_time_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    clock = FakeClock()
    watchdog, batcher = watched(stage, 5.0, clock), stage.loader.batchers["a/1"]
    clock.advance(30.0)
    batcher.wedged = True  # it began before the pause
    watchdog.look(late_seconds=29.0)
    for _ in range(4):
        clock.advance(1.0)
        watchdog.look()
    assert not batcher.abandoned
    clock.advance(1.0)
    watchdog.look()
    assert batcher.abandoned, "it does hang"


@pytest.mark.parametrize(("late_seconds", "judges"), [(1.0, True), (2.5, True), (2.6, False)])
def test_a_look_that_is_late_by_no_more_than_half_the_limit_finds_what_hangs(
    tmp_path: Path, late_seconds: float, judges: bool
) -> None:
    stage = Stage(tmp_path, "a/1").start()
    batcher = stage.loader.batchers["a/1"]
    batcher.wedged = True
    watched(stage, 5.0).look(late_seconds=late_seconds)
    assert batcher.abandoned == judges


def test_a_look_is_told_how_late_it_is_which_the_one_before_does_not_count_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    watchdog = watched(Stage(tmp_path, "a/1").start(), clock=clock)
    waits = iter([1.0, 30.0, 1.0])  # the process stood still
    told: list[float] = []

    def wait(seconds: float) -> bool:
        assert seconds == 1.0
        took = next(waits, None)
        clock.advance(took or 0.0)
        return took is None

    def look(late_seconds: float) -> None:
        told.append(late_seconds)
        clock.advance(5.0)

    monkeypatch.setattr(watchdog._stop, "wait", wait)
    monkeypatch.setattr(watchdog, "look", look)
    watchdog._watch()
    assert told == [0.0, 29.0, 0.0]


def test_what_falls_again_and_again_stays_down_until_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1").start()
    watchdog = watched(stage, clock=FakeClock(1e6))
    for _ in range(3):
        stage.loader.on_death["a/1"]()
        watchdog.look()
        assert stage.states == {"a/1": "READY"}
    stage.loader.on_death["a/1"]()
    watchdog.look()
    watchdog.look()
    told = [fields_of(record) for record in caplog.records if record.name == "service.repository.watchdog"]
    assert [fields["times"] for fields in told] == [1, 2, 3, 4]
    assert stage.states == {"a/1": "UNAVAILABLE"}
    stage.change("a/1")
    stage.reconciler.poll()
    assert stage.states == {"a/1": "READY"}
    for _ in range(3):
        stage.loader.on_death["a/1"]()
        watchdog.look()
        assert stage.states == {"a/1": "READY"}
    stage.loader.on_death["a/1"]()
    watchdog.look()
    assert stage.states == {"a/1": "UNAVAILABLE"}, "as often as at first"


def test_one_that_cannot_be_brought_back_now_keeps_no_other_down_and_is_tried_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    watchdog = watched(stage)
    settings = tmp_path / "a" / "serving.toml"
    settings.write_text("instances =")
    stage.loader.on_death["a/1"]()
    stage.loader.on_death["b/1"]()
    watchdog.look()
    assert stage.states == {"a/1": "UNAVAILABLE", "b/1": "READY"}
    settings.unlink()
    watchdog.look()
    assert stage.states == {"a/1": "READY", "b/1": "READY"}


@pytest.mark.parametrize("silent", [False, True])
def test_a_revival_that_dies_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()

    def start(_name: str, work: Callable[[], None]) -> None:
        with contextlib.suppress(SystemExit):  # as a thread does
            work()

    watchdog = watched(stage, start=start)

    def die(*_: object) -> None:
        raise SystemExit

    stage.loader.on_death["a/1"]()
    stage.loader.on_death["b/1"]()
    with monkeypatch.context() as shortage:
        shortage.setattr(stage.reconciler, "revive", die)
        if silent:
            shortage.setattr(watchdog, "_tell", die)
        watchdog.look()
    watchdog.look()
    assert stage.states == {"a/1": "READY", "b/1": "READY"}


@pytest.mark.parametrize("mode", ["none", "poll"])
@pytest.mark.parametrize("away", ["models/a", "models"])
def test_one_whose_folder_is_away_for_a_moment_comes_back(
    tmp_path: Path, mode: str, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path / "models", "a/1", "b/1", model_control_mode=mode).start()
    watchdog = watched(stage)
    for _ in range(2):
        (tmp_path / away).rename(tmp_path / "away")
        stage.loader.on_death["a/1"]()
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                watchdog.look()
        assert stage.states == {"a/1": "UNAVAILABLE", "b/1": "READY"}
        told = [fields_of(record) for record in caplog.records]
        assert told == [{"model": "a", "version": 1}], "each time, but not at every look"
        (tmp_path / "away").rename(tmp_path / away)
        watchdog.look()
        assert stage.states == {"a/1": "READY", "b/1": "READY"}


def test_a_look_that_fails_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = watched(Stage(tmp_path, "a/1").start())
    looks: list[str] = []

    def look(_late_seconds: float) -> None:
        looks.append("")
        if len(looks) == 1:
            raise OSError("the disk is away")
        watchdog.stop()

    monkeypatch.setattr(watchdog, "look", look)
    monkeypatch.setattr("service.repository.watchdog._LOOK_EVERY_SECONDS", 0.0)
    watchdog.start()
    watchdog._thread.join(GUARD_SECONDS)
    assert not watchdog._thread.is_alive()
    assert len(looks) == 2
    assert "the next check comes as scheduled" in caplog.text


def test_a_version_that_is_gone_or_fails_stays_down(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    stage.loader.failures["a/1"] = ManifestInvalid("no")
    stage.remove("b")
    stage.loader.on_death["a/1"]()
    stage.loader.on_death["b/1"]()
    watched(stage).look()
    assert stage.states == {"a/1": "UNAVAILABLE", "b/1": "UNAVAILABLE"}
    assert [status.reason for status in stage.lifecycle.statuses()] == ["no", "an instance's thread died"]
