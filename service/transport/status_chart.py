"""Histograms as SVG, with bars by bucket and a description in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _FOOT = 320, 84, 16
_LEAST_HEIGHT = 2.0  # a bucket that is not empty shows


def chart(title: str, counts: Sequence[int], unit: str, buckets: Sequence[str], ticks: Mapping[int, str]) -> str:
    """Draw a histogram.

    Args:
        title: What the values are, e.g. ``"Time in the queue"``.
        counts: One per bucket.
        unit: What is counted, e.g. ``"requests"``.
        buckets: Which values each bucket holds, in words.
        ticks: The text below a bucket, by its index.

    Returns:
        A figure element.
    """
    most = max((*counts, 1))
    step = _WIDTH / len(counts)
    bars, texts = [], []
    for place, (count, bucket) in enumerate(zip(counts, buckets, strict=True)):
        if count:
            height = max(_LEAST_HEIGHT, count / most * _HEIGHT)
            bars.append(
                f'<rect x="{place * step + 1:.1f}" y="{_HEIGHT - height:.1f}" width="{step - 2:.1f}" '
                f'height="{height:.1f}"><title>{escape(bucket)}: {count:,} {escape(unit)}</title></rect>'
            )
        if place in ticks:
            texts.append(
                f'<text x="{(place + 0.5) * step:.1f}" y="{_HEIGHT + _FOOT - 3}">{escape(ticks[place])}</text>'
            )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" role="img" '
        f'aria-label="{escape(f"{title}: {summary(counts, unit, buckets)}")}">{"".join(bars)}'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>{"".join(texts)}</svg></figure>'
    )


def summary(counts: Sequence[int], unit: str, buckets: Sequence[str]) -> str:
    """Describe a histogram in a few words."""
    total = sum(counts)
    if not total:
        return f"no {unit}"
    fullest = max(range(len(counts)), key=counts.__getitem__)
    return f"{total:,} {unit}, {counts[fullest] / total:.0%} of them {buckets[fullest]}"
