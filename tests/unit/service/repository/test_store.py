from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import SettingsError
from service.repository import store
from service.repository.store import Contents, VersionFolder, fingerprint, hint_above, passed_over, scan


def add(root: Path, *places: str) -> None:
    for place in places:
        (root / place).mkdir(parents=True)
        (root / place / "model.onnx").touch()


def found(root: Path) -> list[str]:
    return [f"{folder.name}/{folder.version}" for folder in scan(root).folders]


def test_versions_are_found_in_order(tmp_path: Path) -> None:
    add(tmp_path, "b/10", "b/9", "a/1")
    assert scan(tmp_path).folders[0] == VersionFolder("a", 1, tmp_path / "a" / "1")
    assert found(tmp_path) == ["a/1", "b/9", "b/10"]


def test_an_empty_repository_holds_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path) == Contents([], {})


@pytest.mark.parametrize(
    "version", ["0", "01", "-1", "+1", "1.0", "v1", "1 ", "latest", "\u0663", "1" + "0" * 18, ".1"]
)
def test_folders_that_are_no_positive_integer_are_not_versions(tmp_path: Path, version: str) -> None:
    add(tmp_path, f"m/{version}", "m/3")
    assert found(tmp_path) == ["m/3"]


def test_the_greatest_version_fits_sixty_four_bits(tmp_path: Path) -> None:
    add(tmp_path, "m/" + "9" * 18)
    assert scan(tmp_path).folders[0].version == 10**18 - 1


@pytest.mark.parametrize("name", [".hidden", ".m.writing", "-dash", "two words", "ümlaut", "a,b", "a" * 129])
def test_odd_names_are_not_models(tmp_path: Path, name: str) -> None:
    add(tmp_path, f"{name}/1", "m/1")
    assert found(tmp_path) == ["m/1"]


@pytest.mark.parametrize("name", ["lenet5-mnist", "resnet_50.v1", "7", "_m", "a" * 128])
def test_plain_names_are_models(tmp_path: Path, name: str) -> None:
    add(tmp_path, f"{name}/1")
    assert found(tmp_path) == [f"{name}/1"]


def test_files_are_neither_models_nor_versions(tmp_path: Path) -> None:
    add(tmp_path, "m/1")
    (tmp_path / "README").touch()
    (tmp_path / "m" / "2").touch()
    (tmp_path / "m" / "serving.toml").touch()
    assert found(tmp_path) == ["m/1"]


def test_a_version_needs_a_model_file(tmp_path: Path) -> None:
    add(tmp_path, "m/1")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "3" / "model.onnx").mkdir(parents=True)
    assert found(tmp_path) == ["m/1"]


def test_links_are_followed_and_broken_ones_told(tmp_path: Path) -> None:
    add(tmp_path, "elsewhere/m/1", "elsewhere/m/4")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "m").symlink_to(tmp_path / "elsewhere" / "m")
    (repository / "broken").symlink_to(tmp_path / "nowhere")
    (repository / "loop").symlink_to(repository / "loop")
    (repository / "README").symlink_to(repository / "m" / "1" / "model.onnx")
    (tmp_path / "elsewhere" / "m" / "2").symlink_to(tmp_path / "nowhere")
    (tmp_path / "elsewhere" / "m" / "3").mkdir()
    (tmp_path / "elsewhere" / "m" / "3" / "model.onnx").symlink_to(tmp_path / "nowhere")
    assert found(repository) == ["m/1", "m/2", "m/3", "m/4"], "loading one says that it leads nowhere"
    assert scan(repository).unreadable == {
        "broken": "No such file or directory",
        "loop": "Too many levels of symbolic links",
    }


def refuse(monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, *places: str) -> None:
    """Have a function refused at these places, as root, who may read all, is refused by a broken disk."""
    original = getattr(owner, function)

    def refusing(path: Any, *args: Any, **kwargs: Any) -> Any:
        if os.fspath(path) in places:
            raise PermissionError(13, "Permission denied", path)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(owner, function, refusing)


def test_a_model_that_cannot_be_read_is_told_and_the_others_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "a/1", "b/1", "b/v2")
    refuse(monkeypatch, Path, "iterdir", f"{tmp_path}/a")
    assert found(tmp_path) == ["b/1"]
    assert scan(tmp_path).unreadable == {"a": "Permission denied"}
    assert list(passed_over(tmp_path)) == ["b/v2"]


def test_a_version_that_cannot_be_looked_at_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "a/1", "a/2")
    refuse(monkeypatch, os, "stat", f"{tmp_path}/a/2/model.onnx")
    assert found(tmp_path) == ["a/1", "a/2"]
    assert passed_over(tmp_path) == {}


def test_a_model_that_lets_nobody_in_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "a/1", "b/1")
    refuse(monkeypatch, os, "stat", f"{tmp_path}/a/1/model.onnx", f"{tmp_path}/a/.")
    assert found(tmp_path) == ["b/1"]
    assert scan(tmp_path).unreadable == {"a": "Permission denied"}


