"""A picture of results: throughput and CPU of each peer, by model and load."""

from __future__ import annotations

from pathlib import Path

from bench.compare.results import Results, summaries
from bench.compare.table import LEAST, OURS
from bench.output import new_figure, save


def draw(results: Results, path: Path) -> None:
    """Draw a row of two panels for each model.

    Raises:
        OptionsInvalid: The file cannot be written.
    """
    groups = summaries(results.loads)
    models = [*dict.fromkeys(group.model for group in groups)]
    if not models:
        return
    figure = new_figure(13, 3.9 * len(models))
    panels = figure.subplots(len(models), 2, squeeze=False)
    for model, (rate, cost) in zip(models, panels, strict=True):
        loads = sorted({group.in_flight for group in groups if group.model == model})
        peers = [*dict.fromkeys(group.peer for group in groups if group.model == model)]
        by_key = {(group.peer, group.in_flight): group for group in groups if group.model == model}
        width = 0.8 / len(loads)
        for place, in_flight in enumerate(loads):
            for axes, name in ((rate, "per_second"), (cost, "cpu_us")):
                known = [(at, by_key[peer, in_flight]) for at, peer in enumerate(peers) if (peer, in_flight) in by_key]
                values = [group[name] for _, group in known]
                axes.barh(
                    [at + (place - (len(loads) - 1) / 2) * width for at, _ in known],
                    [value.median for value in values],
                    height=width,
                    xerr=[
                        [value.median - value.low for value in values],
                        [value.high - value.median for value in values],
                    ],
                    error_kw={"elinewidth": 0.8, "ecolor": "black"},
                    label=f"{in_flight} in flight",
                )
        for axes, title in ((rate, "inferences a second"), (cost, "CPU us of the server for an inference")):
            axes.set_yticks(range(len(peers)), peers)
            axes.invert_yaxis()
            axes.set_xscale("log")
            axes.tick_params(axis="x", which="minor", labelbottom=False)  # they would overlap
            axes.set_title(f"{model}: {title}", fontsize=10)
            axes.grid(axis="x", alpha=0.3, which="both")
            for label in axes.get_yticklabels():
                label.set_fontweight("bold" if label.get_text() in {OURS, LEAST} else "normal")
        rate.legend(fontsize=8)
    save(figure, path)
