"""Whatever an operator does to a repository: what answers was once published, and at rest the disk is what serves."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import LoadFailed, ManifestInvalid, ModelNotFound, SettingsError
from service.manifest import file_digest
from service.metrics import Metrics
from service.repository import version_policy
from service.repository.servable import Servable
from service.repository.store import VersionFolder
from tests.unit.service.repository.test_origin import DigestingLoader
from tests.unit.service.repository.test_reconciler import Stage, change_failed

VERSIONS = st.integers(1, 3)
POLICIES = ("latest:1", "latest:2", "all", "1", "2,3")
SETTLE_LOOKS = 3  # bare graphs load at the second look, what is missing is gone at the second


class Loader(DigestingLoader):
    """Refuses what begins with ``bad``; keeps the batcher of every servable that it made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Servable] = []

    def make(self, folder: VersionFolder, metrics: Metrics) -> Servable:
        if (folder.path / "model.onnx").read_bytes().startswith(b"bad"):
            raise ManifestInvalid("bad")
        self.made.append(super().make(folder, metrics))
        return self.made[-1]


class RepositoryMachine(RuleBasedStateMachine):
    """A model ``a`` of up to three versions, each bare; ``b`` is left alone, so the repository is never empty."""

    @initialize(explicit=st.booleans())
    def start(self, explicit: bool) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.model, self.aside = self.root / "a", self.root / ".aside"
        self.explicit = explicit
        self.count = 0
        self.published: dict[str, int] = {}  # versions by the digest of what was good
        self.kept: dict[int, list[bytes]] = {}
        self.stage = Stage(self.root, "b/1", loader=Loader(), model_control_mode="explicit" if explicit else "poll")
        (self.root / "b" / "1" / "manifest.json").unlink()
        self.publish(1, True)
        self.stage.start()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def write(self, folder: Path, good: bool) -> None:
        self.count += 1  # no two sizes are alike: the machine is quicker than the kernel's clock
        file = folder / "model.onnx"
        file.write_bytes((b"good" if good else b"bad") + b"." * self.count)
        if good:
            self.published[file_digest(file)] = int(folder.name)
            self.kept.setdefault(int(folder.name), []).append(file.read_bytes())

    @property
    def versions(self) -> dict[int, Path]:
        return {int(path.name): path for path in self.model.glob("[1-9]")}

    @property
    def serving(self) -> dict[int, str]:
        return {servable.version: servable.digest for servable in self.stage.lifecycle.servables("a")}

    @property
    def policy(self) -> str:
        file = self.model / "serving.toml"
        return file.read_text().split('"')[1] if file.exists() and file.stat().st_size else "latest:1"

    @rule(version=VERSIONS, good=st.booleans())
    def publish(self, version: int, good: bool) -> None:
        """A new version, or one in place of another, by renaming."""
        new, place = self.root / ".new" / str(version), self.model / str(version)
        new.mkdir(parents=True)
        self.write(new, good)
        shutil.rmtree(place, ignore_errors=True)
        self.model.mkdir(exist_ok=True)
        new.rename(place)

    @rule(version=VERSIONS, good=st.booleans())
    def write_over(self, version: int, good: bool) -> None:
        if version in self.versions:
            self.write(self.versions[version], good)

    @rule(version=VERSIONS, data=st.data())
    def restore(self, version: int, data: st.DataObject) -> None:
        if version in self.versions and version in self.kept:
            (self.versions[version] / "model.onnx").write_bytes(data.draw(st.sampled_from(self.kept[version])))

    @rule(version=VERSIONS)
    def touch(self, version: int) -> None:
        if version in self.versions:
            os.utime(self.versions[version] / "model.onnx", (self.count, self.count))

    @rule(version=VERSIONS)
    def delete(self, version: int) -> None:
        shutil.rmtree(self.model / str(version), ignore_errors=True)

    @rule()
    def delete_model(self) -> None:
        shutil.rmtree(self.model, ignore_errors=True)

    @rule(policy=st.sampled_from((*POLICIES, "")))
    def set_policy(self, policy: str) -> None:
        if self.model.exists():
            (self.model / "serving.toml").write_text(f'versions = "{policy}"\n' if policy else "")

    @rule()
    def look_while_it_cannot_be_read(self) -> None:
        if self.model.exists():
            before = self.serving
            self.model.rename(self.aside)
            self.model.symlink_to(self.model)
            self.look()
            self.model.unlink()
            self.aside.rename(self.model)
            assert self.serving == before

    @rule(version=st.integers(0, 3))
    def look_while_it_is_replaced(self, version: int) -> None:
        """At rest, so that it is the first look that misses something: what serves goes on."""
        place = self.model / str(version) if version else self.model
        if place.exists() and not self.explicit:
            self.settle()
            before = self.serving
            place.rename(self.aside)
            self.look()
            self.aside.rename(place)
            assert self.serving == before

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """An instance's thread dies; the watchdog tries once to bring the version back."""
        if self.serving:
            version = data.draw(st.sampled_from(sorted(self.serving)))
            self.stage.loader.on_death[f"a/{version}"]()
            for fallen in self.stage.reconciler.fallen():
                with contextlib.suppress(LoadFailed, SettingsError):
                    self.stage.reconciler.revive(fallen.name, fallen.version)

    @rule()
    def look(self) -> None:
        if not self.explicit:
            self.stage.reconciler.poll()

    @rule()
    def settle(self) -> None:
        """With nothing going on, what serves is what the disk holds, the index and the metrics say so."""
        if self.explicit:
            return
        for _ in range(SETTLE_LOOKS):
            self.look()
        loads: list[str] = []
        self.stage.loader.during = loads.append
        self.look()
        assert loads == [], "it is at rest"
        self.at_rest()

    @precondition(lambda self: self.explicit)
    @rule()
    def load(self) -> None:
        there = bool(self.versions)
        try:
            self.stage.reconciler.load_model("a")
        except ModelNotFound:
            assert not there
        except LoadFailed:
            assert change_failed(self.stage)
        else:
            self.at_rest()

    @precondition(lambda self: self.explicit)
    @rule()
    def unload(self) -> None:
        try:
            self.stage.reconciler.unload_model("a")
        except ModelNotFound:
            assert not self.serving
        assert self.serving == {}

    def at_rest(self) -> None:
        there, serving = self.versions, self.serving
        wanted = version_policy.wanted(self.policy, there)
        good = {
            version for version, folder in there.items() if (folder / "model.onnx").read_bytes().startswith(b"good")
        }
        for version in good.intersection(wanted):
            assert serving.get(version) == file_digest(there[version] / "model.onnx")
        if not there:
            assert serving == {}
        if serving.keys() & set(wanted):
            others = serving.keys() - set(wanted)
            assert len(others) <= len(set(wanted) - serving.keys())
            assert others <= set(version_policy.stand_ins(self.policy, there))
        if self.policy.startswith("latest") and good:
            assert len(serving) >= min(len(wanted), len(good))
        absent = version_policy.absent(self.policy, there) if there else []
        falls_short = bool(absent or set(wanted) - good or (there and not wanted))
        assert change_failed(self.stage) == falls_short

    @invariant()
    def what_answers_was_published(self) -> None:
        for version, digest in self.serving.items():
            assert self.published[digest] == version

    @invariant()
    def the_index_and_the_metrics_tell_the_truth(self) -> None:
        index = {status.version: status for status in self.stage.reconciler.index() if status.name == "a"}
        assert {version for version, status in index.items() if status.state == "READY"} == self.serving.keys()
        assert index.keys() >= self.versions.keys()
        assert all(status.state in ("READY", "UNAVAILABLE") for status in index.values())
        shown = {
            (sample.labels["version"], sample.labels["state"])
            for family in self.stage.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "convserve_model_state" and sample.labels["model"] == "a" and sample.value
        }
        known = self.stage.lifecycle.statuses_of("a")
        assert shown == {(str(status.version), status.state) for status in known if not status.is_left_out}

    @invariant()
    def only_what_is_lent_is_open(self) -> None:
        lent = {id(servable) for servable in self.stage.lifecycle.ready()}
        for servable in self.stage.loader.made:
            closed = servable.batcher.closed_with
            if id(servable) in lent:
                assert closed == []
            else:
                assert len(closed) <= 1


TestRepository = RepositoryMachine.TestCase
TestRepository.settings = settings(max_examples=40, stateful_step_count=25)
