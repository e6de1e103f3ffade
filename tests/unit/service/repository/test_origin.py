"""Only bytes that changed make a READY version load anew: digests decide, where a look at the files cannot."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.manifest import Manifest, file_digest, read_manifest, write_manifest
from service.metrics import Metrics
from service.repository.origin import Origin
from service.repository.servable import Servable
from service.repository.store import VersionFolder, fingerprint
from service.settings import Settings
from tests.unit.service.repository.test_lifecycle import FakeLoader
from tests.unit.service.repository.test_reconciler import Stage, change_failed

LENET = Path(__file__).resolve().parents[4] / "models" / "lenet5-mnist" / "1"
SETTINGS = Settings(models="models")


class DigestingLoader(FakeLoader):
    """Its servables have the digest of what was on disk; they are bare graphs."""

    def make(self, folder: VersionFolder, metrics: Metrics) -> Servable:
        return replace(super().make(folder, metrics), digest=file_digest(folder.path / "model.onnx"))


def staged(root: Path) -> Stage:
    """A model of which version 1 serves. It is bare, so a change of it counts once it looks the same twice."""
    stage = Stage(root, "a/1", "a/2", versions="1", loader=DigestingLoader())
    (root / "a" / "1" / "manifest.json").unlink()
    (root / "a" / "1" / "model.onnx").write_bytes(b"old")
    return stage.start()


def loads_of(stage: Stage) -> list[str]:
    loads: list[str] = []
    stage.loader.during = loads.append
    return loads


def touch(file: Path) -> None:
    """Change a file's times, so that only its bytes can tell that it is as it was."""
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))


def test_files_that_were_touched_are_looked_at_closely_once_and_load_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = staged(tmp_path)
    loads, looks = loads_of(stage), []
    is_on_disk = Origin.is_what_is_on_disk
    monkeypatch.setattr(Origin, "is_what_is_on_disk", lambda *args: looks.append(1) or is_on_disk(*args))
    model = tmp_path / "a" / "1" / "model.onnx"
    for count, act in enumerate(
        (
            lambda: os.link(model, tmp_path / "backup"),
            lambda: os.utime(model, (0, 0)),
            lambda: (model.unlink(), model.write_bytes(b"old")),
            lambda: (tmp_path / "a" / "serving.toml").write_text('versions = "latest:2"\n'),
        ),
        start=1,
    ):
        before = fingerprint(VersionFolder("a", 1, model.parent))
        act()
        while fingerprint(VersionFolder("a", 1, model.parent)) == before:  # the kernel's clock ticks
            os.utime(model, (0, 0))
        for _ in range(3):
            stage.reconciler.poll()
        assert len(looks) == count
    assert loads == ["a/2"], "which the new policy wants"
    model.write_bytes(b"new")
    touch(model)
    stage.poll_twice()
    assert loads == ["a/2", "a/1"]


