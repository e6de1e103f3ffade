"""The list of checks, to which the modules of ``checks`` add by decorating functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

SECTIONS = (
    "health",
    "metadata",
    "config",
    "statistics",
    "contents",
    "bytes",
    "raw-only",
    "input-order",
    "outputs",
    "ids",
    "versions",
    "parameters",
    "classification",
    "errors",
    "unknown-fields",
    "cancellation",
    "deadlines",
    "large-messages",
    "concurrency",
    "stream",
    "repository",
    "shared-memory",
    "log-settings",
    "extensions",
    "reflection",
)

_Function = TypeVar("_Function", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Check:
    """One demand on the server.

    Attributes:
        section: One of :data:`SECTIONS`.
        demand: What the server must do, as a short sentence.
        source: Where it is written; "no text says so" if it is only usual.
        of_model: Whether it is checked for each model.
        run: Takes the suite, and the model if ``of_model``; returns if the server meets the demand.
    """

    section: str
    demand: str
    source: str
    of_model: bool
    run: Callable[..., None]


CHECKS: list[Check] = []


def server_check(section: str, demand: str, source: str) -> Callable[[_Function], _Function]:
    """Register ``function(suite)``, which is run once."""
    return _register(section, demand, source, of_model=False)


def model_check(section: str, demand: str, source: str) -> Callable[[_Function], _Function]:
    """Register ``function(suite, model)``, which is run for each model."""
    return _register(section, demand, source, of_model=True)


def _register(section: str, demand: str, source: str, *, of_model: bool) -> Callable[[_Function], _Function]:
    assert section in SECTIONS, section

    def add(function: _Function) -> _Function:
        CHECKS.append(Check(section, demand, source, of_model, function))
        return function

    return add


def chosen(sections: Any) -> list[Check]:
    """Return the checks of some sections, or all of them if none is named, in the order of the sections."""
    wanted = list(sections) or SECTIONS
    return sorted((check for check in CHECKS if check.section in wanted), key=lambda c: SECTIONS.index(c.section))
