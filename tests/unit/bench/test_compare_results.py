from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

import pytest

from bench.compare import table
from bench.compare.results import About, FailureRow, LoadRow, Results, Spread, StartRow, Turn, summaries
from bench.compare.stand import interleaved
from bench.errors import OptionsInvalid
from bench.profile.results import Profiles
from bench.run_folder import RunFolder


def load(peer: str, round_: int, per_second: float, cpu_us: float, in_flight: int = 16, model: str = "m") -> LoadRow:
    return LoadRow(
        peer, model, round_, in_flight, "h2load", "abc", 1000, per_second, 1.0, 2.0, cpu_us, 100_000_000, 80_000_000
    )


def results() -> Results:
    return Results(
        machine={"cpu": "A CPU", "cores": 2, "memory_gb": 8, "kernel": "Linux 6"},
        runs=[{"date": "2026-01-01T10:00:00+00:00"}, {"date": "2026-01-03T10:00:00+00:00"}],
        peers={
            "bare-1-thread": About("one thread", {"onnxruntime": "1.2"}, 50_000_000),
            "convserve": About("as it comes", {"convserve": "0.1"}, 200_000_000),
            "other": About("to its best", {"other": "3"}, None),
            "absent": About("to its best", {}, None),
        },
        loads=[
            load("bare-1-thread", 0, 2000.0, 20.0),
            load("convserve", 0, 1000.0, 40.0),
            load("other", 0, 900.0, 30.0),
            load("convserve", 1, 1200.0, 42.0),
            load("other", 1, 1100.0, 31.0),
            load("convserve", 2, 800.0, 41.0),
            load("other", 2, 1150.0, 32.0),
        ],
        starts=[StartRow("convserve", "m", 0, "abc", 0.8, 90_000_000, 70_000_000)],
        failures=[FailureRow("absent", "m", 0, "not installed: no such | package")],
    )


@pytest.mark.parametrize("kept", [results(), Profiles(date="2026-01-01")])
def test_a_write_that_breaks_off_leaves_what_was_there(
    kept: Results | Profiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def break_off(file: Path, text: str) -> None:
        file.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    run = RunFolder(tmp_path, "compare")
    kept.write(run)
    before = run.results.read_text()
    kept.machine = {"cpu": "another"}
    monkeypatch.setattr(Path, "write_text", break_off)
    with pytest.raises(KeyboardInterrupt):
        kept.write(run)
    assert run.results.read_text() == before


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "tables.md").mkdir()
    with pytest.raises(OptionsInvalid, match=r"tables\.md: Is a directory; give another --out"):
        RunFolder(tmp_path, "compare").write("tables.md", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["tables.md"]


def test_rounds_are_interleaved_within_a_model():
    turns = interleaved(["a", "b"], ["m", "n"], rounds=2, first_round=5)
    assert [(turn.model, turn.round, turn.peer) for turn in turns] == [
        ("m", 5, "a"), ("m", 5, "b"), ("m", 6, "a"), ("m", 6, "b"),
        ("n", 5, "a"), ("n", 5, "b"), ("n", 6, "a"), ("n", 6, "b"),
    ]  # fmt: skip
    assert turns[0] == Turn(round=5, model="m", peer="a")


def test_a_median_has_its_spread():
    found = {group.peer: group for group in summaries(results().loads)}
    assert found["convserve"]["per_second"] == Spread(median=1000.0, low=800.0, high=1200.0, count=3)
    assert found["convserve"]["cpu_us"] == Spread(median=41.0, low=40.0, high=42.0, count=3)
    assert (found["other"].model, found["other"].in_flight, found["other"].clients) == ("m", 16, ("h2load",))


def test_what_is_written_is_read_again(tmp_path: Path):
    run = RunFolder(tmp_path, "compare")
    results().write(run)
    assert Results.read(run) == results()
    Results().write(run)
    assert Results.read(run) == Results()


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, "{}", '{"machine": {}, "runs": [], "peers": {}, "loads": [{}]}']
)
def test_something_else_is_refused(tmp_path: Path, content: str):
    run = RunFolder(tmp_path, "compare")
    run.results.write_text(content)
    with pytest.raises(OptionsInvalid, match="no results of compare"):
        Results.read(run)
    with pytest.raises(OptionsInvalid, match="No such file or directory; --out names the folder of a run"):
        Results.read(RunFolder(tmp_path / "absent", "compare"))


