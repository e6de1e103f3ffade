"""A flame graph as a picture: widths are CPU, colours are phases, the full name of a box is its tooltip. Pure.

py-spy draws flame graphs too, but from its samples alone: without the threads that run no Python, and without the CPU
that /proc tells of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from bench.profile.phases import Phase
from bench.profile.split import Cost

_WIDTH, _ROW, _LETTER = 1200, 17, 6.3
_HEAD = 58
_LEAST = 0.0015  # of the whole: narrower boxes are left out
COLOURS = {
    Phase.HTTP2: "#7fb3d5",
    Phase.INTAKE: "#58d68d",
    Phase.ADMIT: "#a9dfbf",
    Phase.PREPARE: "#45b39d",
    Phase.BATCH: "#f7dc6f",
    Phase.MODEL: "#d7dbdd",
    Phase.REPLY: "#f0b27a",
    Phase.THREADS: "#ec7063",
    Phase.OTHER: "#bb8fce",
}
_MIXED = "#f4f6f6"


@dataclass(slots=True)
class _Box:
    cpu: float = 0.0
    phases: set[Phase] = field(default_factory=set)
    inner: dict[str, _Box] = field(default_factory=dict)


def svg(costs: Sequence[Cost], title: str) -> str:
    """Draw stacks, the outermost function on top.

    Args:
        costs: Parts of the CPU, in microseconds.
        title: Of the picture.
    """
    whole = _Box()
    for cost in costs:
        box = whole
        for name in (None, *cost.stack):
            if name is not None:
                box = box.inner.setdefault(name, _Box())
            box.cpu += cost.cpu
            box.phases.add(cost.phase)
    boxes: list[str] = []
    depth = _draw(whole, "the server", 0.0, 0, whole.cpu, boxes)
    height = _HEAD + (depth + 1) * _ROW + 4
    legend, left = "", 4.0
    for phase in Phase:
        if phase in whole.phases:
            legend += f'<rect x="{left:.0f}" y="28" width="10" height="10" fill="{COLOURS[phase]}"/>'
            legend += f'<text x="{left + 13:.0f}" y="37" font-size="9">{escape(phase)}</text>'
            left += 24 + 5.5 * len(phase)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="monospace" font-size="11">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        f'<text x="4" y="16" font-size="13">{escape(title)}</text>\n{legend}\n' + "\n".join(boxes) + "\n</svg>\n"
    )


def _draw(box: _Box, name: str, left: float, depth: int, whole: float, into: list[str]) -> int:
    """Draw a box and the boxes within it; return the greatest depth."""
    width, top = box.cpu / whole * _WIDTH, _HEAD + depth * _ROW
    colour = COLOURS[min(box.phases)] if len(box.phases) == 1 else _MIXED
    letters = int((width - 6) / _LETTER)
    plain = name.partition(" (")[0]
    label = plain if len(plain) <= letters else plain[: letters - 1] + "…" if letters > 3 else ""
    tooltip = f"{name}: {box.cpu:.4g} us, {100 * box.cpu / whole:.1f} %"
    written = f'<text x="{left + 3:.1f}" y="{top + 12}">{escape(label)}</text>' if label else ""
    into.append(
        f'<g><title>{escape(tooltip)}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_ROW - 1}" '
        f'fill="{colour}" stroke="#909497" stroke-width=".4"/>{written}</g>'
    )
    reached, start = depth, left
    for inner_name, inner in sorted(box.inner.items(), key=lambda pair: -pair[1].cpu):
        if inner.cpu >= _LEAST * whole:
            reached = max(reached, _draw(inner, inner_name, start, depth + 1, whole, into))
            start += inner.cpu / whole * _WIDTH
    return reached
