"""What the hypervisor took is told, and no run counts as sound that lost much; nothing is sent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.load import steal
from bench.load.arrivals import Constant
from bench.load.plan import Terms
from bench.load.records import Records, Run
from bench.load.steal import parse_ticks, read_ticks, warning, worst_share
from bench.slo.trials import Trials

# As Linux 6 writes it; the second core is new in the second text, as after a core was put back.
BEFORE = """cpu  300 0 100 700 0 0 0 100 0 0
cpu0 100 0 100 700 0 0 0 100 90 0
intr 38 0 0
cpufreq is no core
"""
AFTER = """cpu  400 0 100 750 0 0 0 150 0 0
cpu0 130 0 110 710 0 0 0 150 90 0
cpu1 10 0 10 0 0 0 0 80 0 0
ctxt 12
"""


def test_the_steal_of_a_core_is_a_share_of_the_time_that_passed():
    assert worst_share(parse_ticks(BEFORE), parse_ticks(AFTER)) == pytest.approx(50 / 100)
    assert worst_share({"cpu0": (0, 0), "cpu1": (5, 100)}, {"cpu0": (1, 100), "cpu1": (35, 200)}) == pytest.approx(0.3)


def test_where_no_core_tells_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(steal, "_STAT", tmp_path / "missing")  # not Linux
    assert read_ticks() == {}
    assert parse_ticks("cpu0 1 2 3 4\n") == {}  # Linux before 2.6.11
    assert worst_share({}, parse_ticks(AFTER)) is None
    assert worst_share(parse_ticks(AFTER), parse_ticks(AFTER)) is None  # no time has passed
    assert warning(None) is None


def test_only_much_steal_is_warned_of():
    assert warning(0.02) is None
    assert "gave 12% of a core's time" in (warning(0.123) or "")


@pytest.mark.parametrize(
    ("most", "losses", "kept", "runs"),
    [
        (None, [0.5], 0.5, 1),
        (0.01, [0.5, 0.02, 0.01, 0.0], 0.01, 3),
        (0.0, [None], None, 1),  # a system that does not tell
        (0.01, [0.5, *[0.3] * 9, 0.2, *[0.4] * 9, 0.0], 0.2, 20),  # the least, after as many as there may be
    ],
)
def test_a_run_is_repeated_for_what_was_stolen_alone(
    most: float | None, losses: list[float | None], kept: float | None, runs: int
):
    given: list[Any] = []

    class Robbed:
        def run(self, plans: Any, doing: str) -> Run:
            given.append(plans[0].instants)
            instants = plans[0].instants
            codes = np.zeros(len(instants), dtype=int)
            return Run(Records(instants, instants, instants, codes, codes > 0), 0.0, losses[len(given) - 1])

    flags: Any = SimpleNamespace(
        seed=0, warm_up_seconds=0.0, objective_seconds=0.05, max_lag_seconds=1.0, max_steal=most
    )
    session: Any = SimpleNamespace(terms=Terms(1, 1, None, 0.0))
    fleet: Any = Robbed()
    assert Trials(flags, session, fleet, Constant()).run(10.0, 1.0).steal == kept
    assert len(given) == runs
    assert all((instants == given[0]).all() for instants in given), "the same requests again"
