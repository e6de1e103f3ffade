"""Profiles as text and Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.profile.phases import Phase
from bench.profile.results import Profile, Profiles
from bench.run_folder import Rows, document, measured, number

_LEAST = 0.0005  # a phase that nobody has as much of is left out
_NAMES = {"native": "", "grpcio": ", grpcio"}


def shown(profiles: Profiles, form: str) -> str:
    """Write everything as ``text`` or ``markdown``."""
    return document(tables(profiles), measured_on(profiles), form)


def tables(profiles: Profiles) -> list[tuple[str, Rows]]:
    """Return title and rows of a table for each model and transport: a column per load, a row per phase."""
    found = []
    for model, transport in dict.fromkeys((one.model, one.transport) for one in profiles.profiles):
        here = [one for one in profiles.profiles if (one.model, one.transport) == (model, transport)]
        found.append((f"{model}{_NAMES[transport]}: CPU us of the server for an inference, and its share", _rows(here)))
    return found


def _rows(here: Sequence[Profile]) -> Rows:
    rows = [["", *(f"{one.in_flight} in flight" for one in here)]]
    seen = [phase for phase in Phase if any(one.phases[phase] >= _LEAST * one.cpu_us for one in here)]
    rows += [[phase, *(_share(one.phases[phase], one.cpu_us) for one in here)] for phase in seen]
    beside: dict[str, Callable[[Profile], str]] = {
        "all": lambda one: number(one.cpu_us),
        "all but inference": lambda one: number(one.cpu_us - one.phases[Phase.MODEL]),
        "ONNX Runtime alone, same batch": lambda one: number(one.bare_us),
        "rows a batch": lambda one: f"{one.rows_a_batch:.1f}",
        "answers a second": lambda one: number(one.per_second),
    }
    rows += [[name, *(write(one) for one in here)] for name, write in beside.items()]
    return rows


def _share(part: float, whole: float) -> str:
    """Write a part in microseconds, and its share.

    >>> _share(11.3, 45.2)
    '11.3 (25 %)'
    """
    return f"{number(part)} ({100 * part / whole:.{0 if part >= 0.1 * whole else 1}f} %)"


def measured_on(profiles: Profiles) -> str:
    """Say on one line where the profiles come from."""
    commits = ", ".join(dict.fromkeys(one.commit for one in profiles.profiles))
    clients = ", ".join(dict.fromkeys(one.client for one in profiles.profiles))
    return measured(profiles.date[:10], profiles.machine, f"convserve at {commits}; asked by {clients}")
