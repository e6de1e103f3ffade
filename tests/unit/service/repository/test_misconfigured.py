"""A model whose serving.toml is not valid: it is told and held back, and the others are served."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.errors import LoadFailed, ModelNotReady, SettingsError
from service.repository.lifecycle import MISCONFIGURED
from tests.unit.service.repository.test_lifecycle import FakeLoader, refusal, repository
from tests.unit.service.repository.test_reconciler import Stage, change_failed, shows

WRONG = ["nonsense", "instance = 3\n", 'instances = "3"\n', "instances = 257\n", 'versions = "newest"\n']


def misconfigure(root: Path, content: str = "nonsense") -> Path:
    path = root / "a" / "serving.toml"
    path.write_text(content)
    return path


def reasons(stage: Stage) -> dict[str, str]:
    """Return what RepositoryIndex says of each version."""
    return {
        f"{status.name}/{status.version}": status.state if status.state == "READY" else status.hint
        for status in stage.reconciler.index()
    }


@pytest.mark.parametrize("content", WRONG)
@pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
def test_at_the_start_it_is_as_one_that_fails_to_load(
    tmp_path: Path, mode: str, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "b/1", model_control_mode=mode, load_models="*" if mode == "explicit" else "")
    path = misconfigure(tmp_path, content)
    with caplog.at_level(logging.ERROR):
        stage.start()
    assert reasons(stage) == {"a/1": MISCONFIGURED, "a/2": MISCONFIGURED, "b/1": "READY"}
    assert not stage.lifecycle.is_ready
    assert change_failed(stage, "a")
    assert not change_failed(stage, "b")
    assert shows(stage, "UNAVAILABLE", "a/2")
    (told,) = caplog.records
    assert f"{path}: " in told.getMessage()
    error = refusal(stage.lifecycle, "a")
    assert isinstance(error, ModelNotReady)
    assert error.message == f"model 'a' version 2 is UNAVAILABLE: {MISCONFIGURED}"


def test_once_it_is_mended_the_next_look_serves_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "b/1", model_control_mode="poll")
    misconfigure(tmp_path)
    with caplog.at_level(logging.ERROR):
        stage.start()
        for _ in range(3):
            stage.reconciler.poll()
    assert len(caplog.records) == 1, "not at every look"
    misconfigure(tmp_path, "instances = 3\n")
    stage.reconciler.poll()
    assert reasons(stage) == {"a/1": "it is not loaded", "a/2": "READY", "b/1": "READY"}
    assert stage.loader.settings["a/2"].instances == 3
    assert stage.lifecycle.is_ready
    assert not change_failed(stage, "a")
    assert not shows(stage, "UNAVAILABLE", "a/1")


def test_another_fault_replaces_the_reason_of_the_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="poll")
    misconfigure(tmp_path, "instances = 257")
    stage.start()
    misconfigure(tmp_path, "tf32 = 0")
    stage.reconciler.poll()
    assert stage.lifecycle.newest_status("a").reason.endswith("a/serving.toml: tf32: expected bool, got 0")


def test_once_it_is_mended_a_call_loads_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="explicit", load_models="a,b")
    path = misconfigure(tmp_path)
    stage.start()
    with pytest.raises(LoadFailed, match=rf"^model 'a': {MISCONFIGURED}$"):
        stage.reconciler.load_model("a")
    path.unlink()
    stage.reconciler.load_model("a")
    assert stage.states == {"a/1": "READY", "b/1": "READY"}
    assert stage.lifecycle.is_ready


def test_one_that_comes_later_is_held_back_with_the_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "b/1", model_control_mode="poll").start()
    stage.add("a/1")
    misconfigure(tmp_path)
    stage.reconciler.poll()
    assert reasons(stage) == {"a/1": MISCONFIGURED, "b/1": "READY"}
    assert isinstance(refusal(stage.lifecycle, "a"), ModelNotReady)
    assert stage.lifecycle.is_ready, "as with one that comes and fails to load"
    stage.remove("a")
    stage.reconciler.poll()
    assert stage.states == {"b/1": "READY"}


def test_one_that_a_call_cannot_load_is_held_back_with_the_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="explicit", load_models="b").start()
    assert reasons(stage)["a/1"] == "it is not loaded"
    path = misconfigure(tmp_path)
    with pytest.raises(LoadFailed):
        stage.reconciler.load_model("a")
    assert reasons(stage) == {"a/1": MISCONFIGURED, "b/1": "READY"}
    assert stage.lifecycle.is_ready
    path.unlink()
    stage.reconciler.load_model("a")
    assert stage.serving("a") == [1]


def test_where_a_version_serves_the_others_stay_as_they_are(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", model_control_mode="poll").start()
    before = stage.states
    misconfigure(tmp_path)
    stage.reconciler.poll()
    assert stage.states == before
    assert not shows(stage, "UNAVAILABLE", "a/1"), "it was left out on purpose"
    assert stage.lifecycle.is_ready
    assert change_failed(stage, "a")


def test_a_version_that_failed_before_keeps_its_own_reason(tmp_path: Path) -> None:
    loader = FakeLoader()
    stage = Stage(tmp_path, "a/1", "b/1", loader=loader, model_control_mode="poll").start()
    loader.on_death["a/1"]()
    misconfigure(tmp_path)
    stage.reconciler.poll()
    assert reasons(stage)["a/1"] == "it stopped working"


def test_where_nothing_else_is_to_be_served_the_start_says_so(tmp_path: Path) -> None:
    repository(tmp_path, "a/1")
    path = misconfigure(tmp_path, "instance = 3\n")
    with pytest.raises(SettingsError, match=rf"has nothing to serve: {path}: unknown key 'instance'; known: ver"):
        Stage(tmp_path).start()
