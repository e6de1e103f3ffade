"""Results as text, Markdown and CSV. Pure."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence

from bench.compare.results import LoadRow, LoadSummary, Results, Spread, summaries
from bench.run_folder import Rows, document, measured, number, piped

OURS = "convserve"
LEAST = "bare-1-thread"
_MB = 1e6
_BETTER: dict[str, tuple[str, int]] = {  # 1: more is better
    "throughput": ("per_second", 1),
    "p50": ("p50_ms", -1),
    "p99": ("p99_ms", -1),
    "CPU": ("cpu_us", -1),
}


def shown(results: Results, form: str) -> str:
    """Write everything as ``text`` or ``markdown``, or ``short`` for the README's table."""
    return short_markdown(results) if form == "short" else document(_tables(results), measured_on(results), form)


def short_markdown(results: Results) -> str:
    """Write the README's table: a row per peer, and for each model a column with its greatest load.

    A cell holds the answers per second and the CPU per answer. Below the table stand who is ahead of us in what, and
    what it was measured on.
    """
    groups = summaries(results.loads)
    models = dict.fromkeys(group.model for group in groups)
    columns = [(model, max(group.in_flight for group in groups if group.model == model)) for model in models]
    by_key = {(group.peer, group.model, group.in_flight): group for group in groups}
    rows = [["", *(f"{model}, {in_flight} in flight" for model, in_flight in columns), "start", "memory", "installed"]]
    for peer in _peers(results):
        cells = []
        for model, in_flight in columns:
            group = by_key.get((peer, model, in_flight))
            cells.append(
                f"{number(group['per_second'].median)}/s, {number(group['cpu_us'].median)} us" if group else "-"
            )
        starts = [row for row in results.starts if row.peer == peer]
        start = f"{Spread.of([row.seconds for row in starts]).median:.1f} s" if starts else "-"
        memory = f"{Spread.of([row.pss_bytes / _MB for row in starts]).median:.0f} MB" if starts else "-"
        if cells == ["-"] * len(columns):
            reasons = [row.reason for row in results.failures if row.peer == peer]
            cells[0] = reasons[-1] if reasons else "not measured"
        rows.append([f"**{peer}**" if peer == OURS else peer, *cells, start, memory, _size(results, peer)])
    parts = (piped(rows), _listed_leads(results, columns), measured_on(results))
    return "\n\n".join(part for part in parts if part)


def csv_text(results: Results) -> str:
    """Write every measurement, one a line."""
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(LoadRow)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in results.loads)
    return out.getvalue()


def ahead(peer: LoadSummary, ours: LoadSummary) -> str:
    """Say in what a peer is ahead of us: "(within spread)" if the rounds overlap, "(one round)" if there was one only.

    >>> few, many = Spread(10, 9, 11, 3), Spread(20, 19, 21, 3)
    >>> numbers = dict.fromkeys(("per_second", "p50_ms", "p99_ms", "cpu_us"), few)
    >>> ours = LoadSummary("convserve", "m", 1, (), (), numbers)
    >>> ahead(LoadSummary("other", "m", 1, (), (), {**numbers, "per_second": many}), ours)
    'throughput'
    """
    said = []
    for word, (name, sign) in _BETTER.items():
        theirs, mine = peer[name], ours[name]
        if sign * theirs.median > sign * mine.median:
            clear = theirs.low > mine.high if sign > 0 else theirs.high < mine.low
            doubt = " (one round)" if min(theirs.count, mine.count) == 1 else "" if clear else " (within spread)"
            said.append(word + doubt)
    return ", ".join(said)


def measured_on(results: Results) -> str:
    """Say on one line where the results come from: days, machine, commits of this server."""
    days = sorted({run["date"][:10] for run in results.runs})
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "on no day"
    ours = dict.fromkeys(row.commit for row in results.loads if row.peer.startswith(OURS))
    return measured(when, results.machine, f"{OURS} at {', '.join(ours)}" if ours else f"without {OURS}")


