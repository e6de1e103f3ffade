from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.batching.response_cache import ResponseCache
from service.batching.sharing import SharedAnswers
from service.errors import (
    GoldenMismatch,
    InvalidInput,
    LoadError,
    ManifestInvalid,
    ModelNotFound,
    ModelNotReady,
    ProviderUnavailable,
    ServingError,
    SettingsError,
)
from service.metrics import STATES, Metrics
from service.repository.attempt import Attempt
from service.repository.lifecycle import Lifecycle, VersionStatus
from service.repository.reconciler import Reconciler
from service.repository.servable import Servable
from service.repository.store import VersionFolder
from service.settings import Settings
from tests.fakes import Told
from tests.unit.service.samples import FakeBatcher, bare_servable


class Panic(BaseException):
    """What a panic in Rust becomes, which is no Exception."""


class FakeLoader:
    """Makes servables without loading anything; fails where told; can be looked at while it loads.

    Attributes:
        failures: What loading ``"name/version"`` raises.
        during: Called while ``"name/version"`` is loading.
        interrupted: Places whose runs were interrupted.
    """

    def __init__(self, **failures: BaseException) -> None:
        self.failures: dict[str, BaseException] = failures
        self.during: Callable[[str], None] = lambda place: None
        self.settings: dict[str, Settings] = {}
        self.on_death: dict[str, Callable[[], None]] = {}
        self.batchers: dict[str, FakeBatcher] = {}
        self.interrupted: list[str] = []

    def __call__(
        self,
        folder: VersionFolder,
        settings: Settings,
        metrics: Metrics,
        on_death: Callable[[], None],
        attempt: Attempt,
    ) -> Servable:
        place = f"{folder.name}/{folder.version}"
        self.settings[place] = settings
        self.on_death[place] = on_death
        self.during(place)
        if place in self.failures:
            raise self.failures[place]
        attempt.commit()
        return self.make(folder, metrics)

    def make(self, folder: VersionFolder, metrics: Metrics) -> Servable:
        """Return what serves a version from now on."""
        place = f"{folder.name}/{folder.version}"
        self.batchers[place] = FakeBatcher()
        return bare_servable(
            name=folder.name,
            version=folder.version,
            batcher=self.batchers[place],
            metrics=metrics,
            interrupt=lambda: self.interrupted.append(place),
        )


def repository(root: Path, *places: str) -> Path:
    for place in places:
        (root / place).mkdir(parents=True)
        (root / place / "model.onnx").touch()
        (root / place / "manifest.json").touch()
    return root


