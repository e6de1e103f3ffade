"""``convserve-bench compare`` with real processes: this server beside ONNX Runtime alone, for a moment."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.compare import grounds
from bench.compare.clients import ClientFailed
from bench.compare.sending import Programs, Sender
from bench.errors import PeerFailed
from bench.peers import PEERS
from bench.peers.base import ROOT, Command, Place
from bench.peers.cases import open_case
from bench.peers.environment import Environment
from bench.peers.process import Running
from tests.integration.harness import DEADLINE_SECONDS, eventually

COMPARED = ("bare-1-thread", "convserve")


def compare(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command with the client that is always there; return the exit code and the results."""
    code = main(["compare", f"--out={out}", "--client=load", "--seconds=0.3", "--concurrency=1,8", *arguments])
    return code, json.loads((out / "results.json").read_text())


def test_the_server_is_compared_with_the_bare_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "results"
    code, results = compare(out, f"--peers={','.join(COMPARED)}", "--rounds=1")
    assert (code, results["failures"]) == (0, [])
    rows = {(row["peer"], row["in_flight"]): row for row in results["loads"]}
    assert rows.keys() == {(peer, in_flight) for peer in COMPARED for in_flight in (1, 8)}
    for row in rows.values():
        assert row["answers"] > 0
        assert row["per_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert 10e6 < row["pss_bytes"] <= row["rss_bytes"]
    for in_flight in (1, 8):  # nothing is served for less than the model costs
        assert rows["convserve", in_flight]["cpu_us"] > rows["bare-1-thread", in_flight]["cpu_us"] > 0
    (start,) = results["starts"]
    assert start["peer"] == "convserve"
    assert 0.1 < start["seconds"] < 60
    printed = capsys.readouterr().out
    assert "lenet5-mnist, 8 in flight" in printed
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "loads.csv").read_text().count("\n") == 5
    assert (out / "tables.md").read_text().startswith("**lenet5-mnist, 1 in flight")

    # Rounds are added, or taken anew; a peer that cannot be had is a row that says why.
    code, results = compare(out, "--peers=bare-1-thread,mosec", "--rounds=1", "--append")
    assert code == 1
    assert {row["round"] for row in results["loads"]} == {0, 1}
    (failure,) = results["failures"]
    assert (failure["peer"], "--work DIR" in failure["reason"]) == ("mosec", True)
    code, results = compare(out, "--peers=bare-1-thread", "--rounds=1", "--replace")
    assert code == 0
    assert [row["round"] for row in results["loads"] if row["peer"] == "bare-1-thread"] == [0, 0]
    capsys.readouterr()
    assert main(["compare", f"--out={out}", "--show=short"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("|  | lenet5-mnist, 8 in flight |")
    assert "give --work DIR" in shown


def test_a_server_that_answers_wrongly_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reference says another class than the server gives."""
    right = grounds.measure.reference

    def wrong(*arguments: Any) -> tuple[int, ...]:
        first, *rest = right(*arguments)
        return (first, *((number + 1) % 10 for number in rest))

    monkeypatch.setattr(grounds.measure, "reference", wrong)
    code, results = compare(tmp_path / "results", "--peers=convserve", "--rounds=1")
    assert (code, results["loads"]) == (1, [])
    assert "its answer to row 1 is class" in results["failures"][0]["reason"]


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no such model' >&2\nexit 3\n")
    program.chmod(0o755)
    real = Environment.own()

    class Broken(Environment):
        python = program

    broken = Broken(real.folder)
    made = grounds.Grounds._environment
    monkeypatch.setattr(
        grounds.Grounds, "_environment", lambda self, peer: broken if peer.name == "convserve" else made(self, peer)
    )
    shown: list[str] = []
    monkeypatch.setattr("bench.compare.measure.show", shown.append)
    code, results = compare(tmp_path / "results", "--peers=convserve", "--rounds=1", "--models=lenet5-mnist-jpeg")
    assert code == 1
    assert results["failures"][0]["reason"] == "it ended with 3: no such model"
    assert shown == ["lenet5-mnist-jpeg, convserve, round 1: starting"]


H2LOAD = """
import sys
flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
answers = int(flags.get("requests", 100))
with open(flags["log-file"], "a") as log:
    log.writelines(f"{1000 * number}\\t200\\t500\\n" for number in range(answers))
print(f"requests: {answers} total, {answers} succeeded, 0 failed, 0 errored, 0 timeout")
print(f"traffic: 1KB (1000) total, 1KB (1000) headers, 1KB ({answers * 15}) data")
"""


def test_what_h2load_wrote_before_does_not_count(tmp_path: Path):
    """It adds to its log, so rates found out from an old one would grow from measurement to measurement."""
    program = tmp_path / "h2load"
    program.write_text(f"#!{sys.executable}\n{H2LOAD}")
    program.chmod(0o755)
    peer, case = PEERS["convserve"], open_case("lenet5-mnist", None)
    place = Place(tmp_path, Environment.own(), 1, 2)
    idle = Command((sys.executable, "-c", "import signal; signal.pause()"))
    with Running(idle, tmp_path / "log") as running:
        sender = Sender(peer, case, place, 10, running, Programs("h2load", str(program), None))
        sent = [sender.measure(16, 1.0) for _ in range(3)]
    assert [one.load.answers for one in sent] == [100, 100, 100]
    assert {one.cpu_us < 1e4 for one in sent} == {True}


PERF_ANALYZER = """
import json, sys, time
flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:] if "=" in argument)
(given,) = json.load(open(flags["input-data"]))["data"]
with open("{log}", "a") as log:
    print(flags["measurement-interval"], *given, given["images"]["shape"], file=log)
