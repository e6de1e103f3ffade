"""A picture of profiles: a panel per model, a bar per load, divided into phases."""

from __future__ import annotations

from pathlib import Path

from bench.output import new_figure, save
from bench.profile.flame import COLOURS
from bench.profile.phases import Phase
from bench.profile.results import Profiles

_BARE = "ONNX Runtime alone, same batch"


def draw(profiles: Profiles, path: Path) -> None:
    """Draw them.

    Raises:
        OptionsInvalid: The file cannot be written.
    """
    panels = [*dict.fromkeys((one.model, one.transport) for one in profiles.profiles)]
    if not panels:
        return
    figure = new_figure(11, 1.0 + 1.75 * len(panels))
    for axes, (model, transport) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        here = [one for one in profiles.profiles if (one.model, one.transport) == (model, transport)]
        ends = [0.0] * len(here)
        for phase in (Phase.MODEL, *(phase for phase in Phase if phase is not Phase.MODEL)):
            widths = [one.phases.get(phase, 0.0) for one in here]
            if any(widths):
                axes.barh(range(len(here)), widths, left=ends, color=COLOURS[phase], label=phase, height=0.7)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        for place, one in enumerate(here):
            axes.plot([one.bare_us] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1.5,
                      label=_BARE if place == 0 else None)  # fmt: skip
        axes.set_yticks(range(len(here)), [f"{one.in_flight} in flight" for one in here])
        axes.invert_yaxis()
        axes.set_title(f"{model}, {transport}: CPU us of the server for an inference", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    drawn = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, fontsize=8)
    save(figure, path)
