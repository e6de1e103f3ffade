"""Mistakes in the arguments that show before anything is sent."""

from __future__ import annotations

import pytest

from bench.cli import main


@pytest.mark.parametrize(
    "server", ["127.0.0.1:\u00b2", "127.0.0.1:" + "9" * 5000, ":8001", "[::1]", "host:0", "host:-1"]
)
def test_what_is_no_address(server: str, capsys: pytest.CaptureFixture[str]):
    assert main(["load", server, "--model=m", "--rate=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("convserve-bench: expected HOST:PORT, such as 127.0.0.1:8001")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", [["conformance"], ["load", "--rate=1"]], ids=["conformance", "load"])
def test_a_result_that_would_have_no_place(command: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*command, "127.0.0.1:1", "--model=m", "--json=/no/such/result.json"]) == 2
    assert capsys.readouterr().err.startswith("convserve-bench: /no/such/result.json: the folder is missing or cannot")


@pytest.mark.parametrize("seed", ["-1", "1.5", "x"])
@pytest.mark.parametrize("command", ["load", "slo"])
def test_what_is_no_seed(command: str, seed: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([command, "127.0.0.1:1", "--model=m", "--seed", seed, "--objective-seconds=1"])
    assert ended.value.code == 2
    assert "argument --seed: " in capsys.readouterr().err
