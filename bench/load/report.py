"""A run as text. Pure."""

from __future__ import annotations

from bench.load.histogram import Histogram
from bench.load.records import Run, Summary

_OUTCOMES = ("on_time", "late", "refused", "expired", "failed", "wrong")
_COLUMNS = ("p50", "p90", "p95", "p99", "p99.9", "max")


def table(summary: Summary, ran: Run, objective_seconds: float | None, *, open_loop: bool) -> str:
    """Write a run as text."""
    lines = [
        f"offered    {summary.offered_rate:10.1f} /s   {summary.offered} requests in {summary.seconds:g} s",
        f"goodput    {summary.goodput:10.1f} /s   right answers"
        + ("" if objective_seconds is None else f" within {objective_seconds * 1e3:g} ms"),
        "",
        *(_count(name, getattr(summary, name), summary.offered) for name in _OUTCOMES),
        "",
        "milliseconds      " + "".join(f"{name:>10}" for name in _COLUMNS),
        _latencies("OK", summary.latency),
    ]
    if summary.refusal_latency.total:
        lines.append(_latencies("refused", summary.refusal_latency))
    if open_loop:
        lines.append(_latencies("generator's lag", summary.lag))
    lines.append(f"\nbusiest client process: {ran.cpu_share:.0%} of a core; garbage collector off while sending")
    if ran.steal is not None:
        lines.append(f"taken by the hypervisor: {ran.steal:.1%} of the core that lost most")
    others = {name: number for name, number in summary.codes.items() if name != "OK"}
    if others:
        lines.append("statuses: " + ", ".join(f"{name} {number}" for name, number in others.items()))
    return "\n".join(lines)


def _latencies(name: str, histogram: Histogram) -> str:
    """Write one row of percentiles, in milliseconds."""
    values = histogram.percentiles()
    cells = (values[column] for column in _COLUMNS)
    return f"{name:<18}" + "".join(f"{'-' if cell is None else f'{cell * 1e3:.3f}':>10}" for cell in cells)


def _count(name: str, number: int, offered: int) -> str:
    return f"{name.replace('_', ' '):<10} {number:10d}      {number / offered if offered else 0.0:8.3%}"
