from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from export import publish
from export.data.inputs import Preprocessing
from export.errors import PublishFailed, RunInvalid, VerificationFailed
from export.evaluate import score
from export.publish import Described, complete, publish_run, write_aside
from service.golden import read_golden
from service.manifest import GOLDEN_FILE, MODEL_FILE, file_digest, read_labels, read_manifest
from service.repository.store import passed_over, scan
from tests.unit.export.samples import picture_arrays, write_pictures


def _quiet(line: str) -> None:
    pass


def test_a_version_holds_all_that_the_service_needs(models: Path) -> None:
    version = models / "textcnn-mr" / "1"
    names = {path.name for path in version.iterdir()}
    assert names == {"model.onnx", "manifest.json", "golden.npz", "labels.txt", "tokenizer.json"}
    manifest = read_manifest(version)
    assert manifest.task == "sentence-classification"
    assert manifest.model_digest == file_digest(version / MODEL_FILE)
    assert manifest.digests == {name: file_digest(version / name) for name in names - {MODEL_FILE, "manifest.json"}}
    assert manifest.max_batch_size == 33
    assert read_labels(version / "labels.txt") == ("negative", "positive")
    golden = read_golden(version / GOLDEN_FILE)
    assert golden.count == 24
    assert golden.outputs[0].shape == (24, 2)
    assert {path.name for path in (models / "lenet5-mnist" / "1").iterdir()} == names - {"tokenizer.json"}


def test_the_manifest_says_where_it_comes_from_and_how_good_it_is(models: Path, sentence_run: Path) -> None:
    manifest = read_manifest(models / "textcnn-mr" / "1")
    record = json.loads((sentence_run / "run.json").read_text())
    assert manifest.provenance.recipe == "textcnn-mr"
    assert manifest.provenance.architecture == "textcnn"
    assert manifest.provenance.seed == 0
    assert (manifest.provenance.git_commit, manifest.provenance.created) == (record["git_commit"], record["created"])
    assert manifest.provenance.dataset.digest == record["dataset"]["digest"]
    assert manifest.provenance.libraries["torch"] == record["libraries"]["torch"]
    (accuracy,) = manifest.accuracy
    assert (accuracy.metric, accuracy.dataset, accuracy.split, accuracy.count) == ("top1", "mr", "fold-0-of-4", 40)
    assert accuracy.torch_value == record["test_accuracy"]
    assert accuracy.interval_low < accuracy.value <= accuracy.interval_high
    assert manifest.parity.top1_agreement == 1.0
    assert (manifest.parity.count, manifest.parity.batch_sizes) == (40, (1, 2, 7, 32, 33))


def test_what_contradicts_its_manifest_is_not_published(tmp_path: Path, models: Path) -> None:
    version = models / "lenet5-mnist" / "1"
    manifest, labels = read_manifest(version), read_labels(version / "labels.txt")
    shutil.copy(version / MODEL_FILE, tmp_path)
    described = Described(Preprocessing(manifest.preprocessing, None), labels, 33, manifest.provenance)
    other = SimpleNamespace(answer=lambda inputs: np.full((len(inputs), len(labels)), 0.1, np.float32))
    with pytest.raises(VerificationFailed, match="golden answers at batch size 1"):
        complete(tmp_path, described, other, read_golden(version / GOLDEN_FILE).raw, manifest.parity)


def test_versions_are_numbered_and_never_replaced(tmp_path: Path, sentence_run: Path) -> None:
    (tmp_path / "textcnn-mr" / "4").mkdir(parents=True)
    (tmp_path / "textcnn-mr" / "notes").mkdir()
    target = publish_run(sentence_run, tmp_path, None, None, _quiet)
    assert target == tmp_path / "textcnn-mr" / "5"
    before = sorted(path.name for path in (tmp_path / "textcnn-mr").iterdir())
    with pytest.raises(PublishFailed) as caught:
        publish_run(sentence_run, tmp_path, 5, None, _quiet)
    assert str(caught.value) == f"{target}: exists already; leave --version out to take the next free number"
    assert sorted(path.name for path in (tmp_path / "textcnn-mr").iterdir()) == before


def test_a_version_that_fails_leaves_nothing_behind(
    tmp_path: Path, sentence_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise VerificationFailed("differs")

    monkeypatch.setattr(publish, "verify_graph", refuse)
    with pytest.raises(VerificationFailed):
        publish_run(sentence_run, tmp_path, 1, None, _quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("here", [False, True])
def test_a_version_appears_whole_and_readable_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    with write_aside(Path() if here else tmp_path / "m", 3) as (aside, target):
        (aside / "file").write_text("x")
        assert not aside.name.isdecimal()
        assert not target.exists()
    assert (tmp_path / "m" / "3" / "file").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "m" / "3").stat().st_mode) == 0o755
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["3"]


def test_a_version_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, version, synced = tmp_path / "m", tmp_path / "m" / "1", list[tuple[int, bool]]()
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, version.exists())))
    with write_aside(model, 1) as (aside, _):
        (aside / "file").write_text("x")
    places = ((version / "file", False), (version, False), (model, True))
    assert synced == [(place.stat().st_ino, named) for place, named in places]


