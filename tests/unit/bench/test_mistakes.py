"""Mistakes in the arguments that show before anything is sent."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import OptionsInvalid
from bench.output import check_outputs


@pytest.mark.parametrize(
    "server", ["127.0.0.1:\u00b2", "127.0.0.1:" + "9" * 5000, ":8001", "[::1]", "::1:8001", "host:0", "host:-1"]
)
def test_what_is_no_address(server: str, capsys: pytest.CaptureFixture[str]):
    assert main(["load", server, "--model=m", "--rate=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("convserve-bench: expected HOST:PORT, such as 127.0.0.1:8001")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("load", ["--rate=1", "--json=/no/such/result.json"], "/no/such/result.json: the folder is missing or cannot"),
        ("load", [], "give --rate R for an open loop, or --concurrency N for a closed one"),
        ("load", ["--concurrency=1", "--processes=2"], "--concurrency 1 is less than --processes 2"),
        ("load", ["--rate=1", "--arrivals=trace"], "--arrivals trace and --trace FILE go together: give both, or only"),
        ("slo", ["--objective-seconds=1", "--capacity=5"], "--capacity, --costs and --plot are for the curve: add"),
        ("slo", ["--objective-seconds=1", "--percentile=100"], "--percentile 100: expected 50 or more and less than"),
        ("conformance", ["--json=/no/such/result.json"], "/no/such/result.json: the folder is missing or cannot"),
        (
            "conformance",
            ["--identity=other"],
            "--identity other: no --model other is asked, so it would have no effect",
        ),
        ("conformance", ["--identity=m=out"], "--identity m=out: expected OUTPUT:INPUT, got 'out'"),
    ],
)
def test_what_is_told_before_the_server_is_asked(
    command: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main([command, "127.0.0.1:1", "--model=m", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"convserve-bench: {message}")
    assert said.count("\n") == 1


def test_a_result_in_place_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["load", "--rate=1", "127.0.0.1:1", "--model=m", f"--json={tmp_path}"]) == 2
    assert (
        capsys.readouterr().err == f"convserve-bench: {tmp_path}: is a folder or cannot be written; give another file\n"
    )


def test_a_file_that_is_there_may_be_in_a_folder_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As /dev/stdout is."""
    there, new = tmp_path / "there", tmp_path / "new"
    there.touch()
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)
    check_outputs(there)
    with pytest.raises(OptionsInvalid, match="the folder is missing or cannot be written"):
        check_outputs(new)


def test_two_results_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one, same = tmp_path / "result", tmp_path / "x" / ".." / "result"
    (tmp_path / "x").mkdir()
    assert main(["load", "--rate=1", "127.0.0.1:1", "--model=m", f"--json={one}", f"--plot={same}"]) == 2
    assert capsys.readouterr().err == f"convserve-bench: {one}: is given for two results; give each its own file\n"


@pytest.mark.parametrize("command", ["compare", "profile"])
def test_a_folder_that_cannot_be_made(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    module = importlib.import_module(f"bench.{command}.command")
    monkeypatch.setattr(module, "find_programs", lambda *_, **__: {})
    monkeypatch.setattr(f"bench.{command}.command.find_samplers", dict, raising=False)
    (tmp_path / "file").touch()
    assert main([command, f"--work={tmp_path}/file/x", f"--out={tmp_path}/out"]) == 2
    assert capsys.readouterr().err == f"convserve-bench: {tmp_path}/file/x: Not a directory; give another --work\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--rate", "a number above 0"),
        ("--processes", "a whole number from 1 on"),
        ("--deadline-seconds", "a number from 0 on"),
        ("--seed", "a whole number from 0 on"),
    ],
)
def test_what_is_no_number_is_told_what_is_expected(flag: str, expected: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["load", "127.0.0.1:1", "--model=m", flag, "many"])
    assert f"argument {flag}: expected {expected}, got many" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1.5", "x"])
@pytest.mark.parametrize("command", ["load", "slo"])
def test_what_is_no_seed(command: str, seed: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([command, "127.0.0.1:1", "--model=m", "--seed", seed, "--objective-seconds=1"])
    assert ended.value.code == 2
    assert "argument --seed: " in capsys.readouterr().err
