"""Profiles written, read, shown and drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.errors import OptionsInvalid
from bench.profile import table
from bench.profile.flame import svg
from bench.profile.phases import Phase
from bench.profile.results import Profile, Profiles
from bench.profile.split import Cost
from bench.run_folder import RunFolder

PHASES = {str(phase): 0.0 for phase in Phase} | {"HTTP/2": 10.0, "inference (ONNX Runtime)": 30.0}
ONE = Profile("m", 1, "native", "h2load", "abc", 1000, 5000.0, 0.2, 1.0, 0.0, 40.0, PHASES, {"instances": 30.0},
              28.0, (45.0, 44.0), (900, 80))  # fmt: skip
MORE = dataclasses.replace(ONE, in_flight=16, per_second=20_000.0, rows_a_batch=8.2)


def profiles() -> Profiles:
    return Profiles({"cpu": "A CPU", "cores": 2, "memory_gb": 8, "kernel": "Linux"}, "2026-01-02T03:04:05", [ONE, MORE])


def test_what_is_written_is_read(tmp_path: Path):
    run = RunFolder(tmp_path, "profile")
    profiles().write(run)
    again = Profiles.read(run)
    assert again.date == profiles().date
    assert [dataclasses.asdict(one) | {"sampled_us": [45.0, 44.0], "samples": [900, 80]} for one in (ONE, MORE)] == [
        dataclasses.asdict(one) for one in again.profiles
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no results of profile"),
        ("[" * 100_000, "no results of profile"),
        ('{"machine": {}, "date": "", "profiles": [{}]}', "no results of profile"),
        (None, "No such file"),
    ],
)
def test_another_file_is_told(tmp_path: Path, text: str | None, message: str):
    run = RunFolder(tmp_path, "profile")
    if text is not None:
        run.results.write_text(text)
    with pytest.raises(OptionsInvalid, match=message):
        Profiles.read(run)


def test_phases_of_another_time_are_told(tmp_path: Path):
    run = RunFolder(tmp_path, "profile")
    profiles().write(run)
    run.results.write_text(json.dumps(json.loads(run.results.read_text())).replace("HTTP/2", "HTTP/9"))
    with pytest.raises(OptionsInvalid, match="no phase 'HTTP/9'"):
        Profiles.read(run)


def test_a_new_profile_takes_the_place_of_the_old_one():
    them = profiles()
    newer = dataclasses.replace(ONE, per_second=1.0)
    other_door = dataclasses.replace(ONE, transport="grpcio")
    them.put(newer)
    them.put(other_door)
    assert them.profiles == [newer, MORE, other_door]


def test_the_table_has_a_column_a_load_and_what_to_compare_with():
    ((title, rows),) = table.tables(profiles())
    assert title == "m: CPU us of the server for an inference, and its share"
    shown = {row[0]: row[1:] for row in rows}
    assert shown[""] == ["1 in flight", "16 in flight"]
    assert shown["HTTP/2"] == ["10.0 (25 %)", "10.0 (25 %)"]
    assert "check, admit, queue" not in shown  # nobody has any
    assert shown["all but inference"] == ["10.0", "10.0"]
    assert shown["ONNX Runtime alone, same batch"] == ["28.0", "28.0"]
    assert shown["rows a batch"] == ["1.0", "8.2"]
    assert table.shown(profiles(), "text").count("\n\n") == 1
    assert table.shown(profiles(), "markdown").startswith("**m: CPU us")
    assert table.measured_on(profiles()) == (
        "Measured 2026-01-02: A CPU, 2 cores, 8 GB, Linux; convserve at abc; asked by h2load."
    )


def test_the_flame_graph_is_as_wide_as_the_cpu():
    costs = [
        Cost(("instances", "run <x> (service/a.py:1)", "inner (service/a.py:9)"), Phase.MODEL, 60.0),
        Cost(("instances", "run <x> (service/a.py:1)"), Phase.BATCH, 15.0),
        Cost(("intake",), Phase.INTAKE, 24.99),
        Cost(("watchdog",), Phase.OTHER, 0.01),  # too narrow to be seen
    ]
    drawn = ElementTree.fromstring(svg(costs, "m & n"))
    space = "{http://www.w3.org/2000/svg}"
    boxes = {}
    for group in drawn.iter(f"{space}g"):
        title, shape = group.find(f"{space}title"), group.find(f"{space}rect")
        assert title is not None
        assert shape is not None
        boxes[str(title.text).rpartition(": ")[0]] = {name: shape.get(name) for name in ("x", "y", "width", "fill")}
    widths = {name: float(str(box["width"])) for name, box in boxes.items()}
    assert widths == {
        "the server": 1200.0,
        "instances": 900.0,
        "run <x> (service/a.py:1)": 900.0,
        "inner (service/a.py:9)": 720.0,
        "intake": 299.9,
    }
    assert (boxes["instances"]["x"], boxes["intake"]["x"]) == ("0.0", "900.0")
    assert boxes["inner (service/a.py:9)"]["fill"] != boxes["instances"]["fill"]  # of several phases
