from __future__ import annotations

import grpc
import pytest

from service import errors
from service.errors import LoadError, ServingError, SettingsError


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(deeper for child in cls.__subclasses__() for deeper in _subclasses(child))]


SERVING = [cls for cls in _subclasses(ServingError) if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", SERVING)
def test_every_failure_names_a_canonical_status_and_a_reason(cls: type[ServingError]) -> None:
    assert cls.status in grpc.StatusCode.__members__
    assert cls.status != "OK"
    assert cls.reason == cls.reason.upper().replace(" ", "_")
    assert cls.__doc__
    assert cls.status in cls.__doc__ or cls is ServingError


def test_reasons_tell_the_kinds_of_failure_apart() -> None:
    named = [cls.reason for cls in SERVING if "reason" in vars(cls) and cls.reason != "INTERNAL"]
    assert len(set(named)) == len(named)


def test_an_error_keeps_its_message_and_details() -> None:
    facts = {"queued": "3"}
    error = errors.QueueFull("full", retry_after_seconds=0.5, facts=facts)
    facts["queued"] = "4"
    assert (str(error), error.message, error.retry_after_seconds) == ("full", "full", 0.5)
    assert error.facts == {"queued": "3"}
    assert errors.InvalidInput("no").facts == {}
    assert errors.InvalidInput("no").retry_after_seconds is None


def test_what_the_operator_sees_is_never_a_callers_error() -> None:
    for cls in (*_subclasses(LoadError), SettingsError):
        assert not issubclass(cls, ServingError)
