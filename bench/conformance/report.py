"""The results of a run, for people and for programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.conformance.outcome import Outcome, Result
from bench.conformance.registry import SECTIONS

_COLUMNS = (Outcome.PASS, Outcome.FAIL, Outcome.UNSUPPORTED, Outcome.SKIPPED)


def verdict(results: Sequence[Result]) -> Outcome:
    """Sum up a section: FAIL if any check failed, else PASS if any passed, UNSUPPORTED if any was, else SKIPPED."""
    found = {result.outcome for result in results}
    for outcome in (Outcome.FAIL, Outcome.PASS, Outcome.UNSUPPORTED):
        if outcome in found:
            return outcome
    return Outcome.SKIPPED


def by_section(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Group by section, in the suite's order; sections without results are left out."""
    grouped = {section: [result for result in results if result.section == section] for section in SECTIONS}
    return {section: found for section, found in grouped.items() if found}


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table of sections, aligned to be read as it is."""
    head = ("section", "verdict", *(outcome.value for outcome in _COLUMNS))
    rows = []
    for section, found in by_section(results).items():
        counts = Counter(result.outcome for result in found)
        rows.append((section, verdict(found).name, *(str(counts[outcome] or "") for outcome in _COLUMNS)))
    total = Counter(result.outcome for result in results)
    rows.append(("in all", verdict(results).name, *(str(total[outcome] or "") for outcome in _COLUMNS)))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width) if i < 2 else ("-" * (width - 1) + ":") for i, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def lines(result: Result) -> str:
    """Write one result as one line, or a failure as three."""
    of = f" [{result.model}]" if result.model else ""
    text = f"{result.outcome.name:11} {result.section}{of}: {result.check}"
    if result.outcome is Outcome.FAIL:
        return f"{text}\n            {result.message}\n            source: {result.source}"
    return f"{text} ({result.message})" if result.message else text


def as_json(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """Return everything, for a program."""
    sections = {section: verdict(found).name for section, found in by_section(results).items()}
    listed = [{**dataclasses.asdict(result), "outcome": result.outcome.name} for result in results]
    return {**about, "sections": sections, "results": listed}