class Cycle(Lifecycle):
    """A lifecycle and the reconciler that fills it."""

    def __init__(
        self, settings: Settings, metrics: Metrics, load: FakeLoader, listener: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(metrics, listener)
        self.reconciler = Reconciler(settings, metrics, self, load)

    def load_all(self) -> None:
        self.reconciler.load_all()


def lifecycle(root: Path, loader: FakeLoader, **settings: Any) -> Cycle:
    return Cycle(Settings(models=str(root), **settings), Metrics("0", "test"), loader)


def states(of: Lifecycle) -> dict[str, str]:
    return {f"{status.name}/{status.version}": status.state for status in of.statuses()}


def refusal(of: Lifecycle, name: str, version: str = "") -> ServingError:
    with pytest.raises(ServingError) as caught:
        of.find(name, version)
    return caught.value


def test_every_wanted_version_becomes_ready(tmp_path: Path) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1", "a/2", "b/7"), FakeLoader(), versions="all")
    assert not cycle.is_ready
    cycle.load_all()
    assert states(cycle) == {"a/1": "READY", "a/2": "READY", "b/7": "READY"}
    assert cycle.is_ready


def test_what_loading_found_out_shows_although_the_replaced_one_died_just_before(tmp_path: Path) -> None:
    metrics = Metrics("0", "test")
    cycle = Cycle(Settings(models=str(repository(tmp_path, "a/1"))), metrics, FakeLoader())
    cycle.load_all()

    def seconds() -> float | None:
        return metrics.registry.get_sample_value(
            "convserve_model_load_duration_seconds", {"model": "a", "version": "1"}
        )

    old, replacement = cycle.find("a"), bare_servable(name="a", version=1)
    assert seconds() == old.load_seconds
    cycle.drop(old, VersionStatus("a", 1, "UNAVAILABLE", "it died"))
    assert seconds() is None
    cycle.put(replacement)
    assert seconds() == replacement.load_seconds


@pytest.mark.parametrize("how", ["withdrawn", "replaced", "fallen"])
def test_answers_kept_go_with_their_version(tmp_path: Path, how: str) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1"), FakeLoader())
    cycle.load_all()
    cache = ResponseCache(10_000)

    def sharing() -> Servable:
        shelf = cache.shelf()
        shelf.put(b"key", [np.zeros((1, 2))])
        shared = SharedAnswers(FakeBatcher(), identity="a 1", names=["x"], metrics=Told(), cache=shelf)
        return bare_servable(name="a", version=1, shared=shared)

    servable, other = sharing(), sharing()
    cycle.put(servable)
    assert len(cache.entries) == 2
    if how == "withdrawn":
        cycle.withdraw(servable)
    elif how == "replaced":
        cycle.put(other)
    else:
        cycle.set_status(VersionStatus("a", 1, "UNAVAILABLE"))
    assert servable.shared is not None
    assert servable.shared.cache is not None
    assert not servable.shared.cache.keys  # although somebody, a template for one, still holds the servable
    assert len(cache.entries) == 1


def test_only_the_wanted_versions_are_loaded(tmp_path: Path) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1", "a/2", "a/10"), FakeLoader())
    cycle.load_all()
    assert states(cycle) == {"a/1": "UNAVAILABLE", "a/2": "UNAVAILABLE", "a/10": "READY"}
    assert refusal(cycle, "a", "2").message == "model 'a' version 2 is UNAVAILABLE: it is not loaded"
    assert isinstance(refusal(cycle, "a", "3"), ModelNotFound)


def test_find_lends_the_newest_or_the_one_named(tmp_path: Path) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1", "a/9", "a/10"), FakeLoader(), versions="all")
    cycle.load_all()
    assert cycle.find("a").version == 10
    assert cycle.find("a", "9").version == 9
    assert [servable.version for servable in cycle.servables("a")] == [10, 9, 1]
    assert cycle.servables("b") == ()


def test_lends_what_would_be_found_and_nothing_else(tmp_path: Path) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1", "a/9", "a/10"), FakeLoader(), versions="all")
    cycle.load_all()
    newest, older = cycle.find("a"), cycle.find("a", "9")
    assert cycle.lends(newest, "")
    assert cycle.lends(newest, "10")
    assert cycle.lends(older, "9")
    assert not cycle.lends(older, "")
    assert not cycle.lends(older, "10")
    cycle.withdraw(newest)
    assert not cycle.lends(newest, "")
    assert not cycle.lends(newest, "10")
    assert cycle.lends(older, "")
    assert cycle.find("a") is older


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1"), FakeLoader())
    cycle.load_all()
    assert refusal(cycle, "b").message == "no model 'b'"
    missing = refusal(cycle, "a", "2")
    assert isinstance(missing, ModelNotFound)
    assert missing.message == "no model 'a' version 2"
    assert (cycle.knows("a"), cycle.knows("b")) == (True, False)


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "0", " 1", "\u0661", "1" * 19])
def test_a_version_that_is_no_number_is_refused(tmp_path: Path, version: str) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1"), FakeLoader())
    cycle.load_all()
    error = refusal(cycle, "a", version)
    assert isinstance(error, InvalidInput)
    assert error.message == f"model 'a': version must be a number, got {version!r}"


def test_versions_are_loading_before_they_are_ready(tmp_path: Path) -> None:
    loader = FakeLoader()
    cycle = lifecycle(repository(tmp_path, "a/1", "b/1"), loader)
    seen: list[dict[str, str]] = []

    def look(_: str) -> None:
        seen.append(states(cycle))
        error = refusal(cycle, "b")
        assert isinstance(error, ModelNotReady)
        assert error.message == "model 'b' version 1 is LOADING: try again"
        assert error.retry_after_seconds == 1.0
        assert not cycle.is_ready

    loader.during = look
    cycle.load_all()
    assert seen == [{"a/1": "LOADING", "b/1": "LOADING"}, {"a/1": "READY", "b/1": "LOADING"}]


