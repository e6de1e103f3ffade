"""What batches cost is measured once a machine and kept beside the version, of which it is no part."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.harness import MODELS, ServerProcess, eventually


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns("cost.json")
    shutil.copytree(MODELS / "lenet5-mnist", repository / "lenet5-mnist", ignore=ignored)
    return repository


def test_a_restart_need_not_measure(repository: Path):
    table = repository / "lenet5-mnist" / "1" / "cost.json"
    with ServerProcess(repository, "grpcio"):
        kept = table.read_bytes()
    with ServerProcess(repository, "grpcio") as server:
        assert table.read_bytes() == kept
        assert not server.logged(str(table))


def test_a_damaged_table_is_measured_anew(repository: Path):
    table = repository / "lenet5-mnist" / "1" / "cost.json"
    table.write_text("{")
    with ServerProcess(repository, "grpcio") as server:
        assert "ignored, so costs are measured again" in server.wait_log(str(table))["message"]
        assert b"schema_version" in table.read_bytes()


def test_tables_may_lie_apart_and_need_not_lie_anywhere(repository: Path, tmp_path: Path):
    folder = tmp_path / "costs"
    with ServerProcess(repository, "grpcio", "--cost-folder", str(folder)):
        assert len(list(folder.iterdir())) == 1
    assert not (repository / "lenet5-mnist" / "1" / "cost.json").exists()
    with ServerProcess(repository, "grpcio", "--cost-folder", "/proc/nowhere") as server:
        assert "so every start measures" in server.wait_log("/proc/nowhere")["message"]


def test_keeping_a_table_reloads_nothing(repository: Path):
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(repository, "grpcio", *flags) as server:
        (repository / "lenet5-mnist" / "1" / "cost.json").write_text("{}")
        shutil.copytree(repository / "lenet5-mnist", repository / "another")  # proof that somebody looked since

        def loaded() -> list[str]:
            return [entry["model"] for entry in server.logged("model version is READY")]

        eventually(lambda: "another" in loaded(), "it is loaded")
        assert loaded() == ["lenet5-mnist", "another"]
