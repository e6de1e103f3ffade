"""The dynamic part of the status page: one card per model version. Pure functions that return escaped HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from service.manifest import Accuracy, Manifest
from service.repository.lifecycle import VersionStatus
from service.repository.servable import Servable
from service.transport.live import Counts, Histogram
from service.transport.status_chart import chart

_SECOND_TICKS = (1, 5, 9, 13, 17)  # buckets whose labels fit next to each other
_NONE = "\N{EN DASH}"
_PROVIDERS = {"CPUExecutionProvider": "CPU", "CUDAExecutionProvider": "CUDA"}


def card(status: VersionStatus, servable: Servable | None, counts: Counts | None, seconds: float) -> str:
    """Return the card of one version; it has no servable unless READY, and perhaps no counts within those seconds."""
    state = status.state.lower()
    parts = [
        f'<article class="card"><header><h2>{escape(status.name)}</h2><span class="version">version {status.version}'
        f'</span><span class="state {state}">{state}</span></header>'
    ]
    if servable is None:
        # The full reason names files and belongs in the log: anybody on the network may read this page.
        hint = f"{status.hint}. The log has the details." if status.state == "UNAVAILABLE" else "One moment."
        parts.append(f'<p class="why">{escape(hint[:1].upper() + hint[1:])}</p>')
    else:
        parts.append(_facts(servable))
        if counts is not None:
            parts.append(_figures(servable, counts, seconds))
            if counts.batch.count or counts.latency.count:
                parts.append(_charts(servable, counts))
    return "".join(parts) + "</article>"


def duration(seconds: float) -> str:
    """Format a duration with a suitable unit; NaN becomes a dash."""
    if math.isnan(seconds):
        return _NONE
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def rate(count: int, seconds: float) -> str:
    """Format a count within a time as a rate."""
    value = count / seconds
    return f"{value:,.0f}/s" if value >= 10 or not value else f"{value:.1f}/s" if value >= 0.1 else f"{value:.2g}/s"


def uptime(seconds: float) -> str:
    """Format how long the server has been up."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def accuracy(stated: Accuracy) -> str:
    """Format an accuracy with its data set and confidence interval."""
    low, high = percent(stated.interval_low, 2), percent(stated.interval_high, 2)
    metric = "top-1" if stated.metric == "top1" else stated.metric
    return (
        f"{percent(stated.value, 2)} {metric} on {stated.dataset} {stated.split}, {stated.count:,} examples "
        f"({low} to {high} at 95 % confidence)"
    )


def percent(share: float, digits: int = 0) -> str:
    """Format a share in percent."""
    return f"{share * 100:.{digits}f} %"


def _facts(servable: Servable) -> str:
    provider = servable.provider
    name = _PROVIDERS.get(provider.actual, provider.actual)
    device = "" if provider.device == "cpu" else f", {provider.device}"
    said = [("Runs on", f"{name}{device} ({provider.requested} was requested)")]
    if servable.golden is not None:
        said.append(("Verified here", f"golden vectors reproduced within {servable.golden.max_abs_error:.1e}"))
    else:
        said.append(("Not verified", "it has no golden vectors, so its answers were not checked"))
    if servable.manifest is not None:
        said += [("Accuracy", accuracy(stated)) for stated in servable.manifest.accuracy]
        said += _quantization(servable.manifest)
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in said)
    return f'<dl class="facts">{rows}</dl>'


def _quantization(manifest: Manifest) -> list[tuple[str, str]]:
    cost = manifest.quantization
    if cost is None:
        return []
    return [("Quantised", f"{cost.method}, which cost {cost.accuracy_loss * 100:.2f} points of accuracy")]


def _figures(servable: Servable, counts: Counts, seconds: float) -> str:
    failed = sum(count for code, count in counts.codes.items() if code != "OK")
    latency = counts.latency
    batches = counts.batch
    batch = _NONE if math.isnan(batches.mean) else f"{batches.mean:.1f}"
    padding = _NONE if math.isnan(counts.padding.mean) else percent(counts.padding.mean)
    shown = (
        ("Calls", rate(counts.codes.get("OK", 0), seconds)),
        ("Failed", rate(failed, seconds)),
        ("Waiting", f"{servable.batcher.queued:,}"),
        ("Batch", batch),
        ("Median", duration(latency.quantile(0.5))),
        ("90 %", duration(latency.quantile(0.9))),
        ("99 %", duration(latency.quantile(0.99))),
        ("Padding", padding),
    )
    cells = "".join(
        f"<div{' class=bad' if name == 'Failed' and failed else ''}><dt>{name}</dt><dd>{escape(text)}</dd></div>"
        for name, text in shown
    )
    return f'<dl class="figures">{cells}</dl>'


def _charts(servable: Servable, counts: Counts) -> str:
    return (
        '<div class="charts">'
        + _seconds_chart("Latency", "calls", counts.latency)
        + _seconds_chart("Time in the queue", "requests", counts.queue)
        + _rows_chart(counts.batch, servable.max_batch_size)
        + "</div>"
    )


def _seconds_chart(title: str, unit: str, histogram: Histogram) -> str:
    names = [duration(bound) for bound in histogram.bounds]
    buckets = [f"up to {names[0]}", *(f"{low} to {high}" for low, high in pairwise(names)), f"over {names[-1]}"]
    return chart(title, histogram.counts, unit, buckets, {place: names[place] for place in _SECOND_TICKS})


def _rows_chart(histogram: Histogram, most: int) -> str:
    """Leave out the buckets above the largest possible batch."""
    bounds = [int(bound) for bound in histogram.bounds]
    shown = 1 + next((place for place, bound in enumerate(bounds) if bound >= most), len(bounds))
    starts = [1, *(bound + 1 for bound in bounds)]
    ends = [*bounds, most]
    buckets = [f"of {low}" if low == high else f"of {low} to {high}" for low, high in zip(starts, ends, strict=True)]
    ticks = {place: str(end) for place, end in enumerate(ends[:shown])}
    return chart("Rows in a batch", histogram.counts[:shown], "batches", buckets[:shown], ticks)


def options(servables: Sequence[Servable]) -> str:
    """Return the form's options: the READY classifiers."""
    return "".join(
        f'<option value="{escape(servable.name)}" data-kind="{kind}">{escape(servable.name)}</option>'
        for servable in servables
        if (kind := {"image-classification": "picture", "sentence-classification": "sentence"}.get(servable.task))
    )
