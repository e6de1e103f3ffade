"""What ``convserve-bench slo`` leaves behind, however it ends; nothing is sent."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.cli import main
from bench.load.arrivals import Gamma
from bench.load.codes import NO_CONNECTION, OK
from bench.load.fleet import FleetFailed
from bench.load.records import Records, Summary
from bench.slo import command
from bench.slo.curve import Point
from bench.slo.search import RateSearch
from bench.slo.trials import Trial, Trials

CURVE = ["slo", "127.0.0.1:1", "--model=m", "--objective-seconds=1", "--curve", "--capacity=10", "--factors=1,2"]


def summary(*codes: int) -> Summary:
    sent = np.arange(len(codes)) / len(codes)
    wrong = np.zeros(len(codes), dtype=bool)
    return Summary.of(Records(sent, sent, sent + 0.01, np.array(codes), wrong), 1.0, 1.0)


class FakeTrials:
    """Points as they are given; an exception is raised instead."""

    points: tuple[Any, ...] = ()

    def __init__(self, *_: Any) -> None:
        self._coming = iter(self.points)

    def point(self, factor: float, capacity: float) -> Point:
        coming = next(self._coming)
        if isinstance(coming, BaseException):
            raise coming
        return Point(factor, (coming,), None)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> type[FakeTrials]:
    session = SimpleNamespace(work=None, server="server 1", facts={"settings": {}})
    monkeypatch.setattr(command, "open_session", lambda flags: session)
    monkeypatch.setattr(command, "Fleet", lambda *_: contextlib.nullcontext())
    made = type("Given", (FakeTrials,), {})
    monkeypatch.setattr(command, "Trials", made)
    return made


def kept(file: Path) -> list[float]:
    return [point["factor"] for point in json.loads(file.read_text())["curve"]]


@pytest.mark.parametrize("ended", [KeyboardInterrupt(), SystemExit(143), FleetFailed("a client process ended")])
def test_what_was_measured_before_an_early_end_is_kept_and_said(
    ended: BaseException, trials: type[FakeTrials], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trials.points, file = (summary(OK), ended), tmp_path / "result.json"
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        assert main([*CURVE, f"--json={file}"]) == 2
    assert kept(file) == [1.0]
    assert f"{file} holds what was measured until here" in capsys.readouterr().out


def test_nothing_measured_leaves_what_was_there(trials: type[FakeTrials], tmp_path: Path):
    trials.points, file = (KeyboardInterrupt(),), tmp_path / "result.json"
    file.write_text("an earlier result")
    with pytest.raises(KeyboardInterrupt):
        main([*CURVE, f"--json={file}"])
    assert file.read_text() == "an earlier result"


def test_a_picture_that_cannot_be_written_costs_no_result(
    trials: type[FakeTrials], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trials.points, file = (summary(OK), summary(OK)), tmp_path / "result.json"
    assert main([*CURVE, f"--json={file}", "--plot=/dev/full"]) == 2
    assert capsys.readouterr().err == "convserve-bench: /dev/full: No space left on device; give another file\n"
    assert kept(file) == [1.0, 2.0]


def test_a_result_that_cannot_be_written_costs_no_picture(
    trials: type[FakeTrials], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trials.points, file = (summary(OK), summary(OK)), tmp_path / "curve.png"
    assert main([*CURVE, "--json=/dev/full", f"--plot={file}"]) == 2
    assert capsys.readouterr().err == "convserve-bench: /dev/full: No space left on device; give another file\n"
    assert file.read_bytes().startswith(b"\x89PNG")


def test_failures_in_a_curve_are_said_and_are_no_success(trials: type[FakeTrials], capsys: pytest.CaptureFixture[str]):
    trials.points = summary(OK, OK), summary(OK, NO_CONNECTION)
    assert main(CURVE) == 1
    assert "\n1 of 4 requests failed, 0 got a wrong answer (OK 3, no connection 1)\n" in capsys.readouterr().out
    trials.points = summary(OK, OK), summary(OK, 8)  # refusals are no failures
    assert main(CURVE) == 0
    assert "failed" not in capsys.readouterr().out


def test_what_limits_the_generator_is_said_at_once_and_once(monkeypatch: pytest.MonkeyPatch):
    flags, said = SimpleNamespace(objective_seconds=1.0, trial_seconds=1.0, seed=0), list[str]()
    trials = Trials(flags, SimpleNamespace(terms=None), None, Gamma())
    records: Any = None
    results = [
        Trial(summary(OK), "use more --processes", None, records),
        Trial(summary(OK), "use two", None, records),
        Trial(summary(*[OK] * 2000), None, 0.3, records),
    ]
    monkeypatch.setattr(trials, "run", lambda rate, seconds: results.pop(0))
    found, limit = trials.search(RateSearch(400.0, precision=1.0), said.append)
    assert (found.passed, found.failed, limit) == (100.0, 200.0, "at 200.0 /s use two")
    assert [line.rpartition("  ")[2] for line in said] == [
        "generator was the limit",
        "use more --processes",
        "generator was the limit",
        "steal 30%",
    ]
    assert said[-1].endswith("  passed  steal 30%")