def test_what_is_restored_after_a_failure_is_no_failure_any_more(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    model = tmp_path / "a" / "1" / "model.onnx"
    serving = stage.lifecycle.find("a")
    model.write_bytes(b"broken")
    stage.loader.failures["a/1"] = ValueError()
    stage.poll_twice()
    assert change_failed(stage)
    model.write_bytes(b"old")
    stage.poll_twice()
    assert not change_failed(stage)
    assert stage.lifecycle.find("a") is serving


def test_what_is_put_back_after_another_served_is_loaded_again(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    model, loads = tmp_path / "a" / "1" / "model.onnx", loads_of(stage)
    for count, data in enumerate((b"another", b"old", b"another"), start=1):
        model.write_bytes(data)
        stage.poll_twice()
        assert loads == ["a/1"] * count
        assert stage.lifecycle.find("a").digest == file_digest(model)


def test_what_changed_while_it_was_loaded_is_loaded_again_whatever_its_digest(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    model = tmp_path / "a" / "1" / "model.onnx"

    def meanwhile(_place: str) -> None:
        model.write_bytes(b"more than old")
        model.write_bytes(b"newer")
        touch(model)

    model.write_bytes(b"newer")
    stage.loader.during = meanwhile
    stage.poll_twice()
    loads = loads_of(stage)
    for _ in range(3):
        stage.reconciler.poll()
    assert loads == ["a/1"], "once, and then it is at rest"


def test_other_settings_load_a_version_anew(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    loads = loads_of(stage)
    (tmp_path / "a" / "serving.toml").write_text("instances = 3\n")
    stage.poll_twice()
    assert loads == ["a/1"]


@pytest.fixture
def folder(tmp_path: Path) -> VersionFolder:
    shutil.copytree(LENET, tmp_path / "a" / "1")
    return VersionFolder("a", 1, tmp_path / "a" / "1")


def origin_of(folder: VersionFolder, manifest: Manifest | None) -> Origin:
    return Origin(fingerprint(folder), SETTINGS, manifest, file_digest(folder.path / "model.onnx"))


def with_another_manifest(folder: VersionFolder) -> None:
    manifest = read_manifest(folder.path)
    write_manifest(replace(manifest, max_batch_size=1), folder.path)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden.npz"])
def test_every_file_with_a_digest_is_compared_by_it(folder: VersionFolder, name: str) -> None:
    origin, file = origin_of(folder, read_manifest(folder.path)), folder.path / name
    touch(file)
    (folder.path / "README").write_text("no part of the version")
    assert origin.is_what_is_on_disk(folder, SETTINGS)
    data, times = bytearray(file.read_bytes()), file.stat()
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not origin.is_what_is_on_disk(folder, SETTINGS)
    file.unlink()
    assert not origin.is_what_is_on_disk(folder, SETTINGS)


def test_another_manifest_is_a_change(folder: VersionFolder) -> None:
    origin = origin_of(folder, read_manifest(folder.path))
    with_another_manifest(folder)
    assert not origin.is_what_is_on_disk(folder, SETTINGS)
    (folder.path / "manifest.json").unlink()
    assert not origin.is_what_is_on_disk(folder, SETTINGS)


@pytest.mark.parametrize("bare", [True, False])
def test_a_file_without_a_digest_is_compared_by_size_and_time(folder: VersionFolder, bare: bool) -> None:
    """Weights beside a bare graph, and all but model.onnx in schema version 1."""
    manifest = replace(read_manifest(folder.path), schema_version=1, digests=None)
    if bare:
        (folder.path / "manifest.json").unlink()
    else:
        write_manifest(manifest, folder.path)
        text = (
            (folder.path / "manifest.json")
            .read_text()
            .replace('"digests": null,', "")
            .replace(',\n  "digests": null', "")
        )
        (folder.path / "manifest.json").write_text(text)
        assert read_manifest(folder.path) == manifest
    origin = origin_of(folder, None if bare else manifest)
    touch(folder.path / "model.onnx")
    (folder.path / "labels.txt").chmod(0o600)
    assert origin.is_what_is_on_disk(folder, SETTINGS)
    touch(folder.path / "labels.txt")
    assert not origin.is_what_is_on_disk(folder, SETTINGS)


@pytest.mark.parametrize("bare", [True, False])
def test_a_folder_that_cannot_be_looked_into_is_not_what_serves(
    folder: VersionFolder, monkeypatch: pytest.MonkeyPatch, bare: bool
) -> None:
    origin = origin_of(folder, None if bare else read_manifest(folder.path))
    if bare:
        (folder.path / "manifest.json").unlink()
    assert origin.is_what_is_on_disk(folder, SETTINGS)

    def refuse(path: object, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as refusing:
        refusing.setattr(os, "stat", refuse)
        assert not origin.is_what_is_on_disk(folder, SETTINGS)


def test_a_graph_that_gets_a_manifest_or_becomes_a_pipe_has_changed(folder: VersionFolder) -> None:
    origin = origin_of(folder, None)
    assert not origin.is_what_is_on_disk(folder, SETTINGS), "it has a manifest"
    (folder.path / "manifest.json").unlink()
    assert origin.is_what_is_on_disk(folder, SETTINGS)
    (folder.path / "model.onnx").unlink()
    os.mkfifo(folder.path / "model.onnx")
    assert not origin.is_what_is_on_disk(folder, SETTINGS)
