"""What is served is what was proven: labels, tokenizer, golden vectors and weights beside model.onnx, too."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.digests import check_digests, sealed
from service.errors import GraphInvalid, LoadError, ManifestInvalid
from service.manifest import Manifest, file_digest, read_manifest, write_manifest
from service.metrics import Metrics
from service.repository.loading import load
from service.repository.store import VersionFolder
from service.settings import Settings
from tests.unit.service.samples import (
    graph_model,
    manifest,
    write_model,
    write_picture_version,
    write_sentence_version,
)

SETTINGS = Settings(device="cpu", instances=1, intra_op_threads=1)


def seal(folder: VersionFolder) -> Manifest:
    made = sealed(read_manifest(folder.path), folder.path)
    write_manifest(made, folder.path)
    return made


def refusal(folder: VersionFolder, kind: type[LoadError]) -> str:
    with pytest.raises(kind) as caught:
        load(folder, SETTINGS, Metrics("0", "test"))
    return str(caught.value)


def test_every_file_of_a_version_has_one(tmp_path: Path) -> None:
    folder = write_sentence_version(tmp_path)
    made = seal(folder)
    assert made.schema_version == 2
    assert made.digests == {
        name: file_digest(folder.path / name) for name in ("golden.npz", "labels.txt", "tokenizer.json")
    }
    servable = load(folder, SETTINGS, Metrics("0", "test"))
    servable.batcher.close()
    assert servable.manifest == made
    assert servable.digest == file_digest(folder.path / "model.onnx")


@pytest.mark.parametrize("name", ["labels.txt", "tokenizer.json", "golden.npz"])
def test_another_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_sentence_version(tmp_path)
    seal(folder)
    path = folder.path / name
    path.write_bytes(path.read_bytes() + b"\n")
    assert refusal(folder, ManifestInvalid).startswith(f"{path}: has digest sha256:")
    path.unlink()
    assert refusal(folder, ManifestInvalid) == f"{path}: no such file"


@pytest.mark.parametrize(("name", "kind"), [("model.onnx", GraphInvalid), ("golden.npz", ManifestInvalid)])
def test_a_file_that_git_lfs_has_not_fetched_is_named_so(name: str, kind: type[LoadError], tmp_path: Path) -> None:
    folder = write_sentence_version(tmp_path)
    seal(folder)
    (folder.path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert refusal(folder, kind).endswith("; it is a Git LFS pointer, not the file itself: run `git lfs pull`")


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    labels = folder.path / "labels.txt"
    seal(folder)
    labels.write_text("".join(f"{label}\n" for label in reversed(labels.read_text().split())))
    assert "labels.txt: has digest" in refusal(folder, ManifestInvalid)


def test_a_version_published_before_is_served_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_picture_version(tmp_path)
    assert read_manifest(folder.path).schema_version == 1
    with caplog.at_level(logging.WARNING):
        load(folder, SETTINGS, Metrics("0", "test")).batcher.close()
    assert "labels.txt, golden.npz have no digest" in caplog.text
    caplog.clear()
    seal(folder)
    with caplog.at_level(logging.WARNING):
        load(folder, SETTINGS, Metrics("0", "test")).batcher.close()
    assert caplog.text == ""


def with_weights_beside(root: Path, location: str = "weights.bin") -> VersionFolder:
    """Publish ``y`` = ``x`` + ``weights``, these in a file of their own."""
    tensors = [(name, TensorProto.FLOAT, ("N", 1000)) for name in ("x", "y")]
    model = graph_model(
        [helper.make_node("Add", ["x", "weights"], ["y"])],
        tensors[:1],
        tensors[1:],
        {"weights": np.ones(1000, np.float32)},
    )
    folder = write_model(root, model)
    (folder.path / location).parent.mkdir(exist_ok=True)
    onnx.save(model, folder.path / "model.onnx", save_as_external_data=True, location=location)
    return folder


def test_weights_beside_the_model_file_have_one_too(tmp_path: Path) -> None:
    folder = with_weights_beside(tmp_path)
    (folder.path / "golden.npz").touch()
    plain = manifest(
        labels_file=None,
        task="tensor",
        preprocessing=None,
        model_digest=file_digest(folder.path / "model.onnx"),
    )
    with pytest.raises(GraphInvalid, match=r"has weights in 'weights\.bin', for which the manifest has no digest"):
        check_digests(plain, folder.path)
    made = sealed(plain, folder.path)
    assert list(made.digests or ()) == ["golden.npz", "weights.bin"]
    check_digests(made, folder.path)
    (folder.path / "weights.bin").write_bytes(np.zeros(1000, np.float32).tobytes())
    with pytest.raises(ManifestInvalid, match=r"weights\.bin: has digest"):
        check_digests(made, folder.path)


def test_weights_in_another_folder_are_not_sealed(tmp_path: Path) -> None:
    """A manifest that names them could not be read."""
    folder = with_weights_beside(tmp_path, "weights/all.bin")
    plain = manifest(labels_file=None, task="tensor", preprocessing=None)
    with pytest.raises(GraphInvalid, match=r"has weights in 'weights/all\.bin': save them in a file beside it"):
        sealed(plain, folder.path)


def test_without_a_manifest_weights_beside_it_are_served_unverified(tmp_path: Path) -> None:
    servable = load(with_weights_beside(tmp_path), SETTINGS, Metrics("0", "test"))
    servable.batcher.close()
    assert not servable.verified


def test_another_model_file_is_refused(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    made = dataclasses.replace(seal(folder), model_digest="sha256:other")
    with pytest.raises(GraphInvalid, match="the manifest says sha256:other"):
        check_digests(made, folder.path)
