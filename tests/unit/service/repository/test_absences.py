"""A look into the gap while something is being replaced changes nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.errors import ManifestInvalid
from tests.unit.service.repository.test_reconciler import Stage, change_failed


@pytest.mark.parametrize("missing", ["a", "a/1"])
def test_a_model_that_is_being_replaced_serves_all_the_time(
    tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    old, batcher = stage.lifecycle.find("a"), stage.loader.batchers["a/1"]
    aside = tmp_path / ".aside"
    for _ in range(3):  # each gap is one of its own
        (tmp_path / missing).rename(aside)
        with caplog.at_level(logging.INFO):
            stage.reconciler.poll()
        assert stage.lifecycle.find("a") is old
        assert batcher.closed_with == []
        assert {(s.name, s.version): s.state for s in stage.reconciler.index()} == {
            ("a", 1): "READY",
            ("b", 1): "READY",
        }
        assert not change_failed(stage)
        aside.rename(tmp_path / missing)
        stage.reconciler.poll()
        assert stage.lifecycle.find("a") is old, "nothing has changed"
    told = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [{"model": "a", "places": ["a", "a/1"]}] * 3, "a model without versions is none"


def test_the_newest_version_that_is_being_replaced_is_not_rolled_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2").start()
    loaded: list[str] = []
    stage.loader.during = loaded.append
    (tmp_path / "a" / "2").rename(tmp_path / ".2")
    stage.reconciler.poll()
    assert (stage.serving("a"), loaded) == ([2], [])
    stage.reconciler.poll()
    assert (stage.serving("a"), loaded) == ([1], ["a/1"]), "this is a rollback"


def test_what_goes_while_something_else_is_gone_has_a_look_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "a/3", versions="all").start()
    stage.remove("a/1")
    stage.reconciler.poll()
    stage.remove("a/2")
    stage.reconciler.poll()
    assert stage.serving("a") == [3, 2, 1]
    stage.reconciler.poll()
    assert stage.serving("a") == [3]


@pytest.mark.parametrize("how", ["unlinked", "emptied"])
def test_a_serving_toml_that_is_being_replaced_is_not_taken_for_none(tmp_path: Path, how: str) -> None:
    stage = Stage(tmp_path, "a/1", "a/2")
    settings = tmp_path / "a" / "serving.toml"
    settings.write_text('versions = "1"\n')
    stage.start()
    for _ in range(2):
        stage.reconciler.poll()
        if how == "unlinked":
            settings.unlink()
        else:
            settings.write_text("")
        stage.reconciler.poll()
        assert stage.serving("a") == [1], "the pin holds"
        settings.write_text('versions = "1"\n')
    settings.write_text("")
    stage.poll_twice()
    assert stage.serving("a") == [2]
    stage.remove("a/1")
    stage.add("a/3")
    stage.reconciler.poll()
    assert stage.serving("a") == [3], "a serving.toml that is gone is missed no more"


def test_a_call_unloads_a_version_that_is_gone_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", model_control_mode="explicit", load_models="a").start()
    stage.remove("a/2")
    stage.reconciler.load_model("a")
    assert stage.serving("a") == [1]


def test_a_model_that_serves_a_version_long_gone_is_itself_missed_only_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    stage.loader.failures["a/2"] = ManifestInvalid("no")
    stage.remove("a/1")
    stage.add("a/2")
    stage.poll_twice()
    assert stage.serving("a") == [1], "since the new one fails"
    (tmp_path / "a").rename(tmp_path / ".a")
    stage.reconciler.poll()
    assert stage.serving("a") == [1]
    stage.reconciler.poll()
    assert stage.serving("a") == []
