"""The possible results of a check, and how a check reports them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import grpc

from bench.errors import BenchError

_LONGEST = 160


class Outcome(enum.Enum):
    """PASS, FAIL, UNSUPPORTED (by the server's own word) or SKIPPED (not applicable to this model or run)."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One check on one model, or on the server as a whole.

    Attributes:
        section: The check's section.
        check: What the check demands.
        source: Where the demand is written.
        model: Empty for the server as a whole.
        outcome: The result.
        message: What was expected and what came; empty for PASS.
        seconds: How long it took.
    """

    section: str
    check: str
    source: str
    model: str
    outcome: Outcome
    message: str
    seconds: float


class CheckFailed(BenchError):
    """The server did something other than expected; the message says both."""


class Unsupported(Exception):
    """The server itself says that it does not have this."""


class NotApplicable(Exception):
    """The check needs what this model or this run does not have."""


class CallFailed(BenchError):
    """A call ended with a status other than OK."""

    def __init__(self, method: str, code: grpc.StatusCode, details: str) -> None:
        """Keep the server's status."""
        super().__init__(f"{method} ended with {code.name}: {shortened(details)}")
        self.method = method
        self.code = code
        self.details = details

    @classmethod
    def of(cls, method: str, error: Any) -> CallFailed:
        """Read an error of grpc's, which is also the call."""
        return cls(method, error.code(), error.details() or "")


def shortened(what: object) -> str:
    """Write something on one line, cut to a readable length."""
    text = " ".join(str(what).split()) or repr(what)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def expect(condition: bool, expected: str, came: object) -> None:
    """Require a condition.

    Raises:
        CheckFailed: It does not hold.
    """
    if not condition:
        raise CheckFailed(f"expected {expected}, got {shortened(came)}")


def expect_equal(came: object, expected: object, what: str) -> None:
    """Require that two values are equal.

    Raises:
        CheckFailed: They are not.
    """
    if came != expected:
        raise CheckFailed(f"{what}: expected {shortened(expected)}, got {shortened(came)}")