@pytest.mark.parametrize(
    "failure", [ManifestInvalid("m"), GoldenMismatch("/secret/path"), LoadError("l"), RuntimeError("/secret/path")]
)
def test_a_version_that_fails_leaves_the_others_alone(tmp_path: Path, failure: Exception) -> None:
    cycle = lifecycle(repository(tmp_path, "a/1", "b/1", "c/1"), FakeLoader(**{"b/1": failure}))
    cycle.load_all()
    assert states(cycle) == {"a/1": "READY", "b/1": "UNAVAILABLE", "c/1": "READY"}
    assert not cycle.is_ready
    assert cycle.find("c").name == "c"
    error = refusal(cycle, "b")
    assert isinstance(error, ModelNotReady)
    assert error.message.startswith("model 'b' version 1 is UNAVAILABLE: ")
    assert "secret" not in error.message


def test_the_operator_sees_why_a_version_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failures = {
        "a/1": ManifestInvalid("task: wrong"),
        "b/1": RuntimeError("a bug"),
        "c/1": Panic("a tokenizer's"),
        "d/1": MemoryError(),
    }
    cycle = lifecycle(repository(tmp_path, *failures), FakeLoader(**failures))
    with caplog.at_level(logging.ERROR):
        cycle.load_all()
    unexpected = "loading failed, see the log"
    lacking = "memory ran out: allow more (ulimit -v, the container's limit)"
    assert [status.reason for status in cycle.statuses()] == ["task: wrong", unexpected, unexpected, lacking]
    assert "task: wrong" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
    assert "Panic: a tokenizer's" in caplog.text


