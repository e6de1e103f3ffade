"""A version that was published before gets its digests, if it proves to be what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from export.cli import main
from export.errors import VerificationFailed
from export.recipe import find_recipe
from export.seal import seal_version
from service.errors import ManifestInvalid
from service.golden import Golden, write_golden
from service.manifest import MODEL_FILE, Dataset, Provenance, read_manifest, write_manifest
from service.repository.store import VersionFolder
from tests.unit.service.samples import GOLDEN_IMAGES, manifest, picture_golden, write_picture_version


def sealed_lines(folder: VersionFolder) -> list[str]:
    lines: list[str] = []
    seal_version(folder.path, lines.append)
    return lines


def test_its_manifest_alone_changes_and_says_so(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    before = read_manifest(folder.path)
    others = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.name != "manifest.json"}
    lines = sealed_lines(folder)
    after = read_manifest(folder.path)
    assert (before.schema_version, after.schema_version) == (1, 2)
    assert sorted(after.digests or ()) == ["golden.npz", "labels.txt"]
    assert after.model_digest == before.model_digest
    assert {path.name: path.read_bytes() for path in folder.path.iterdir() if path.name in others} == others
    assert len(os.listdir(folder.path)) == len(others) + 1, "nothing is left behind"
    assert lines[0].endswith("check that these labels are in class order: zero, one, two")
    assert lines[1].endswith("sealed with digests of golden.npz, labels.txt")


def test_one_that_has_them_is_held_to_them(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    sealed_lines(folder)
    before = (folder.path / "manifest.json").read_bytes()
    assert sealed_lines(folder) == [f"{folder.path}: already has digests of golden.npz, labels.txt, and they match"]
    (folder.path / "labels.txt").write_text("two\none\nzero\n")
    with pytest.raises(ManifestInvalid, match=r"labels\.txt: has digest"):
        sealed_lines(folder)
    assert (folder.path / "manifest.json").read_bytes() == before


def test_one_that_does_not_answer_as_it_did_stays_as_it_is(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    golden = picture_golden()
    write_golden(Golden(golden.raw, (GOLDEN_IMAGES,), (golden.outputs[0] + 0.1,)), folder.path / "golden.npz")
    with pytest.raises(VerificationFailed, match="a probability of the graph is off by"):
        sealed_lines(folder)
    assert read_manifest(folder.path).schema_version == 1


def test_another_model_file_is_not_sealed(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path, model_digest="sha256:other")
    with pytest.raises(VerificationFailed, match=rf"{MODEL_FILE}: digest is .*, the manifest says sha256:other"):
        sealed_lines(folder)


def test_labels_that_are_not_the_recipes_are_not_sealed(tmp_path: Path) -> None:
    recipe = find_recipe("lenet5-mnist")
    provenance = Provenance("sums", recipe.name, 7, Dataset("toy", "sha256:00"), {}, "abc", "2026-01-02T03:04:05Z")
    folder = write_picture_version(tmp_path, provenance=provenance)
    with pytest.raises(VerificationFailed, match=r"labels are zero, one, two; the recipe has 0, 1, "):
        sealed_lines(folder)
    assert read_manifest(folder.path).schema_version == 1


def test_the_command_takes_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_picture_version(tmp_path, version=number).path for number in (1, 2)]
    assert main(["seal", *map(str, folders)]) == 0
    assert capsys.readouterr().out.count("sealed with digests") == 2
    write_manifest(manifest(model_digest="sha256:other"), folders[1])
    assert main(["seal", *map(str, folders)]) == 2
