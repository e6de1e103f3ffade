"""Mode poll under an operator's habits: folders and files are replaced under traffic, and no call is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.integration import graphs
from tests.integration.harness import ServerProcess, eventually
from tests.integration.test_repository_calls import Callers, index, publish, wait_version

POLL = ("--model-control-mode", "poll", "--repository-poll-seconds")
MISSED = "what serves is missing on disk"


def test_a_folder_that_a_look_misses_while_it_is_replaced_costs_no_call(tmp_path: Path, transport: str):
    # Seconds between looks: on a busy machine, too, the gap must end before the second look.
    root, aside = tmp_path / "models", tmp_path / "aside"
    root.mkdir()
    publish(root, "a", 1, graphs.add_sub(offset=100))
    publish(root, "b", 1, graphs.add_sub())
    with ServerProcess(root, transport, *POLL, "1") as server, Callers(server, threads=1) as callers:
        for version in (2, 3):
            new = tmp_path / "new"
            graphs.write(new, "a", graphs.add_sub(offset=100.0 * version), version=version)
            (root / "a").rename(aside)
            missed = [["a", "a/1"], ["a", "a/2"]][: version - 1]
            eventually(lambda missed=missed: [entry["places"] for entry in server.logged(MISSED)] == missed, "a look")
            (new / "a").rename(root / "a")
            wait_version(server, version)
            shutil.rmtree(aside)
        eventually(lambda: index(server) == {"a/3": ("READY", ""), "b/1": ("READY", "")}, "the old ones are forgotten")
    assert callers.failures == []
    assert all(total == 100 * int(version) + 2 for version, total in callers.sums)


def test_a_file_of_the_same_size_and_time_is_followed_and_one_that_was_touched_is_not(tmp_path: Path, transport: str):
    """As builds that give all files the time 0 put them there, and as chmod, touch and backups by hard links do."""
    root = tmp_path / "models"
    root.mkdir()
    publish(root, "a", 1, graphs.add_sub(offset=100))
    model, other = root / "a" / "1" / "model.onnx", tmp_path / "other"
    other.write_bytes(graphs.add_sub(offset=200).SerializeToString())
    for file in (model, other):
        os.utime(file, (0, 0))
    with ServerProcess(root, transport, *POLL, "0.1") as server, Callers(server) as callers:
        eventually(lambda: callers.sums, "it serves")
        assert other.stat().st_size == model.stat().st_size
        other.rename(model)
        eventually(lambda: callers.sums[-1][1] == 202, "the other one serves")
        model.chmod(0o644)
        os.link(model, tmp_path / "backup")
        os.utime(model)
        for name in ("b", "c"):  # bare graphs, which load at the second look
            publish(root, name, 1, graphs.add_sub())
            server.client.wait_ready(name)
        loaded = [entry["model"] for entry in server.logged("model version is READY")]
    assert loaded == ["a", "a", "b", "c"]
    assert callers.failures == []
    assert {total for _, total in callers.sums} == {102, 202}
