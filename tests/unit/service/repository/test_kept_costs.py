from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.choice import Layout
from service.repository import store
from service.repository.kept_costs import Entry, KeptCosts, Key, LayoutCosts, machine, summarise
from service.repository.store import VersionFolder

KEY = Key("cpu", "onnxruntime 1.0", "a processor, 2 cores", "sha256:1234")
BUCKETS = (1, 2, 4)
MEASURED = {None: [[1.0, 3.0, 2.0], [4.0], [5.0, 6.0]]}


def entry(key: Key = KEY) -> Entry:
    return Entry(key, "CPUExecutionProvider", (summarise(Layout(2, 1), MEASURED, BUCKETS),))


def kept(folder: Path) -> KeptCosts:
    return KeptCosts(folder, KEY.model_digest)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    assert kept(tmp_path).read(KEY) is None
    assert kept(tmp_path).write(entry())
    found = kept(tmp_path).read(KEY)
    assert found == entry()
    table = found.of(Layout(2, 1))
    assert table is not None
    assert table.samples([None], BUCKETS) == {None: [[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [5.0, 5.5, 6.0]]}
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_any_samples_can_be_kept(tmp_path_factory: pytest.TempPathFactory, samples: list[float]) -> None:
    folder = tmp_path_factory.mktemp("v")
    table = summarise(Layout(1, 1), {16: [samples]}, [1])
    least, median, high = table.costs[0].seconds
    assert 0 < least <= median <= high
    assert kept(folder).write(Entry(KEY, "CPU", (table,)))
    assert kept(folder).read(KEY) == Entry(KEY, "CPU", (table,))


def test_of_many_samples_the_slowest_are_not_kept() -> None:
    """Else one pause of the machine among hundreds of runs would be a bound for good."""
    hundred = [float(number) for number in range(1, 101)]
    assert summarise(Layout(1, 1), {None: [hundred]}, [1]).costs[0].seconds == (1.0, 50.5, 96.0)


def test_a_table_without_a_cell_that_is_needed_is_none() -> None:
    table = summarise(Layout(1, 1), MEASURED, BUCKETS)
    assert table.samples([None], [1, 8]) is None
    assert table.samples([16], [1]) is None


@pytest.mark.parametrize("changed", ["device", "runtime", "machine", "model_digest"])
def test_a_foreign_table_is_ignored_with_a_line_and_left_in_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: str
) -> None:
    caplog.set_level(logging.INFO)
    other = Key(**{**{name: getattr(KEY, name) for name in Key.__slots__}, changed: "another"})
    kept(tmp_path).write(entry(other))
    assert kept(tmp_path).read(KEY) is None
    assert "costs are kept only for other machines or models" in caplog.text
    kept(tmp_path).write(entry())
    assert kept(tmp_path).read(KEY) == entry()
    assert kept(tmp_path).read(other) == entry(other)


def test_where_there_is_no_foreign_table_none_is_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept(tmp_path).read(KEY)
    kept(tmp_path).write(entry())
    kept(tmp_path).read(KEY)
    assert not caplog.records


def test_machines_that_share_a_repository_do_not_fill_it(tmp_path: Path) -> None:
    keys = [Key("cpu", "r", f"machine {number}", "sha256:1234") for number in range(20)]
    for key in (*keys, keys[-1]):  # which replaces its own alone
        kept(tmp_path).write(entry(key))
    assert [kept(tmp_path).read(key) is not None for key in keys] == [False] * 12 + [True] * 8


GOOD: dict[str, Any] = {"group": None, "bucket": 1, "seconds": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"schema_version": 1, "entries": []}).encode(),
        json.dumps({"schema_version": 2, "entries": [], "more": 1}).encode(),
        *(
            json.dumps(
                {
                    "schema_version": 2,
                    "entries": [
                        {
                            "key": {"device": "cpu", "runtime": "r", "machine": "m", "model_digest": "d"},
                            "provider": "CPU",
                            "layouts": [{"instances": 1, "threads": 1, "costs": [GOOD | change]}],
                        }
                    ],
                }
            ).encode()
            for change in (
                {"seconds": [3.0, 2.0, 1.0]},
                {"seconds": [2.0, 1.0, 3.0]},
                {"seconds": [1.0, 3.0, 2.0]},
                {"seconds": [0.0, 1.0, 2.0]},
                {"seconds": [1.0]},
                {"seconds": [1.0, float("nan"), 2.0]},
                {"seconds": "soon"},
                {"bucket": "one"},
            )
        ),
    ],
)
def test_a_damaged_table_is_ignored_with_a_line_and_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    (tmp_path / "cost.json").write_bytes(damaged)
    assert kept(tmp_path).read(KEY) is None
    assert "ignored, so costs are measured again" in caplog.text
    assert kept(tmp_path).write(entry())
    assert kept(tmp_path).read(KEY) == entry()


def test_a_pipe_for_a_table_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cost.json")
    assert kept(tmp_path).read(KEY) is None
    assert kept(tmp_path).write(entry())
    assert kept(tmp_path).read(KEY) == entry()


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not kept(tmp_path / "nowhere").write(entry())
    (tmp_path / "cost.json").mkdir()  # even root cannot replace a folder by a file
    assert kept(tmp_path).read(KEY) is None
    assert not kept(tmp_path).write(entry())
    assert caplog.text.count("so every start measures") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.parametrize("damaged", [True, False])
def test_what_is_read_again_and_again_is_spoken_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bool
) -> None:
    """A server whose cores are never idle looks every second whether there are costs of batches that run alone."""
    caplog.set_level(logging.INFO)
    if damaged:
        (tmp_path / "cost.json").write_bytes(b"{")
    else:
        kept(tmp_path).write(entry(Key("cpu", "r", "another machine", "sha256:1234")))
    costs = kept(tmp_path)
    assert [costs.read(KEY) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1


def test_a_folder_of_its_own_is_made_and_holds_tables_by_model(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "costs"
    apart = KeptCosts(tmp_path, KEY.model_digest, str(folder))
    assert apart.write(entry())
    assert apart.write(entry())
    assert [path.name for path in folder.iterdir()] == ["sha256-1234.json"]
    assert KeptCosts(tmp_path / "copy", KEY.model_digest, str(folder)).read(KEY) == entry()


def test_one_layout_replaces_its_own_table_only() -> None:
    more = entry().updated(summarise(Layout(1, 2), MEASURED, BUCKETS))
    assert [table.layout for table in more.layouts] == [Layout(2, 1), Layout(1, 2)]
    again = more.updated(LayoutCosts(2, 1, ()))
    assert {table.layout: len(table.costs) for table in again.layouts} == {Layout(1, 2): 3, Layout(2, 1): 0}


def test_keeping_a_table_is_no_change_of_the_version(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    folder = VersionFolder("m", 1, tmp_path)
    before = store.fingerprint(folder)
    kept(tmp_path).write(entry())
    (tmp_path / ".cost.json.1-2").write_bytes(b"on its way")
    assert store.fingerprint(folder) == before


def test_the_machine_has_a_name() -> None:
    assert machine().endswith("cores")


def test_tables_of_batches_that_are_alone_stand_apart(tmp_path: Path) -> None:
    first, second = (summarise(Layout(1, 2), {None: [[seconds]]}, [1]) for seconds in (1.0, 2.0))
    both = entry().updated(first).updated_lone(second)
    assert kept(tmp_path).write(both)
    found = kept(tmp_path).read(KEY)
    assert found is not None
    assert (found.of(Layout(1, 2)), found.lone_of(2), found.lone_of(4)) == (first, second, None)
    assert found.updated_lone(first).lone_of(2) == first