def _listed_leads(results: Results, columns: Sequence[tuple[str, int]]) -> str:
    """List the peers that are ahead of convserve, for each column that has it."""
    groups = summaries(results.loads)
    lines = []
    for model, in_flight in columns:
        here = {group.peer: group for group in groups if (group.model, group.in_flight) == (model, in_flight)}
        if OURS not in here:
            continue
        rivals = [peer for peer in here if not peer.startswith(("bare", OURS))]
        said = [f"{peer} in {leads}" for peer in rivals if (leads := ahead(here[peer], here[OURS]))]
        lines.append(f"- {model}, {in_flight} in flight: {'; '.join(said) or 'nobody'}")
    return f"Ahead of {OURS}:\n\n" + "\n".join(lines) if lines else ""


def spread(of: Spread) -> str:
    """Write a median, and the range of the rounds.

    >>> spread(Spread(41.2, 40.0, 43.0, 3))
    '41.2 (40.0-43.0)'
    """
    return number(of.median) if of.count == 1 else f"{number(of.median)} ({number(of.low)}-{number(of.high)})"


def _tables(results: Results) -> list[tuple[str, Rows]]:
    groups = summaries(results.loads)
    tables = []
    for model, in_flight in dict.fromkeys((group.model, group.in_flight) for group in groups):
        here = {group.peer: group for group in groups if (group.model, group.in_flight) == (model, in_flight)}
        rounds = max(group["per_second"].count for group in here.values())
        title = f"{model}, {in_flight} in flight: median of {rounds} round(s), least and most in brackets"
        tables.append((title, _load_rows(results, here, model)))
    models = dict.fromkeys(row.model for row in results.starts)
    tables += [(f"{model}: start and memory", _start_rows(results, model)) for model in models]
    tables.append(("how each was tuned", _about_rows(results)))
    return tables


def _load_rows(results: Results, here: dict[str, LoadSummary], model: str) -> Rows:
    least, ours = here.get(LEAST), here.get(OURS)
    numbers = ("inferences/s", "p50 ms", "p99 ms", "CPU us", "bare CPU / CPU", "RSS MB")
    head = ["", *numbers, "client", f"ahead of {OURS} in"]
    rows = [head]
    for peer in _peers(results):
        group = here.get(peer)
        if group is None:
            reason = _reason(results, peer, model)
            if reason:
                rows.append([peer, reason, *[""] * (len(head) - 2)])
            continue
        share = f"{least['cpu_us'].median / group['cpu_us'].median:.2f}" if least else "-"
        is_server = not peer.startswith("bare")
        leads = ahead(group, ours) if ours and is_server and not peer.startswith(OURS) else ""
        client = ", ".join((*group.clients, *group.notes))
        rss = number(group["rss_bytes"].median / _MB)
        spreads = [spread(group[name]) for name in ("per_second", "p50_ms", "p99_ms", "cpu_us")]
        rows.append([peer, *spreads, share, rss, client, leads])
    return rows


def _start_rows(results: Results, model: str) -> Rows:
    rows = [["", "start to first right answer, s", "RSS at rest, MB", "of it its own (PSS), MB", "installed"]]
    measures: tuple[Callable[..., float], ...] = (
        lambda row: row.seconds,
        lambda row: row.rss_bytes / _MB,
        lambda row: row.pss_bytes / _MB,
    )
    for peer in _peers(results):
        starts = [row for row in results.starts if (row.peer, row.model) == (peer, model)]
        if starts:
            spreads = [spread(Spread.of([measure(row) for row in starts])) for measure in measures]
            rows.append([peer, *spreads, _size(results, peer)])
    return rows


def _about_rows(results: Results) -> Rows:
    rows = [["", "versions", "tuning"]]
    rows += [
        [peer, ", ".join(f"{name} {version}" for name, version in about.versions.items()), about.tuning]
        for peer, about in results.peers.items()
    ]
    return rows


def _peers(results: Results) -> list[str]:
    found = (row.peer for rows in (results.loads, results.starts, results.failures) for row in rows)
    return [*dict.fromkeys((*results.peers, *found))]


def _reason(results: Results, peer: str, model: str) -> str:
    reasons = [row.reason for row in results.failures if row.peer == peer and row.model == model]
    return f"failed: {reasons[-1]}" if reasons else ""


def _size(results: Results, peer: str) -> str:
    about = results.peers.get(peer)
    return f"{about.installed_bytes / _MB:,.0f} MB" if about and about.installed_bytes else "-"
