from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import OptionsInvalid
from bench.load.arrivals import Arrivals, Bursts, Constant, Gamma, Trace
from bench.load.options import add_shared, arrivals_of, max_lag_seconds
from bench.load.plot import draw_latencies
from bench.load.records import Records, Summary
from bench.slo.curve import HEADING, Point, draw_curve, row


def summary(on_time: int, refused: int) -> Summary:
    """A second with so many answers of 10 ms and refusals of 1 ms."""
    count = on_time + refused
    sent = np.arange(count) / max(count, 1)
    took = np.where(np.arange(count) < on_time, 0.01, 0.001)
    code = np.where(np.arange(count) < on_time, 0, 8)
    return Summary.of(Records(sent, sent, sent + took, code, np.zeros(count, dtype=bool)), 1.0, 0.05)


def test_a_point_joins_its_runs():
    point = Point(2.0, (summary(90, 110), summary(110, 90)), None)
    assert (point.whole.offered_rate, point.whole.goodput) == (200.0, 100.0)
    # Student's t of one degree of freedom times the standard error, 10.
    assert point.half_width == pytest.approx(127.06)
    assert Point(2.0, (summary(90, 110),), None).half_width is None
    cells = row(point, 100.0).split()
    assert cells == [
        "200.0",
        "2.00",
        "100.0",
        "127.1",
        "1.000",
        "0.00%",
        "50.00%",
        "0.00%",
        "10.01",
        "10.01",
        "1.00",
        "-",
        "-",
    ]
    assert len(row(point, 100.0)) == len(HEADING)
    assert point.as_json()["runs"][0]["on_time"] == 90


def test_a_limited_point_says_so():
    assert row(Point(1.0, (summary(10, 0),), "why"), 10.0).endswith("generator was the limit")
    assert row(Point(1.0, (summary(10, 0),), None), 10.0).split()[-3:] == ["-", "-", "-"]


def test_a_point_is_compared_with_the_optimum():
    point = Point(1.0, (summary(9, 1),), None, optimum=10, steal=0.125)
    assert row(point, 10.0).split()[-2:] == ["0.900", "12.5%"]
    assert point.as_json()["optimum"] == 10


def test_pictures_are_drawn_even_of_little(tmp_path: Path):
    points = [Point(0.5, (summary(50, 0),), None), Point(3.0, (summary(0, 0),), None)]
    draw_curve(points, 100.0, 0.05, "title", tmp_path / "curve.png")
    known = [Point(0.5, (summary(50, 0),), None, 50), Point(3.0, (summary(0, 0),), None, 110)]
    draw_curve(known, 100.0, 0.05, "title", tmp_path / "bounds.png", fluid_bound=120.0)
    draw_latencies(summary(0, 3), 0.05, tmp_path / "latencies.png")
    for name in ("curve.png", "bounds.png", "latencies.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionsInvalid, match="give another file"):
        draw_latencies(summary(1, 0), None, tmp_path / "absent" / "x.png")


def test_a_closed_loop_has_no_lag_to_be_drawn(monkeypatch: pytest.MonkeyPatch):
    drawn: list[Any] = []
    monkeypatch.setattr("bench.load.plot.save", lambda figure, _: drawn.append(figure))
    draw_latencies(summary(3, 0), None, Path("x.png"))
    assert drawn[0].axes[0].get_legend_handles_labels()[1] == ["OK"]
    draw_latencies(summary(0, 0), None, Path("x.png"))
    assert drawn[1].axes[0].get_legend() is None, "nothing was answered"


def flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_shared(parser)
    parser.add_argument("--objective-seconds", type=float)
    return parser.parse_args(["localhost:1", "--model", "m", *arguments])


@pytest.mark.parametrize(
    ("arguments", "arrivals", "words"),
    [
        ([], Gamma(), "Poisson arrivals"),
        (["--arrivals=constant"], Constant(), "constant arrivals"),
        (["--arrivals=gamma", "--variation=2"], Gamma(2.0), "gamma arrivals, variation 2"),
        (["--arrivals=bursts", "--on-seconds=1"], Bursts(1.0, 0.5), "bursts of 1 s, 0.5 s apart"),
        (["--trace=TRACE"], Trace((0.0, 2.0)), "a trace of 2 arrivals"),
    ],
)
def test_arrivals_as_asked_for(arguments: list[str], arrivals: Arrivals, words: str, tmp_path: Path):
    (tmp_path / "trace").write_text("5\n7\n")
    assert arrivals_of(flags(*(part.replace("TRACE", str(tmp_path / "trace")) for part in arguments))) == arrivals
    assert str(arrivals) == words


def test_how_much_lag_is_borne():
    assert max_lag_seconds(flags()) == 0.001
    assert max_lag_seconds(flags("--objective-seconds=0.05")) == pytest.approx(0.0025)
    assert max_lag_seconds(flags("--objective-seconds=0.05", "--max-lag-seconds=1")) == 1.0


@pytest.mark.parametrize("argument", ["--variation=0", "--processes=0", "--warm-up-seconds=-1", "--on-seconds=inf"])
def test_numbers_out_of_range_are_refused(argument: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        flags(argument)
    assert ended.value.code == 2
    assert "expected a" in capsys.readouterr().err