@pytest.mark.parametrize("how", ["a link", "a rename"])
def test_a_model_that_is_replaced_while_it_is_looked_at_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    add(tmp_path, ".old/1", ".new/2")
    model, new = tmp_path / "a", tmp_path / ".new"
    if how == "a link":  # as a ConfigMap's `..data`
        model.symlink_to(".old")
        new = tmp_path / ".link"
        new.symlink_to(".new")
    else:
        (tmp_path / ".old").rename(model)
    iterdir = Path.iterdir

    def replacing(path: Path) -> Iterator[Path]:
        entries = [*iterdir(path)]
        if path == model and new.exists():
            if how == "a rename":
                model.rename(tmp_path / ".old")
            new.replace(model)
        return iter(entries)

    monkeypatch.setattr(Path, "iterdir", replacing)
    assert found(tmp_path) == ["a/2"]


def test_a_model_whose_versions_come_and_go_all_the_time_is_looked_at_no_longer_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "a/1")
    iterdir = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda path: iter([*iterdir(path), *([path / "2"] if path.name == "a" else [])])
    )
    assert found(tmp_path) == ["a/1"]


def test_a_repository_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: No such file or directory"):
        scan(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="file: Not a directory"):
        scan(tmp_path / "file")


def test_a_fingerprint_tells_every_change_of_what_is_loaded(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/2")
    first, second = scan(tmp_path).folders
    seen = [fingerprint(first)]
    assert fingerprint(first) == seen[0]
    (first.path / "labels.txt").write_text("cat\n")
    seen.append(fingerprint(first))
    (first.path / "labels.txt").write_text("cats\n")
    seen.append(fingerprint(first))
    (first.path.parent / "serving.toml").touch()
    seen.append(fingerprint(first))
    os.utime(first.path / "model.onnx", (1, 1))
    seen.append(fingerprint(first))
    assert len(set(seen)) == len(seen)
    other = fingerprint(second)
    (first.path / "more").touch()
    assert fingerprint(second) == other


def test_what_vanishes_is_a_change_and_no_error(tmp_path: Path) -> None:
    add(tmp_path, "m/1")
    (folder,) = scan(tmp_path).folders
    (folder.path / "broken").symlink_to(tmp_path / "nowhere")
    assert [name for name, *_ in fingerprint(folder)] == ["model.onnx"]
    shutil.rmtree(folder.path)
    assert fingerprint(folder) == ()


def test_to_be_let_read_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions alone change neither size nor time, and whoever mends them expects it to be tried again."""
    add(tmp_path, "m/1")
    (folder,) = scan(tmp_path).folders
    readable = fingerprint(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != folder.path / "model.onnx" or mode != os.R_OK)
        assert fingerprint(folder) != readable
    assert fingerprint(folder) == readable


def test_a_file_is_told_from_another_of_the_same_size_and_time(tmp_path: Path) -> None:
    """As ``cp -p`` or ``rsync -t`` put it there, or a build that gives all its files the time 0."""
    add(tmp_path, "m/1")
    (folder,) = scan(tmp_path).folders
    file, other = folder.path / "model.onnx", tmp_path / "other"
    os.utime(file, (0, 0))
    before = fingerprint(folder)
    while other.touch() or other.stat().st_ctime_ns == file.stat().st_ctime_ns:  # the kernel's clock ticks
        pass
    os.utime(other, (0, 0))
    other.rename(file)
    (now,) = fingerprint(folder)
    assert now[:3] == before[0][:3]
    assert now != before[0]


def test_what_is_not_served_is_named_with_why(tmp_path: Path) -> None:
    add(tmp_path, "two words/1", "good/1", "good/v2", "named/01", ".hidden/1", "good/.3")
    for folder in ("good/3", "good/assets", "empty", "-no-model", "cut/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "good" / "config.pbtxt").touch()
    (tmp_path / "README").touch()
    told = passed_over(tmp_path)
    assert {place: why[:25] for place, why in told.items()} == {
        "cut/1": "it holds no model.onnx",
        "empty": "it holds no VERSION/model",
        "good/3": "it holds no model.onnx",
        "good/config.pbtxt": "Triton's settings are not",
        "good/v2": "a version's name is a pos",
        "named/01": "a version's name is a pos",
        "two words": "a model's name has at mos",
    }
    assert found(tmp_path) == ["good/1"]


def test_of_what_is_served_nothing_is_named(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/2", "n/1")
    (tmp_path / "m" / "serving.toml").touch()
    assert passed_over(tmp_path) == {}
    with pytest.raises(SettingsError, match="nowhere: No such file or directory"):
        passed_over(tmp_path / "nowhere")


def test_a_hint_at_the_repository_needs_no_right_to_look_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "m/1")
    assert hint_above(tmp_path / "m") == f"; did you mean --models {tmp_path}?"

    def refuse(root: Path) -> Contents:
        raise SettingsError(f"model repository {root}: Permission denied")

    monkeypatch.setattr(store, "scan", refuse)
    assert hint_above(tmp_path / "m") == ""