def test_rounds_go_on_where_they_ended():
    kept = results()
    assert kept.next_round(["m"], ["convserve", "other"]) == 3
    assert kept.next_round(["m"], ["absent"]) == 1
    assert kept.next_round(["n"], ["convserve"]) == 0


def test_rows_can_be_measured_anew():
    kept = results()
    kept.forget(["m"], ["convserve"])
    assert {row.peer for row in kept.loads} == {"bare-1-thread", "other"}
    assert not kept.starts
    assert kept.failures == results().failures
    kept.forget(["n"], ["other"])
    assert len(kept.loads) == 4


def test_who_is_ahead_is_said_and_whether_clearly():
    """The other's CPU ranges over 30 to 32, ours over 40 to 42; its rates overlap with ours."""
    groups = {group.peer: group for group in summaries(results().loads)}
    assert table.ahead(groups["other"], groups["convserve"]) == "throughput (within spread), CPU"
    assert table.ahead(groups["convserve"], groups["other"]) == ""
    once = {row.peer: row for row in summaries([load("convserve", 0, 10.0, 5.0), load("other", 0, 20.0, 5.0)])}
    assert table.ahead(once["other"], once["convserve"]) == "throughput (one round)"


def test_the_table_tells_all():
    shown = table.shown(results(), "text")
    rows = {line.split("  ")[0]: line for line in reversed(shown.splitlines())}
    assert "m, 16 in flight: median of 3 round(s)" in shown
    assert re.search(r"1,000 \(800-1,200\) +1\.00 .* 41\.0 \(40\.0-42\.0\) +0\.49 ", rows["convserve"])
    assert rows["other"].endswith("throughput (within spread), CPU")
    assert rows["bare-1-thread"].rstrip().endswith("h2load")
    assert "failed: not installed: no such | package" in rows["absent"]
    assert "m: start and memory" in shown


def test_markdown_has_as_many_cells_in_each_line_of_a_table():
    for text in (table.shown(results(), "markdown"), table.short_markdown(results())):
        for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_the_short_table_has_a_column_a_model():
    lines = table.short_markdown(results()).splitlines()
    assert lines[0] == "|  | m, 16 in flight | start | memory | installed |"
    assert "| **convserve** | 1,000/s, 41.0 us | 0.8 s | 70 MB | 200 MB |" in lines
    assert "| absent | not installed: no such \\| package | - | - | - |" in lines
    assert "| other | - | - | - | - |" not in lines
    ours = results()
    ours.loads = [row for row in ours.loads if row.peer == "convserve"]
    assert table.short_markdown(ours).count("not measured") == 2


def test_what_it_was_measured_on_is_told_with_every_commit_of_ours():
    told = "Measured 2026-01-01 to 2026-01-03: A CPU, 2 cores, 8 GB, Linux 6; convserve at abc, def+."
    both = results()
    both.loads.append(dataclasses.replace(load("convserve", 3, 1.0, 1.0), commit="def+"))
    both.loads.append(dataclasses.replace(load("other", 3, 1.0, 1.0), commit="xyz"))
    for form in ("text", "markdown", "short"):
        assert told in table.shown(both, form)
    assert "without convserve" in table.measured_on(Results(machine={}, runs=[]))


def test_the_short_table_says_who_is_ahead():
    told = table.short_markdown(results())
    assert "Ahead of convserve:\n\n- m, 16 in flight: other in throughput (within spread), CPU" in told
    behind = results()
    behind.loads = [row for row in behind.loads if row.peer != "other"]
    assert "- m, 16 in flight: nobody" in table.short_markdown(behind)
    behind.forget(["m"], ["convserve"])
    assert "Ahead of" not in table.short_markdown(behind)


def test_the_csv_holds_every_measurement():
    rows = [*csv.DictReader(io.StringIO(table.csv_text(results())))]
    assert len(rows) == 7
    assert rows[1] == {name: str(value) for name, value in dataclasses.asdict(results().loads[1]).items()}
