"""A picture of a run of ``load``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.load.records import Summary
from bench.output import new_figure, save


def draw_latencies(summary: Summary, objective_seconds: float | None, path: Path) -> None:
    """Draw latency over percentile.

    Raises:
        OptionsInvalid: The file cannot be written.
    """
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    nines = np.logspace(0, 4, 200)  # 1 / (1 - percentile): 0 % to 99.99 %
    for name, histogram in (
        ("OK", summary.latency),
        ("refused", summary.refusal_latency),
        ("generator's lag", summary.lag),
    ):
        if histogram.percentile(100) > 0:  # something was counted; a closed loop has no lag
            axes.plot(nines, [histogram.percentile(100 * (1 - 1 / nine)) * 1e3 for nine in nines], label=name)
    if objective_seconds is not None:
        axes.axhline(objective_seconds * 1e3, color="grey", linestyle=":", label="objective")
    axes.set_xscale("log")  # each further nine takes as much room as the one before
    percents = (0, 90, 99, 99.9, 99.99)
    axes.set_xticks([1 / (1 - percent / 100) for percent in percents], [f"{percent:g} %" for percent in percents])
    axes.minorticks_off()
    axes.set(
        xlabel="percentile",
        ylabel="ms from the intended instant",
        ylim=(0, None),
        title=f"offered {summary.offered_rate:.0f}/s, goodput {summary.goodput:.0f}/s",
    )
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:  # matplotlib warns of a legend of nothing
        axes.legend()
    save(figure, path)
