"""Goodput against offered load. Pure but for the picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from bench.load.records import Summary
from bench.output import new_figure, save

FACTORS = (0.5, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
# Student's t, two-sided 95 %, by degrees of freedom; beyond ten the last is near enough.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, eq=False)
class Point:
    """One offered load, with a run for each seed.

    Attributes:
        factor: Offered load over capacity, as intended.
        runs: One per seed, at least one.
        limit: Why the generator was the limit in one of them; None if it never was.
        optimum: How many requests of all runs could have been answered in time; None if that is not known.
        steal: What the hypervisor took of a core in the run that lost most, from 0 to 1; None if that is not known.
    """

    factor: float
    runs: tuple[Summary, ...]
    limit: str | None
    optimum: int | None = None
    steal: float | None = None

    @property
    def whole(self) -> Summary:
        """All runs, end to end."""
        return reduce(add, self.runs)

    @property
    def half_width(self) -> float | None:
        """Half the 95 % confidence interval of the mean goodput, by Student's t; None of one run."""
        if len(self.runs) < 2:
            return None
        spread = statistics.stdev(run.goodput for run in self.runs)
        return _T[min(len(self.runs) - 1, len(_T)) - 1] * spread / math.sqrt(len(self.runs))

    def as_json(self) -> dict[str, Any]:
        """Return the point, and each run with its histograms."""
        return {
            "factor": self.factor,
            "offered_per_second": self.whole.offered_rate,
            "goodput_per_second": self.whole.goodput,
            "goodput_half_width_95": self.half_width,
            "generator_limit": self.limit,
            "optimum": self.optimum,
            "steal": self.steal,
            "runs": [run.as_json() for run in self.runs],
        }


HEADING = (
    f"{'offered':>9}{'of cap.':>9}{'goodput':>9}{'± 95 %':>8}{'of cap.':>9}{'late':>8}{'refused':>9}{'expired':>9}"
    f"{'p50 ms':>9}{'p99 ms':>9}{'refusal p99':>13}{'of opt.':>9}{'steal':>8}"
)


def row(point: Point, capacity: float) -> str:
    """Write a point under :data:`HEADING`."""
    whole = point.whole
    offered = max(whole.offered, 1)
    width = "-" if point.half_width is None else f"{point.half_width:.1f}"
    share = f"{whole.on_time / point.optimum:.3f}" if point.optimum else "-"
    steal = "-" if point.steal is None else f"{point.steal:.1%}"
    return (
        f"{whole.offered_rate:9.1f}{whole.offered_rate / capacity:9.2f}{whole.goodput:9.1f}{width:>8}"
        f"{whole.goodput / capacity:9.3f}{whole.late / offered:8.2%}{whole.refused / offered:9.2%}"
        f"{whole.expired / offered:9.2%}{_millis(whole.latency.percentile(50)):>9}"
        f"{_millis(whole.latency.percentile(99)):>9}{_millis(whole.refusal_latency.percentile(99)):>13}{share:>9}{steal:>8}"
        + ("  generator was the limit" if point.limit else "")
    )


def failed(points: Sequence[Point]) -> str | None:
    """Say how many requests failed or got a wrong answer, which have no columns, and how; None if none did."""
    whole = reduce(add, (point.whole for point in points))
    if not whole.failed and not whole.wrong:
        return None
    statuses = ", ".join(f"{name} {number}" for name, number in whole.codes.items())
    return f"{whole.failed} of {whole.offered} requests failed, {whole.wrong} got a wrong answer ({statuses})"


def draw_curve(
    points: Sequence[Point],
    capacity: float,
    objective_seconds: float,
    title: str,
    path: Path,
    fluid_bound: float | None = None,
) -> None:
    """Draw goodput, latencies over the objective, and how long refusals take.

    Args:
        points: In the order of their loads.
        capacity: Requests a second, the unit of the loads.
        objective_seconds: The unit of the latencies.
        title: Above the picture.
        path: The file.
        fluid_bound: The most requests per second that batches of known cost allow; None if that is not known.

    Raises:
        OptionsInvalid: The file cannot be written.
    """
    figure = new_figure(13, 4)
    goodput, latency, refusals = figure.subplots(1, 3, sharex=True)
    wholes = [point.whole for point in points]
    offered = [whole.offered_rate / capacity for whole in wholes]
    widths = [(point.half_width or 0.0) / capacity for point in points]
    goodput.errorbar(offered, [whole.goodput / capacity for whole in wholes], widths, marker="o", capsize=3)
    bound = capacity if fluid_bound is None else fluid_bound
    top = min(offered[-1], bound / capacity)
    goodput.plot([0, top], [0, top], color="grey", linestyle=":", label="all that is offered")
    name = "the capacity" if fluid_bound is None else "full batches only"
    goodput.plot([0, offered[-1]], [bound / capacity] * 2, color="grey", linestyle="--", label=name)
    if all(point.optimum is not None for point in points):
        seconds = [sum(run.seconds for run in point.runs) for point in points]
        best = [(point.optimum or 0) / length / capacity for point, length in zip(points, seconds, strict=True)]
        goodput.plot(offered, best, color="black", linewidth=1, label="the optimum, knowing the future")
    goodput.set(xlabel="offered / capacity", ylabel="goodput / capacity", ylim=(0, None), title="goodput")
    goodput.legend()
    for percent in (50, 99):
        values = [whole.latency.percentile(percent) / objective_seconds for whole in wholes]
        latency.plot(offered, values, marker="o", label=f"p{percent}")
    latency.axhline(1, color="grey", linestyle=":")
    latency.set(xlabel="offered / capacity", ylabel="latency / objective", ylim=(0, None), title="OK answers")
    latency.legend()
    refusals.plot(offered, [whole.refusal_latency.percentile(99) * 1e3 for whole in wholes], marker="o")
    refusals.set(xlabel="offered / capacity", ylabel="p99, ms", ylim=(0, None), title="refusals")
    for axes in (goodput, latency, refusals):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


def _millis(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:.2f}"
