"""Following the repository: new versions are swapped in, failures keep the old ones, lost disks change nothing."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.errors import (
    GoldenMismatch,
    LoadFailed,
    ManifestInvalid,
    ModelNotFound,
    ModelNotReady,
    OutOfMemory,
    ProviderUnavailable,
    SettingsError,
)
from service.metrics import Metrics
from service.repository.attempt import Attempts
from service.repository.lifecycle import Lifecycle
from service.repository.reconciler import Reconciler
from service.repository.servable import Servable
from service.settings import Settings
from tests.unit.service.repository.test_lifecycle import FakeLoader, refusal, repository, states

NO_THREAD = RuntimeError("can't start new thread")


class Stage:
    """A repository on disk, its lifecycle, and the reconciler between them."""

    def __init__(
        self,
        root: Path,
        *places: str,
        loader: FakeLoader | None = None,
        attempts: Attempts | None = None,
        **settings: Any,
    ) -> None:
        self.root = root
        self.loader = loader or FakeLoader()
        self.metrics = Metrics("0", "test")
        self.lifecycle = Lifecycle(self.metrics)
        self.add(*places)
        self.reconciler = Reconciler(
            Settings(models=str(root), **settings), self.metrics, self.lifecycle, self.loader, attempts
        )

    def add(self, *places: str) -> None:
        repository(self.root, *places)

    def change(self, place: str) -> None:
        """Change a version's file as a person would who copies another over it."""
        file = self.root / place / "model.onnx"
        file.write_bytes(file.read_bytes() + b"x")

    def remove(self, place: str) -> None:
        shutil.rmtree(self.root / place)

    def start(self) -> Stage:
        self.reconciler.load_all()
        return self

    def poll_twice(self) -> None:
        """Look until what is missing counts as gone."""
        for _ in range(2):
            self.reconciler.poll()

    @property
    def states(self) -> dict[str, str]:
        return states(self.lifecycle)

    def serving(self, name: str) -> list[int]:
        return [servable.version for servable in self.lifecycle.servables(name)]


def test_a_new_version_is_swapped_in_before_the_old_one_goes(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    old = stage.lifecycle.find("a")
    stage.add("a/2")
    seen: list[list[int]] = []
    stage.loader.during = lambda _place: seen.append(stage.serving("a"))
    stage.reconciler.poll()
    assert seen == [[1]], "the old version serves while the new one loads"
    assert stage.serving("a") == [2]
    assert stage.states == {"a/1": "UNAVAILABLE", "a/2": "READY"}
    assert stage.loader.batchers["a/1"].closed_with == [30.0], "the old one is drained"
    assert not stage.loader.batchers["a/1"].abandoned
    assert old.version == 1
    assert stage.lifecycle.is_ready


def test_a_version_that_fails_keeps_the_old_one_serving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(tmp_path, "a/1", loader=FakeLoader(**{"a/2": GoldenMismatch("differs by 0.3")})).start()
    stage.add("a/2")
    with caplog.at_level(logging.ERROR):
        stage.reconciler.poll()
    assert stage.serving("a") == [1]
    assert stage.lifecycle.is_ready, "a failed newcomer does not take the server down"
    assert [status.reason for status in stage.lifecycle.statuses()] == ["", "differs by 0.3"]
    assert "differs by 0.3" in caplog.text
    assert stage.metrics.registry.get_sample_value(
        "convserve_model_state", {"model": "a", "version": "2", "state": "UNAVAILABLE"}
    )


def test_a_failed_version_is_tried_again_only_when_it_changed(tmp_path: Path) -> None:
    tried: list[str] = []
    stage = Stage(tmp_path, "a/1", loader=FakeLoader(**{"a/1": ManifestInvalid("no")})).start()
    stage.loader.during = tried.append
    stage.reconciler.poll()
    assert tried == []
    stage.change("a/1")
    stage.loader.failures.clear()
    stage.reconciler.poll()
    assert tried == ["a/1"]
    assert stage.states == {"a/1": "READY"}


@pytest.mark.parametrize(
    "lacking", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), NO_THREAD], ids=["file", "thread"]
)
@pytest.mark.parametrize("named", [True, False])
def test_a_version_for_which_there_was_no_file_or_thread_is_tried_again_at_the_next_look(
    tmp_path: Path, lacking: Exception, named: bool
) -> None:
    """Nothing about it was wrong, so nothing about it will change."""
    stage = Stage(tmp_path, "a/1", "b/1").start()
    shortage = ManifestInvalid("not readable") if named else lacking
    if named:
        shortage.__context__ = lacking
    stage.loader.failures |= {"a/2": shortage, "b/1": shortage}
    stage.add("a/2")
    stage.change("b/1")
    old = stage.lifecycle.find("b")
    stage.reconciler.poll()
    assert (stage.serving("a"), stage.lifecycle.find("b")) == ([1], old)
    assert change_failed(stage, "a")
    assert change_failed(stage, "b")
    stage.loader.failures.clear()
    stage.reconciler.poll()
    assert stage.serving("a") == [2]
    assert stage.lifecycle.find("b") is not old
    assert not change_failed(stage, "a")
    assert not change_failed(stage, "b")