time.sleep(0.3)
print("Request count: 300\\nThroughput: 100 infer/sec\\np50 latency: 7000 usec\\np99 latency: 9000 usec")
"""


def test_perf_analyzer_is_given_the_row_and_first_warms_the_server_up(tmp_path: Path):
    program, log = tmp_path / "perf_analyzer", tmp_path / "calls"
    program.write_text(f"#!{sys.executable}\n{PERF_ANALYZER.replace('{log}', str(log))}")
    program.chmod(0o755)
    peer, place = PEERS["convserve"], Place(tmp_path, Environment.own(), 1, 2)
    idle = Command((sys.executable, "-c", "import signal; signal.pause()"))
    with Running(idle, tmp_path / "log") as running:
        programs = Programs("perf_analyzer", str(program), None)
        sender = Sender(peer, open_case("lenet5-mnist", None), place, 10, running, programs)
        load = sender.measure(4, 3.0).load
        with pytest.raises(ClientFailed, match="use h2load"):
            Sender(peer, open_case("lenet5-mnist-jpeg", None), place, 10, running, programs).measure(4, 3.0)
    assert (load.answers, load.per_second, load.p50_ms, load.p99_ms) == (300, 100.0, 7.0, 9.0)
    assert log.read_text() == "333 images [28, 28, 1]\n1000 images [28, 28, 1]\n"


def test_sigterm_ends_the_peers_as_well(tmp_path: Path):
    command = [sys.executable, "-m", "bench", "compare", f"--out={tmp_path}", "--client=load", "--peers=convserve"]
    with subprocess.Popen([*command, "--seconds=60"], cwd=ROOT, stdout=subprocess.DEVNULL) as comparing:
        children = Path(f"/proc/{comparing.pid}/task/{comparing.pid}/children")

        def servers() -> list[Path]:
            found = []
            for child in children.read_text().split():
                with contextlib.suppress(OSError):  # such as git, which has ended meanwhile
                    if b"service\0serve" in Path("/proc", child, "cmdline").read_bytes():
                        found.append(Path("/proc", child))
            return found

        eventually(lambda: bool(servers()), "the peer runs")
        (server,) = servers()
        comparing.terminate()
        assert comparing.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM
    eventually(lambda: not server.exists(), "it has ended, and the system has forgotten it")


def test_who_is_told_to_end_while_a_peer_starts_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)
            raise SystemExit(143)

    monkeypatch.setattr("bench.peers.process.subprocess.Popen", Interrupted)
    idle = Command((sys.executable, "-c", "import signal; signal.pause()"))
    with pytest.raises(SystemExit), Running(idle, tmp_path / "log"):
        pass
    (process,) = begun
    assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL


def test_what_keeps_a_peer_from_starting_is_named(tmp_path: Path):
    for program, log, named in (("/no/such", tmp_path / "log", "/no/such"), (sys.executable, tmp_path, str(tmp_path))):
        with pytest.raises(PeerFailed, match=f"^{named}: "), Running(Command((program,)), log):
            pass


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "results.json").write_text("{}")
    cases = [
        (["compare", f"--out={tmp_path}"], "exists already: give --append to add rounds"),
        (["compare", f"--out={tmp_path}", "--append"], "has no results of compare"),
        (["compare", f"--out={tmp_path}/absent", "--show=text"], "No such file or directory"),
        (["compare", f"--out={tmp_path}/results.json/x"], "give another --out"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["compare", "--peers=nobody"])
    assert "unknown 'nobody'; expected bare-1-thread" in capsys.readouterr().err