def test_what_a_killed_publishing_left_is_removed_once_it_is_a_day_old(tmp_path: Path) -> None:
    old, new, other = (tmp_path / place for place in ("m/.aside-1-old", "m/.aside-2-new", "n/.aside-1-old"))
    for left, hours in ((old, 25), (new, 23), (other, 25)):
        left.mkdir(parents=True)
        (left / "model.onnx").write_text("x")
        os.utime(left, (time.time() - hours * 3600,) * 2)
    stays = tmp_path / "m" / ".aside-1-file"  # as would another user's folder
    stays.touch()
    os.utime(stays, (0, 0))
    with write_aside(tmp_path / "m", None):
        pass
    assert [left.exists() for left in (old, new, other)] == [False, True, True]
    assert (tmp_path / "m" / "1").is_dir()


def test_a_version_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    def publish_too_late() -> None:
        with write_aside(tmp_path, 1) as (aside, target):
            (aside / "file").write_text("ours")
            target.mkdir()
            (target / "file").write_text("theirs")

    with pytest.raises(PublishFailed, match=r"cannot be published \(it has appeared meanwhile; run again"):
        publish_too_late()
    assert (tmp_path / "1" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("name", [".hidden", "my model", "-x", "réseau", "x" * 129, "a\n"])
def test_a_name_that_no_server_reads_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PublishFailed, match="no server reads a model of this name"), write_aside(tmp_path / name, 1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_names_and_numbers_that_are_published_are_those_that_a_server_reads(tmp_path: Path) -> None:
    for name, version in (("x" * 128, 1), ("_a.b-c", 10**18 - 1)):
        with write_aside(tmp_path / name, version) as (aside, _):
            (aside / MODEL_FILE).write_text("x")
    assert [(folder.name, folder.version) for folder in scan(tmp_path).folders] == [
        ("_a.b-c", 10**18 - 1),
        ("x" * 128, 1),
    ]
    with (
        pytest.raises(PublishFailed, match="no server reads this version number; expected at most 999999999999999999"),
        write_aside(tmp_path / "_a.b-c", None),
    ):
        pass
    with pytest.raises(PublishFailed, match="no server reads this"), write_aside(tmp_path / "new" / "m", 10**18):
        pass
    assert not (tmp_path / "new").exists()
    assert passed_over(tmp_path) == {}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("9 requested and 4 written")],
    ids=["any", "NumPy"],
)
def test_a_disk_that_is_full_is_said_and_leaves_nothing(tmp_path: Path, error: OSError) -> None:
    with (
        pytest.raises(PublishFailed, match=r"m/1: cannot be published \((No space left on device|9 requested and 4 w)"),
        write_aside(tmp_path / "new" / "m", 1),
    ):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with (
        pytest.raises(PublishFailed, match=r"models.*: cannot be written \("),
        write_aside(tmp_path / "models" / "m", 1),
    ):
        pass


def test_other_data_than_the_runs_are_refused(tmp_path: Path, picture_run: Path) -> None:
    other = write_pictures(tmp_path / "other", per_class=4)
    with pytest.raises(
        RunInvalid, match=r"the training data of the run is sha256:.*, these data have sha256:.*; give --data"
    ):
        publish_run(picture_run, tmp_path / "models", None, other, _quiet)


@pytest.mark.parametrize(
    ("per_class", "message"),
    [
        (5, r"the test split of the run is sha256:.*, these data have sha256:"),
        (1, r"the size of the test split of the run is 50, these data have 10; give --data"),
    ],
)
def test_another_test_split_than_the_runs_is_refused(
    tmp_path: Path, pictures: Path, picture_run: Path, per_class: int, message: str
) -> None:
    other = shutil.copytree(pictures, tmp_path / "other")
    images, labels = picture_arrays(per_class, seed=9)
    np.savez(other / "test.npz", images=images, labels=labels)
    with pytest.raises(RunInvalid, match=message):
        publish_run(picture_run, tmp_path / "models", None, other, _quiet)
    assert not (tmp_path / "models").exists()


def test_a_run_with_another_vocabulary_is_refused(tmp_path: Path, sentence_run: Path) -> None:
    run = shutil.copytree(sentence_run, tmp_path / "run")
    tokenizer = json.loads((run / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: number and len(words) - number for word, number in words.items()}
    (run / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        RunInvalid, match=r"has a top-1 of .*%, but run\.json says .*%; its weights or its tokenizer have"
    ):
        publish_run(run, tmp_path / "models", None, None, _quiet)


def test_a_run_without_a_digest_of_its_test_split_can_be_published(tmp_path: Path, sentence_run: Path) -> None:
    run = shutil.copytree(sentence_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    del record["test_digest"]
    (run / "run.json").write_text(json.dumps(record))
    assert publish_run(run, tmp_path / "models", None, None, _quiet).name == "1"


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (9905, 10000, 0.98841, 0.99222), (5, 10, 0.2366, 0.7634)],
)
def test_the_wilson_interval(right: int, count: int, low: float, high: float) -> None:
    interval = score(right, count)
    assert interval.interval_low == pytest.approx(low, abs=1e-4)
    assert interval.interval_high == pytest.approx(high, abs=1e-4)