def test_a_changed_version_is_replaced_under_its_number(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    old, old_batcher = stage.lifecycle.find("a"), stage.loader.batchers["a/1"]
    stage.change("a/1")
    stage.reconciler.poll()
    assert stage.lifecycle.find("a") is not old
    assert old_batcher.closed_with == [30.0]
    assert stage.states == {"a/1": "READY"}


def test_a_changed_version_that_fails_leaves_the_old_one_in_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1").start()
    old = stage.lifecycle.find("a")
    stage.change("a/1")
    stage.loader.failures["a/1"] = ManifestInvalid("half copied")
    stage.reconciler.poll()
    assert "the old one continues to serve: half copied" in caplog.text
    assert stage.lifecycle.find("a") is old
    assert stage.loader.batchers["a/1"].closed_with == []
    stage.loader.failures.clear()
    stage.change("a/1")
    stage.reconciler.poll()
    assert stage.lifecycle.find("a") is not old


def test_a_changed_serving_toml_is_followed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2").start()
    (tmp_path / "a" / "serving.toml").write_text('versions = "all"\ninstances = 3\n')
    stage.reconciler.poll()
    assert stage.serving("a") == [2, 1]
    assert stage.loader.settings["a/2"].instances == 3


def test_a_removed_model_is_unloaded_and_forgotten(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    stage.remove("a")
    stage.poll_twice()
    assert stage.states == {"b/1": "READY"}
    assert isinstance(refusal(stage.lifecycle, "a"), ModelNotFound)
    assert stage.lifecycle.is_ready
    assert not stage.lifecycle.knows("a")
    assert 'model="a"' not in stage.metrics.negotiate("")[0].decode()


def lock(model: Path, how: str) -> Path:
    """Make a model's folder unreadable, also for root; return where it is meanwhile."""
    hidden = model.with_name(f".{model.name}")
    model.rename(hidden)
    model.symlink_to(model if how == "a loop" else model.with_name("nowhere"))
    return hidden


def unlock(model: Path) -> None:
    model.unlink()
    model.with_name(f".{model.name}").rename(model)


@pytest.mark.parametrize("how", ["a loop", "a link to nowhere"])
def test_a_model_that_cannot_be_read_goes_on_and_so_do_the_others(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "b/1", versions="2", model_control_mode="poll")
    (tmp_path / "b" / "serving.toml").write_text('versions = "latest:1"\n')
    stage.start()
    old = stage.lifecycle.find("a")
    lock(tmp_path / "a", how)
    stage.add("b/2")
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            stage.reconciler.poll()
    assert stage.serving("b") == [2]
    assert stage.lifecycle.find("a") is old
    assert stage.lifecycle.is_ready
    assert [record.fields["model"] for record in caplog.records] == ["a"], "told once"  # type: ignore[attr-defined]
    assert change_failed(stage, "a")
    assert not change_failed(stage, "b")
    index = {(status.name, status.version): status.state for status in stage.reconciler.index()}
    assert index == {("a", 1): "UNAVAILABLE", ("a", 2): "READY", ("b", 1): "UNAVAILABLE", ("b", 2): "READY"}
    unlock(tmp_path / "a")
    stage.reconciler.poll()
    assert not change_failed(stage, "a")
    assert stage.lifecycle.find("a") is old, "nothing has changed"


def test_a_model_that_cannot_be_read_at_the_start_is_as_one_that_fails_to_load(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1")
    lock(tmp_path / "a", "a loop")
    stage.start()
    for _ in range(2):
        assert stage.serving("b") == [1]
        assert not stage.lifecycle.is_ready
        assert change_failed(stage, "a")
        assert refusal(stage.lifecycle, "a").message == "model 'a' version 0 is UNAVAILABLE: its folder cannot be read"
        first = stage.reconciler.index()[0]
        assert (first.name, first.version, first.hint) == ("a", 0, "its folder cannot be read")
        stage.reconciler.poll()
    unlock(tmp_path / "a")
    stage.reconciler.poll()
    assert stage.states == {"a/1": "READY", "b/1": "READY"}
    assert stage.lifecycle.is_ready
    assert not change_failed(stage, "a")


def test_a_start_where_no_model_can_be_read_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1")
    lock(tmp_path / "a", "a loop")
    with pytest.raises(SettingsError, match=r"has nothing to serve: .*/a: Too many levels of symbolic links$"):
        stage.start()


@pytest.mark.parametrize("models", [1, 5])
def test_a_look_goes_through_all_versions_once_however_many_models_there_are(
    models: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, *(f"m{number}/1" for number in range(models))).start()
    statuses, asked = stage.lifecycle.statuses, []
    monkeypatch.setattr(stage.lifecycle, "statuses", lambda: asked.append(1) or statuses())
    stage.reconciler.poll()
    assert len(asked) == 1


def test_a_lost_repository_is_told_once_and_so_is_its_return(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, aside = tmp_path / "models", tmp_path / "aside"
    stage = Stage(root, "a/1").start()

    def told() -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                stage.reconciler.poll()
        return [record.message for record in caplog.records]

    assert told() == []
    root.rename(aside)
    (gone,) = told()
    assert gone.startswith("the model repository cannot be read: ")
    root.mkdir()
    assert told() == [empty := "the model repository is empty; serving goes on"]
    assert f"`{empty}`" in Path("docs/operations.md").read_text()
    root.rmdir()
    assert told() == [gone], "it is another state again"
    aside.rename(root)
    assert told() == ["the model repository is followed again"]
    assert stage.serving("a") == [1]


def test_a_new_model_that_cannot_be_read_is_told_and_served_once_it_can(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "b/1").start()
    stage.add("a/1")
    lock(tmp_path / "a", "a loop")
    stage.reconciler.poll()
    assert stage.lifecycle.is_ready
    assert change_failed(stage, "a")
    assert [(status.name, status.version, status.state) for status in stage.reconciler.index()] == [
        ("a", 0, "UNAVAILABLE"),
        ("b", 1, "READY"),
    ]
    unlock(tmp_path / "a")
    stage.reconciler.poll()
    assert stage.serving("a") == [1]


def test_a_version_that_leads_nowhere_fails_alone_and_comes_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "b/1").start()
    stage.loader.failures["a/2"] = FileNotFoundError()
    lock(tmp_path / "a" / "2", "a link to nowhere")
    for _ in range(3):
        stage.reconciler.poll()
    assert stage.serving("a") == [2], "as it was"
    assert change_failed(stage, "a")
    assert not change_failed(stage, "b")
    stage.loader.failures.clear()
    unlock(tmp_path / "a" / "2")
    stage.reconciler.poll()
    assert stage.serving("a") == [2]
    assert not change_failed(stage, "a")


@pytest.mark.parametrize("how", ["a loop", "a link to nowhere", "a folder"])
def test_a_serving_toml_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path, how: str) -> None:
    stage = Stage(tmp_path, "a/1", "a/2")
    settings = tmp_path / "a" / "serving.toml"
    settings.write_text('versions = "1"\n')
    stage.start()
    if how == "a folder":  # as a container engine makes one where it finds nothing to mount
        settings.unlink()
        settings.mkdir()
    else:
        lock(settings, how)
    stage.reconciler.poll()
    assert stage.serving("a") == [1]
    assert change_failed(stage, "a")


def test_a_model_whose_failed_version_is_replaced_by_one_that_fails_keeps_the_server_from_being_ready(
    tmp_path: Path,
) -> None:
    loader = FakeLoader(**{"a/1": ManifestInvalid("no"), "a/2": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "b/1", loader=loader).start()
    assert not stage.lifecycle.is_ready
    stage.remove("a/1")
    stage.add("a/2")
    stage.reconciler.poll()
    assert stage.states == {"a/2": "UNAVAILABLE", "b/1": "READY"}
    assert not stage.lifecycle.is_ready


@pytest.mark.parametrize("lost", ["emptied", "gone", "a file"])
def test_a_lost_repository_changes_nothing(tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "models"
    root.mkdir()
    stage = Stage(root, "a/1").start()
    shutil.rmtree(root)
    if lost == "emptied":
        root.mkdir()
    elif lost == "a file":
        root.touch()
    stage.reconciler.poll()
    assert stage.serving("a") == [1]
    assert stage.lifecycle.is_ready
    assert "serving goes on" in caplog.text


def test_the_series_of_a_removed_model_do_not_come_back_with_its_last_calls(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    leaving = stage.lifecycle.find("a")
    leaving.metrics.cancelled("running")
    assert 'model="a"' in stage.metrics.negotiate("")[0].decode()
    stage.remove("a")
    stage.poll_twice()
    leaving.metrics.cancelled("running")
    assert 'model="a"' not in stage.metrics.negotiate("")[0].decode()


@pytest.mark.parametrize("falls", ["hangs", "dies"])
def test_the_series_of_a_model_that_fell_and_was_removed_do_not_come_back_with_its_last_calls(
    tmp_path: Path, falls: str
) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    fallen = stage.lifecycle.find("a")
    if falls == "hangs":
        stage.reconciler.give_up(fallen)
    else:
        stage.loader.on_death["a/1"]()
    stage.remove("a")
    stage.reconciler.poll()
    fallen.metrics.cancelled("running")
    assert 'model="a"' not in stage.metrics.negotiate("")[0].decode()


def test_a_version_that_is_gone_when_another_replaces_it_is_forgotten(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.add("a/2")
    stage.remove("a/1")
    stage.poll_twice()
    assert stage.states == {"a/2": "READY"}


def test_a_version_that_failed_and_is_gone_is_forgotten_and_those_of_other_models_are_not(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/2": ManifestInvalid("no"), "b/3": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "a/2", "b/3", loader=loader).start()
    stage.remove("a/2")
    tried: list[str] = []
    loader.during = tried.append
    stage.reconciler.poll()
    assert stage.states == {"a/1": "READY", "b/3": "UNAVAILABLE"}
    assert tried == []


def test_a_provider_that_is_missing_later_fails_the_new_version_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", loader=FakeLoader(**{"a/2": ProviderUnavailable("no CUDA")})).start()
    stage.add("a/2")
    stage.reconciler.poll()
    assert stage.states == {"a/1": "READY", "a/2": "UNAVAILABLE"}
    assert [(status.reason, status.hint) for status in stage.lifecycle.statuses()][1] == ("no CUDA", "loading failed")


def test_a_new_model_is_served_and_required_once_it_was_ready(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", loader=FakeLoader(**{"b/1": ManifestInvalid("no")})).start()
    stage.add("b/1")
    stage.reconciler.poll()
    assert stage.lifecycle.is_ready
    assert isinstance(refusal(stage.lifecycle, "b"), ModelNotReady)
    stage.loader.failures.clear()
    stage.change("b/1")
    stage.reconciler.poll()
    assert stage.serving("b") == [1]
    stage.loader.on_death["b/1"]()
    assert not stage.lifecycle.is_ready


def shows(stage: Stage, state: str, place: str) -> bool:
    """Tell whether the metrics show a version in a state."""
    model, version = place.split("/")
    labels = {"model": model, "version": version, "state": state}
    return stage.metrics.registry.get_sample_value("convserve_model_state", labels) == 1


def change_failed(stage: Stage, model: str = "a") -> bool:
    return stage.metrics.registry.get_sample_value("convserve_model_change_failed", {"model": model}) == 1


def test_an_upgrade_leaves_nothing_that_looks_like_a_failure(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.add("a/2")
    stage.reconciler.poll()
    assert shows(stage, "READY", "a/2")
    assert not shows(stage, "UNAVAILABLE", "a/1")
    assert not change_failed(stage)


def test_a_version_pinned_that_does_not_exist_changes_nothing_and_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1").start()
    (tmp_path / "a" / "serving.toml").write_text('versions = "7"\n')
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            stage.reconciler.poll()
    assert stage.serving("a") == [1]
    assert stage.lifecycle.is_ready
    assert change_failed(stage)
    assert caplog.text.count("has no version 7 on disk, which its setting 'versions' names") == 1, "not at every look"
    (tmp_path / "a" / "serving.toml").unlink()
    stage.poll_twice()
    assert not change_failed(stage)


def test_a_pin_of_which_a_part_is_there_serves_that_and_shows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(tmp_path, "a/1", "a/3")
    (tmp_path / "a" / "serving.toml").write_text('versions = "1,2,7"\n')
    with caplog.at_level(logging.ERROR):
        stage.start()
        for _ in range(3):
            stage.reconciler.poll()
    assert stage.serving("a") == [1]
    assert stage.lifecycle.is_ready
    assert change_failed(stage)
    assert caplog.text.count("has no version 2, 7 on disk, which its setting 'versions' names") == 1
    told = {status.version: (status.state, status.hint) for status in stage.reconciler.index()}
    assert told[2] == told[7] == ("UNAVAILABLE", "its setting 'versions' names it, but it is not on disk")
    assert (told[1][0], told[3]) == ("READY", ("UNAVAILABLE", "it is not loaded"))
    stage.add("a/2")
    (tmp_path / "a" / "serving.toml").write_text('versions = "1,2"\n')
    stage.reconciler.poll()
    assert stage.serving("a") == [2, 1]
    assert not change_failed(stage)
    assert {status.version for status in stage.reconciler.index()} == {1, 2, 3}


def test_a_pin_to_nothing_at_the_start_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository(tmp_path, "a/1")
    (tmp_path / "a" / "serving.toml").write_text('versions = "7"\n')
    with caplog.at_level(logging.ERROR):
        stage = Stage(tmp_path, "b/1").start()
    assert not stage.lifecycle.is_ready
    assert change_failed(stage)
    assert "has no version 7 on disk" in caplog.text


def test_a_damaged_serving_toml_stops_changes_of_its_model_alone_is_told_once_and_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    (tmp_path / "a" / "serving.toml").write_text("instances =")
    stage.add("a/2", "b/2")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            stage.reconciler.poll()
    assert (stage.serving("a"), stage.serving("b")) == ([1], [2])
    assert change_failed(stage)
    assert not change_failed(stage, "b")
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_a_rollback_by_a_pin_leaves_no_failure_behind(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", loader=FakeLoader(**{"a/2": ManifestInvalid("no")})).start()
    stage.add("a/2")
    stage.reconciler.poll()
    assert shows(stage, "UNAVAILABLE", "a/2")
    assert change_failed(stage)
    (tmp_path / "a" / "serving.toml").write_text('versions = "1"\n')
    stage.reconciler.poll()
    assert stage.serving("a") == [1]
    assert not shows(stage, "UNAVAILABLE", "a/2")
    assert not change_failed(stage)


def test_an_older_version_serves_where_the_newest_fails_at_the_start(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/3": GoldenMismatch("no"), "a/2": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "a/2", "a/3", loader=loader).start()
    assert stage.serving("a") == [1]
    assert stage.lifecycle.is_ready
    assert shows(stage, "UNAVAILABLE", "a/3")
    assert shows(stage, "UNAVAILABLE", "a/2")
    tried: list[str] = []
    loader.during = tried.append
    stage.reconciler.poll()
    assert tried == [], "what failed is not tried at every look"
    assert stage.serving("a") == [1]
    assert shows(stage, "UNAVAILABLE", "a/2"), "what failed to stand in is still said to have failed"
    loader.failures.clear()
    stage.change("a/3")
    stage.reconciler.poll()
    assert stage.serving("a") == [3]


def test_a_version_that_fails_keeps_as_many_serving_as_are_wanted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", versions="latest:2", loader=FakeLoader(**{"a/3": GoldenMismatch("no")}))
    stage.start().add("a/3")
    for _ in range(2):
        stage.reconciler.poll()
        assert stage.serving("a") == [2, 1]
    assert change_failed(stage)
    stage.add("a/4")
    stage.reconciler.poll()
    assert stage.serving("a") == [4, 2], "of those that stand in, the newest"
    stage.loader.failures.clear()
    stage.change("a/3")
    stage.reconciler.poll()
    assert stage.serving("a") == [4, 3]
    assert not change_failed(stage)


def test_a_version_whose_manifest_is_awaited_keeps_as_many_serving_as_are_wanted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", versions="latest:2").start()
    stage.add("a/3")
    (tmp_path / "a" / "3" / "manifest.json").unlink()
    stage.reconciler.poll()
    assert stage.serving("a") == [2, 1]
    stage.reconciler.poll()
    assert stage.serving("a") == [3, 2]


def test_what_was_removed_stands_in_only_where_none_serves(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/3": GoldenMismatch("no")})
    stage = Stage(tmp_path, "a/1", "a/2", versions="latest:2", loader=loader).start()
    stage.add("a/3")
    stage.remove("a/1")
    stage.poll_twice()
    assert stage.serving("a") == [2], "removing a version is the word to let it go"


def test_as_many_as_are_wanted_serve_from_the_start_where_the_newest_fails(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/4": GoldenMismatch("no"), "a/2": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "a/2", "a/3", "a/4", loader=loader, versions="latest:2").start()
    for _ in range(2):
        assert stage.serving("a") == [3, 1]
        assert shows(stage, "UNAVAILABLE", "a/2")
        stage.reconciler.poll()
    stage.loader.on_death["a/1"]()
    stage.reconciler.revive("a", 1)
    assert stage.serving("a") == [3, 1]


def test_a_pin_lets_go_what_it_does_not_name(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "a/3", versions="all", loader=FakeLoader(**{"a/3": GoldenMismatch("no")}))
    stage.start()
    stage.loader.on_death["a/1"]()
    (tmp_path / "a" / "serving.toml").write_text('versions = "2,3"\n')
    stage.reconciler.revive("a", 1)
    assert stage.serving("a") == [2]


def test_what_has_changed_stands_in_only_where_none_serves(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/3": GoldenMismatch("no"), "a/2": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "a/2", "a/3", loader=loader).start()
    del loader.failures["a/2"]
    stage.change("a/2")
    stage.reconciler.poll()
    assert stage.serving("a") == [1]
    stage.loader.on_death["a/1"]()
    stage.reconciler.poll()
    assert stage.serving("a") == [2]


def test_what_failed_to_stand_in_is_not_tried_at_every_look(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/2": GoldenMismatch("no"), "a/1": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "a/2", loader=loader).start()
    tried: list[str] = []
    loader.during = tried.append
    stage.reconciler.poll()
    assert tried == []


def test_what_stands_in_without_a_manifest_looks_the_same_twice_before(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/2", loader=FakeLoader(**{"a/2": GoldenMismatch("no")})).start()
    stage.add("a/1")
    (tmp_path / "a" / "1" / "manifest.json").unlink()
    stage.reconciler.poll()
    assert stage.serving("a") == []
    stage.reconciler.poll()
    assert stage.serving("a") == [1]


def test_what_failed_before_it_was_left_out_is_tried_again_when_it_is_wanted_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", loader=FakeLoader(**{"a/2": ManifestInvalid("no")})).start()
    stage.add("a/2")
    stage.reconciler.poll()
    settings = tmp_path / "a" / "serving.toml"
    settings.write_text('versions = "1"\n')
    stage.reconciler.poll()
    stage.loader.failures.clear()
    settings.unlink()
    stage.poll_twice()
    assert stage.serving("a") == [2]


def test_no_other_version_stands_in_for_one_that_was_named(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/2": ManifestInvalid("no")})
    stage = Stage(tmp_path, "a/1", "a/2", loader=loader, versions="2").start()
    assert stage.serving("a") == []


def test_a_version_whose_manifest_is_still_being_copied_displaces_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.add("a/2")
    (tmp_path / "a" / "2" / "manifest.json").unlink()
    stage.reconciler.poll()
    assert stage.serving("a") == [1]
    stage.change("a/2")
    stage.reconciler.poll()
    assert stage.serving("a") == [1], "it grows"
    stage.reconciler.poll()
    assert stage.serving("a") == [2], "a bare graph, since nothing follows"


def test_a_replaced_version_that_dies_while_it_drains_takes_nothing_with_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    old_dies = stage.loader.on_death["a/1"]
    stage.change("a/1")
    stage.reconciler.poll()
    old_dies()
    assert stage.states == {"a/1": "READY"}
    assert stage.reconciler.fallen() == []


def test_a_batch_that_hangs_while_its_version_leaves_is_given_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    batcher = stage.loader.batchers["a/1"]
    batcher.running = 1
    stage.add("a/2")
    stage.reconciler.poll()
    assert batcher.abandoned
    assert stage.reconciler.runs_on
    batcher.running = 0
    assert not stage.reconciler.runs_on


@pytest.mark.parametrize("without", ["12", "2"])
def test_a_new_model_without_manifests_is_loaded_at_its_newest_alone(tmp_path: Path, without: str) -> None:
    stage = Stage(tmp_path, "b/1").start()
    stage.add("a/1", "a/2")
    for version in without:
        (tmp_path / "a" / version / "manifest.json").unlink()
    loaded: list[str] = []
    stage.loader.during = loaded.append
    for _ in range(3):
        stage.reconciler.poll()
    assert loaded == ["a/2"], "no older one stands in for one that is only waited for"


def test_a_model_that_could_not_be_served_and_is_gone_is_no_shortfall(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.add("b/1")
    (tmp_path / "b" / "serving.toml").write_text("instances =")
    stage.reconciler.poll()
    assert change_failed(stage, "b")
    stage.remove("b")
    stage.reconciler.poll()
    assert not change_failed(stage, "b")


@pytest.mark.parametrize("mode", ["none", "explicit"])
def test_the_index_forgets_what_was_never_served_and_is_gone(tmp_path: Path, mode: str) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "b/1", model_control_mode=mode).start()
    stage.remove("a/1")
    assert [(status.name, status.version) for status in stage.reconciler.index()] == [("a", 2), ("b", 1)]


def test_the_index_shows_what_is_on_disk_and_what_is_known(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1", loader=FakeLoader(**{"b/1": ManifestInvalid("no")})).start()
    stage.add("a/2", "c/1")
    stage.remove("a/1")
    stage.remove("b/1")
    assert [(s.name, s.version, s.state, s.reason, s.hint) for s in stage.reconciler.index()] == [
        ("a", 1, "READY", "", "try again"),
        ("a", 2, "UNAVAILABLE", "unloaded", "it is not loaded"),
        ("b", 1, "UNAVAILABLE", "no", "its manifest, labels or golden answers are not valid"),
        ("c", 1, "UNAVAILABLE", "unloaded", "it is not loaded"),
    ]


def test_what_was_forgotten_is_not_revived(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.reconciler.revive("a", 2)
    stage.reconciler.revive("b", 1)
    assert stage.states == {"a/1": "READY"}


def test_a_start_names_what_is_wrong_before_anything_is_loaded(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", load_models="a,b", model_control_mode="explicit")
    with pytest.raises(SettingsError, match="has no model 'b'"):
        stage.reconciler.announce()
    assert stage.states == {}


def test_what_will_be_loaded_is_known_before_anybody_calls(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2")
    stage.reconciler.announce()
    assert stage.states == {"a/1": "UNAVAILABLE", "a/2": "LOADING"}
    with pytest.raises(ModelNotReady, match="version 2 is LOADING: try again"):
        stage.lifecycle.find("a")
    with pytest.raises(ModelNotFound):
        stage.lifecycle.find("b")
    assert not stage.lifecycle.is_ready
    assert stage.start().states == {"a/1": "UNAVAILABLE", "a/2": "READY"}


def test_why_a_pinned_version_does_not_serve_is_told_although_there_is_a_newer_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", loader=FakeLoader(**{"a/1": ManifestInvalid("no")}), versions="1").start()
    assert refusal(stage.lifecycle, "a").message.startswith("model 'a' version 1 is UNAVAILABLE: its manifest")
    stage.change("a/1")
    stage.loader.failures.clear()
    seen: list[str] = []
    stage.loader.during = lambda _: seen.append(refusal(stage.lifecycle, "a").message)
    stage.reconciler.poll()
    assert seen == ["model 'a' version 1 is LOADING: try again"]


def test_a_revival_keeps_to_the_pin_of_the_day(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", versions="all").start()
    stage.loader.on_death["a/2"]()
    (tmp_path / "a" / "serving.toml").write_text('versions = "1"\n')
    stage.reconciler.revive("a", 2)
    assert stage.serving("a") == [1]
    assert not shows(stage, "UNAVAILABLE", "a/2")


def test_one_of_several_that_are_wanted_is_revived_beside_the_others(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", versions="all").start()
    stage.loader.on_death["a/2"]()
    stage.reconciler.revive("a", 2)
    assert stage.serving("a") == [2, 1]


def test_one_that_stood_in_is_revived_where_none_serves(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", loader=FakeLoader(**{"a/2": ManifestInvalid("no")})).start()
    stage.loader.on_death["a/1"]()
    stage.reconciler.revive("a", 1)
    assert stage.serving("a") == [1]


def test_a_revival_says_that_a_version_is_away(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    stage.loader.on_death["a/1"]()
    stage.remove("a")
    with pytest.raises(LoadFailed, match="model 'a' version 1 is not in the repository"):
        stage.reconciler.revive("a", 1)


def test_a_revival_that_fails_shows_and_one_that_succeeds_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.loader.failures["a/1"] = ManifestInvalid("no")
    stage.loader.on_death["a/1"]()
    stage.reconciler.revive("a", 1)
    assert change_failed(stage)
    stage.loader.failures.clear()
    stage.reconciler.revive("a", 1)
    assert not change_failed(stage)


def test_golden_answers_of_what_serves_stay_passed_when_a_change_fails(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1").start()
    stage.metrics.golden_passed.labels("a", "1").set(1)
    stage.loader.failures["a/1"] = GoldenMismatch("differs")
    stage.change("a/1")
    stage.reconciler.poll()
    labels = {"model": "a", "version": "1"}
    assert stage.metrics.registry.get_sample_value("convserve_golden_check_passed", labels) == 1


def test_nothing_is_reloaded_without_a_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a/1", "a/2", "b/1").start()
    loaded: list[str] = []
    stage.loader.during = loaded.append
    for _ in range(3):
        stage.reconciler.poll()
    assert loaded == []


class TestExplicit:
    """Models come and go by calls."""

    def test_nothing_is_loaded_at_the_start(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit").start()
        assert stage.states == {"a/1": "UNAVAILABLE"}
        assert isinstance(refusal(stage.lifecycle, "a"), ModelNotReady), "it is known, as the index says"
        assert stage.lifecycle.is_ready
        assert [(s.name, s.version, s.state, s.reason) for s in stage.reconciler.index()] == [
            ("a", 1, "UNAVAILABLE", "unloaded")
        ]

    @pytest.mark.parametrize(("asked", "loaded"), [("b", {"b/1"}), ("a,b", {"a/1", "b/1"}), ("*", {"a/1", "b/1"})])
    def test_but_for_those_asked_for(self, tmp_path: Path, asked: str, loaded: set[str]) -> None:
        stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="explicit", load_models=asked).start()
        assert {place for place, state in stage.states.items() if state == "READY"} == loaded

    def test_load_and_unload(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", "a/2", model_control_mode="explicit").start()
        stage.reconciler.load_model("a")
        assert stage.serving("a") == [2]
        stage.reconciler.unload_model("a")
        assert stage.states == {"a/1": "UNAVAILABLE", "a/2": "UNAVAILABLE"}
        assert refusal(stage.lifecycle, "a").message == "model 'a' version 2 is UNAVAILABLE: it was unloaded"
        assert stage.lifecycle.is_ready
        stage.reconciler.load_model("a")
        assert stage.serving("a") == [2]

    def test_unloading_leaves_the_failures_of_other_models_and_none_of_its_own(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/2": ManifestInvalid("no"), "b/3": ManifestInvalid("no")})
        stage = Stage(
            tmp_path, "a/1", "a/2", "b/3", loader=loader, model_control_mode="explicit", load_models="*", versions="all"
        ).start()
        assert change_failed(stage, "a")
        stage.reconciler.unload_model("a")
        assert {(s.name, s.version): s.reason for s in stage.lifecycle.statuses()} == {
            ("a", 1): "unloaded",
            ("a", 2): "unloaded",
            ("b", 3): "no",
        }
        assert not change_failed(stage, "a")
        assert change_failed(stage, "b")

    def test_a_call_waits_for_no_manifest_and_loads_nothing_that_stands_in(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", "a/2", model_control_mode="explicit").start()
        (tmp_path / "a" / "2" / "manifest.json").unlink()
        stage.loader.failures["a/2"] = ManifestInvalid("no")
        with pytest.raises(LoadFailed):
            stage.reconciler.load_model("a")
        assert stage.serving("a") == []
        stage.loader.failures.clear()
        stage.reconciler.load_model("a")
        assert stage.serving("a") == [2]

    def test_loading_again_without_a_change_does_nothing(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit").start()
        stage.reconciler.load_model("a")
        first: Servable = stage.lifecycle.find("a")
        stage.reconciler.load_model("a")
        assert stage.lifecycle.find("a") is first

    def test_a_failure_is_told_without_its_details(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/1": ManifestInvalid("/secret/path: no")})
        stage = Stage(tmp_path, "a/1", loader=loader, model_control_mode="explicit").start()
        with pytest.raises(LoadFailed, match=r"^model 'a' version 1: its manifest, labels or golden answers"):
            stage.reconciler.load_model("a")
        loader.failures.clear()
        stage.reconciler.load_model("a")
        assert stage.serving("a") == [1], "a call tries again what had failed"

    def test_a_model_that_does_not_fit_is_told_from_one_that_is_wrong(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/1": OutOfMemory("std::bad_alloc")})
        stage = Stage(tmp_path, "a/1", loader=loader, model_control_mode="explicit").start()
        with pytest.raises(LoadFailed, match=r"^model 'a' version 1: memory ran out$"):
            stage.reconciler.load_model("a")

    def test_a_changed_version_that_fails_is_told_each_time(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit", load_models="a").start()
        stage.loader.failures["a/1"] = ManifestInvalid("no")
        stage.change("a/1")
        for _ in range(2):
            with pytest.raises(LoadFailed, match="the one loaded before continues to serve"):
                stage.reconciler.load_model("a")
        assert stage.serving("a") == [1]
        assert change_failed(stage)
        stage.loader.failures.clear()
        stage.reconciler.load_model("a")
        assert not change_failed(stage)

    def test_a_load_that_fails_lets_nothing_go(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/3": ManifestInvalid("no")})
        explicit: dict[str, Any] = {"model_control_mode": "explicit", "load_models": "a", "versions": "latest:2"}
        stage = Stage(tmp_path, "a/1", "a/2", loader=loader, **explicit).start()
        stage.add("a/3")
        with pytest.raises(LoadFailed):
            stage.reconciler.load_model("a")
        assert stage.serving("a") == [2, 1]

    def test_a_version_that_nobody_wants_fails_no_call(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/1": ManifestInvalid("no")})
        stage = Stage(tmp_path, "a/1", loader=loader, model_control_mode="explicit").start()
        with pytest.raises(LoadFailed):
            stage.reconciler.load_model("a")
        stage.add("a/2")
        stage.reconciler.load_model("a")
        assert stage.serving("a") == [2]
        assert stage.states == {"a/1": "UNAVAILABLE", "a/2": "READY"}
        assert not shows(stage, "UNAVAILABLE", "a/1")

    def test_what_failed_and_is_gone_is_forgotten(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/1": ManifestInvalid("no")})
        stage = Stage(tmp_path, "a/1", "b/1", loader=loader, model_control_mode="explicit").start()
        with pytest.raises(LoadFailed):
            stage.reconciler.load_model("a")
        stage.remove("a")
        with pytest.raises(ModelNotFound):
            stage.reconciler.load_model("a")
        assert not stage.lifecycle.knows("a")
        assert 'model="a"' not in stage.metrics.negotiate("")[0].decode()

    def test_what_is_gone_is_no_shortfall(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit", load_models="a").start()
        stage.add("b/1")
        (tmp_path / "b" / "serving.toml").write_text("instances =")
        with pytest.raises(LoadFailed):
            stage.reconciler.load_model("b")
        assert change_failed(stage, "b")
        stage.remove("b")
        with pytest.raises(ModelNotFound):
            stage.reconciler.load_model("b")
        assert not change_failed(stage, "b")

    def test_a_pin_of_which_a_part_is_there_is_refused_and_that_part_served(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit").start()
        (tmp_path / "a" / "serving.toml").write_text('versions = "1,2"\n')
        with pytest.raises(LoadFailed, match="'a' has no version 2 on disk, which its setting 'versions' names"):
            stage.reconciler.load_model("a")
        assert stage.serving("a") == [1]
        stage.reconciler.unload_model("a")
        assert not change_failed(stage)
        assert [status.version for status in stage.reconciler.index()] == [1]

    def test_a_pin_to_nothing_is_refused(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit", load_models="a").start()
        (tmp_path / "a" / "serving.toml").write_text('versions = "7"\n')
        with pytest.raises(LoadFailed, match=r"'a' has no version 7 on disk, which its setting 'versions' names$"):
            stage.reconciler.load_model("a")
        assert stage.serving("a") == [1]

    def test_what_was_unloaded_does_not_come_back_by_itself(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit", load_models="a").start()
        stage.loader.on_death["a/1"]()
        stage.reconciler.unload_model("a")
        for fallen in stage.reconciler.fallen():
            stage.reconciler.revive(fallen.name, fallen.version)
        assert stage.serving("a") == []
        assert stage.lifecycle.is_ready

    def test_what_is_unloaded_before_the_first_loading_stays_unloaded(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="explicit", load_models="a,b")
        stage.reconciler.announce()
        stage.reconciler.unload_model("a")
        assert refusal(stage.lifecycle, "a").message == "model 'a' version 1 is UNAVAILABLE: it was unloaded"
        stage.start()
        assert stage.states == {"a/1": "UNAVAILABLE", "b/1": "READY"}
        assert stage.lifecycle.is_ready

    def test_what_is_loaded_before_the_first_loading_is_loaded_once(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit", load_models="a")
        stage.reconciler.announce()
        stage.reconciler.load_model("a")
        first = stage.lifecycle.find("a")
        assert stage.start().lifecycle.find("a") is first

    def test_what_failed_before_the_first_loading_is_tried_by_it(self, tmp_path: Path) -> None:
        loader = FakeLoader(**{"a/1": ProviderUnavailable("no CUDA")})
        explicit: dict[str, Any] = {"model_control_mode": "explicit", "load_models": "a"}
        stage = Stage(tmp_path, "a/1", loader=loader, device="cuda", **explicit)
        stage.reconciler.announce()
        with pytest.raises(LoadFailed):
            stage.reconciler.load_model("a")
        with pytest.raises(ProviderUnavailable):
            stage.start()

    @pytest.mark.parametrize("name", ["b", "", "../a", "a/1", "."])
    def test_unknown_names_and_path_tricks_are_not_found(self, tmp_path: Path, name: str) -> None:
        stage = Stage(tmp_path, "a/1", model_control_mode="explicit").start()
        with pytest.raises(ModelNotFound):
            stage.reconciler.load_model(name)
        with pytest.raises(ModelNotFound):
            stage.reconciler.unload_model(name)

    def test_a_model_that_cannot_be_read_fails_the_call_and_goes_on(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="explicit", load_models="a").start()
        lock(tmp_path / "a", "a loop")
        with pytest.raises(LoadFailed, match=r"^model 'a': its folder cannot be read$"):
            stage.reconciler.load_model("a")
        assert stage.serving("a") == [1]
        assert change_failed(stage, "a")
        stage.reconciler.load_model("b")
        stage.reconciler.unload_model("a")
        assert not change_failed(stage, "a")
        unlock(tmp_path / "a")
        stage.reconciler.load_model("a")
        assert stage.serving("a") == [1]

    def test_a_model_that_cannot_be_read_at_the_start_may_be_unloaded(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path, "a/1", "b/1", model_control_mode="explicit", load_models="a,b")
        lock(tmp_path / "a", "a loop")
        stage.start()
        assert not stage.lifecycle.is_ready
        stage.reconciler.unload_model("a")
        assert stage.lifecycle.is_ready

    def test_a_lost_repository_fails_the_call_alone(self, tmp_path: Path) -> None:
        root = tmp_path / "models"
        root.mkdir()
        stage = Stage(root, "a/1", model_control_mode="explicit", load_models="a").start()
        os.rename(root, tmp_path / "elsewhere")
        with pytest.raises(LoadFailed, match="cannot be read"):
            stage.reconciler.load_model("a")
        assert stage.serving("a") == [1]
        assert [status.state for status in stage.reconciler.index()] == ["READY"]


def test_a_model_that_was_removed_leaves_the_server_ready_while_it_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, "a/1", "b/1").start()
    seen: list[bool] = []
    monkeypatch.setattr(stage.loader.batchers["a/1"], "close", lambda _: seen.append(stage.lifecycle.is_ready))
    stage.remove("a")
    stage.poll_twice()
    assert seen == [True]
    assert stage.states == {"b/1": "READY"}
    assert stage.lifecycle.is_ready