def test_an_older_version_answers_while_the_newest_has_failed(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/2": GoldenMismatch("no")})
    cycle = lifecycle(repository(tmp_path, "a/1", "a/2"), loader, versions="all")
    cycle.load_all()
    assert cycle.find("a").version == 1
    assert isinstance(refusal(cycle, "a", "2"), ModelNotReady)


def test_a_failed_golden_check_is_a_metric(tmp_path: Path) -> None:
    metrics = Metrics("0", "test")
    loader = FakeLoader(**{"a/1": GoldenMismatch("no"), "b/1": ManifestInvalid("no")})
    Cycle(Settings(models=str(repository(tmp_path, "a/1", "b/1"))), metrics, load=loader).load_all()
    sample = metrics.registry.get_sample_value
    assert sample("convserve_golden_check_passed", {"model": "a", "version": "1"}) == 0
    assert sample("convserve_golden_check_passed", {"model": "b", "version": "1"}) is None


def test_the_state_is_a_metric(tmp_path: Path) -> None:
    metrics = Metrics("0", "test")
    loader = FakeLoader(**{"b/1": LoadError("no")})
    Cycle(Settings(models=str(repository(tmp_path, "a/1", "b/1"))), metrics, load=loader).load_all()
    for name, expected in (("a", "READY"), ("b", "UNAVAILABLE")):
        labels = {"model": name, "version": "1"}
        values = {
            state: metrics.registry.get_sample_value("convserve_model_state", labels | {"state": state})
            for state in STATES
        }
        assert values == {state: float(state == expected) for state in STATES}


def test_a_missing_provider_stops_everything(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/1": ProviderUnavailable("no CUDA")})
    cycle = lifecycle(repository(tmp_path, "a/1", "b/1"), loader, device="cuda")
    with pytest.raises(ProviderUnavailable, match="no CUDA"):
        cycle.load_all()
    assert not cycle.is_ready


def test_a_provider_that_one_model_demands_is_missing_for_that_model_alone(tmp_path: Path) -> None:
    loader = FakeLoader(**{"a/1": ProviderUnavailable("no CUDA")})
    repository(tmp_path, "a/1", "b/1")
    (tmp_path / "a" / "serving.toml").write_text('device = "cuda"\n')
    cycle = lifecycle(tmp_path, loader)
    cycle.load_all()
    assert states(cycle) == {"a/1": "UNAVAILABLE", "b/1": "READY"}
    assert not cycle.is_ready


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no MODEL/VERSION/model\.onnx"):
        lifecycle(tmp_path, FakeLoader()).load_all()
    repository(tmp_path, "a/1")
    with pytest.raises(SettingsError, match=r"holds no MODEL/VERSION/model\.onnx"):
        lifecycle(tmp_path, FakeLoader(), versions="7").load_all()


def test_serving_toml_overrides_for_its_model_only(tmp_path: Path) -> None:
    loader = FakeLoader()
    repository(tmp_path, "a/1", "a/2", "b/1", "b/2")
    (tmp_path / "a" / "serving.toml").write_text('versions = "1"\ninstances = 3\n')
    cycle = lifecycle(tmp_path, loader)
    cycle.load_all()
    assert states(cycle) == {"a/1": "READY", "a/2": "UNAVAILABLE", "b/1": "UNAVAILABLE", "b/2": "READY"}
    assert (loader.settings["a/1"].instances, loader.settings["b/2"].instances) == (3, 0)


def test_a_wrong_serving_toml_is_named(tmp_path: Path) -> None:
    repository(tmp_path, "a/1")
    (tmp_path / "a" / "serving.toml").write_text("instance = 3\n")
    with pytest.raises(SettingsError, match=r"a/serving\.toml: unknown key 'instance'"):
        lifecycle(tmp_path, FakeLoader()).load_all()


def test_a_version_whose_instance_dies_is_unavailable(tmp_path: Path) -> None:
    loader = FakeLoader()
    cycle = lifecycle(repository(tmp_path, "a/1", "b/1"), loader)
    cycle.load_all()
    loader.on_death["a/1"]()
    assert states(cycle) == {"a/1": "UNAVAILABLE", "b/1": "READY"}
    assert isinstance(refusal(cycle, "a"), ModelNotReady)
    assert not cycle.is_ready
    assert cycle.find("b").name == "b"


def test_an_instance_that_dies_while_its_version_loads_is_not_forgotten(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.during = lambda place: loader.on_death[place]()
    cycle = lifecycle(repository(tmp_path, "a/1"), loader)
    cycle.load_all()
    assert states(cycle) == {"a/1": "UNAVAILABLE"}
    assert isinstance(refusal(cycle, "a"), ModelNotReady)


def test_the_listener_hears_of_every_change(tmp_path: Path) -> None:
    heard: list[dict[str, str]] = []
    cycle = Cycle(
        Settings(models=str(repository(tmp_path, "a/1"))),
        Metrics("0", "test"),
        load=FakeLoader(),
        listener=lambda: heard.append(states(cycle)),
    )
    cycle.load_all()
    assert heard[0] == {"a/1": "LOADING"}
    assert heard[-1] == {"a/1": "READY"}
    cycle.close(1.0)
    assert heard[-1] == {"a/1": "UNLOADING"}


def test_the_listener_hears_of_all_that_changes_readiness(tmp_path: Path) -> None:
    heard: list[tuple[dict[str, str], bool]] = []
    loader = FakeLoader()
    cycle = Cycle(
        Settings(models=str(repository(tmp_path, "a/1"))),
        Metrics("0", "test"),
        load=loader,
        listener=lambda: heard.append((states(cycle), cycle.is_ready)),
    )
    cycle.load_all()
    assert heard[-1] == ({"a/1": "READY"}, True)
    loader.on_death["a/1"]()
    assert heard[-1] == ({"a/1": "UNAVAILABLE"}, False)
    cycle.release("a")
    assert heard[-1] == ({"a/1": "UNAVAILABLE"}, True)
    cycle.forget("a", 1)
    assert heard[-1] == ({}, True)


@pytest.mark.parametrize("how", ["withdrawn", "replaced", "fallen"])
def test_who_keeps_servables_lets_go_of_each_that_is_lent_no_more(tmp_path: Path, how: str) -> None:
    loader, let_go = FakeLoader(), list[Servable]()
    cycle = lifecycle(repository(tmp_path, "a/1", "b/1"), loader)
    cycle.when_withdrawn(let_go.append)
    cycle.load_all()
    assert let_go == []
    servable = cycle.find("a")
    if how == "withdrawn":
        cycle.withdraw(servable)
    elif how == "replaced":
        cycle.put(bare_servable(name="a", version=1))
    else:
        loader.on_death["a/1"]()
    assert let_go == [servable]


def test_the_server_is_ready_at_every_instant_in_which_a_further_model_becomes_ready() -> None:
    class Watched(Lifecycle):
        """Looks whether it is ready after each of its steps."""

        seen: frozenset[bool] = frozenset()

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name != "seen" and self.__dict__.get("_started"):
                self.seen |= {self.is_ready}

    watched = Watched(Metrics("0", "test"))
    watched.start()
    watched.put(bare_servable())
    assert watched.seen == {True}


def test_a_model_is_known_and_required_as_long_as_it_has_a_version(tmp_path: Path) -> None:
    loader = FakeLoader()
    cycle = lifecycle(repository(tmp_path, "a/1", "a/2"), loader, versions="all")
    cycle.load_all()
    cycle.withdraw(cycle.find("a", "2"))
    cycle.forget("a", 2)
    assert cycle.knows("a")
    loader.on_death["a/1"]()
    assert not cycle.is_ready
    cycle.forget("a", 1)
    assert not cycle.knows("a")
    assert cycle.is_ready


def test_nothing_is_left_of_models_that_come_and_go() -> None:
    class Late:
        """Calls of the model's last moment that nobody has added up yet."""

        def settle(self) -> None:
            while pending:
                metrics.requests.labels(*pending.pop(), "ModelInfer", "NOT_FOUND").inc()

    pending, late, metrics = list[tuple[str, str]](), Late(), Metrics("0", "test")
    metrics.before_scrapes(late)
    cycle = Lifecycle(metrics)
    for name in ("monday", "tuesday"):
        servable = bare_servable(name=name, version=1)
        cycle.put(servable)
        metrics.requests.labels(name, "", "ModelInfer", "NOT_FOUND").inc()
        cycle.withdraw(servable)
        pending += [(name, "1"), (name, "")]
        cycle.forget(name, 1)
    assert "day" not in metrics.negotiate("")[0].decode()
    assert not cycle.servables("monday")
    assert [len(getattr(cycle, table)) for table in ("_ready", "_newest", "_names", "_statuses")] == [0] * 4


@pytest.mark.parametrize("running", [0, 1])
def test_closing_tells_whether_the_time_sufficed(tmp_path: Path, running: int) -> None:
    loader = FakeLoader()
    cycle = lifecycle(repository(tmp_path, "a/1", "b/1"), loader)
    cycle.load_all()
    loader.batchers["a/1"].running = running
    assert cycle.close(0.0) == (not running)
    assert loader.batchers["b/1"].closed_with == [0.0]


def test_closing_unloads_everything_within_one_time_limit(tmp_path: Path) -> None:
    loader = FakeLoader()
    cycle = lifecycle(repository(tmp_path, "a/1", "a/2", "b/1"), loader, versions="all")
    cycle.load_all()
    cycle.close(3600.0)
    assert set(states(cycle).values()) == {"UNLOADING"}
    error = refusal(cycle, "a")
    assert error.message == "model 'a' version 2 is UNLOADING: it takes no more requests"
    assert error.retry_after_seconds is None, "nothing says that it comes back"
    graces = [grace for place in ("a/2", "a/1", "b/1") for grace in loader.batchers[place].closed_with]
    first, second, third = (grace for grace in graces if grace is not None)
    assert 3600 >= first >= second >= third > 0


def test_look_ups_during_changes_see_a_whole_version_or_none(tmp_path: Path) -> None:
    places = [f"m{number}/1" for number in range(30)]
    loader = FakeLoader()
    cycle = lifecycle(repository(tmp_path, *places), loader)
    over = threading.Event()
    unexpected: list[object] = []

    def look() -> None:
        while not over.is_set():
            for number in range(0, 30, 3):
                try:
                    found = cycle.find(f"m{number}")
                    if found.name != f"m{number}":
                        unexpected.append(found)
                except (ModelNotReady, ModelNotFound):
                    pass
                except Exception as error:
                    unexpected.append(error)
            cycle.is_ready  # noqa: B018 - it must not raise
            cycle.statuses()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    cycle.load_all()
    for place in places:
        loader.on_death[place]()
    over.set()
    for thread in threads:
        thread.join()
    assert unexpected == []
