from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.errors import ServingError
from service.transport.status import DOMAIN, Status, internal, status_of

TABLE = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.ModelNotFound: "NOT_FOUND",
    errors.ModelNotReady: "UNAVAILABLE",
    errors.Draining: "UNAVAILABLE",
    errors.QueueFull: "RESOURCE_EXHAUSTED",
    errors.DeadlineUnmeetable: "RESOURCE_EXHAUSTED",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.RequestCancelled: "CANCELLED",
    errors.Unimplemented: "UNIMPLEMENTED",
    errors.BackendFailed: "INTERNAL",
    errors.InternalError: "INTERNAL",
}


def details(
    status: Status,
) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo | None]:
    """Read the trailing metadata back as a client does."""
    ((key, value),) = status.trailing_metadata
    assert key == "grpc-status-details-bin"
    whole = status_pb2.Status.FromString(value)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert whole.details[0].Unpack(info)
    if len(whole.details) == 1:
        return whole, info, None
    assert whole.details[1].Unpack(retry)
    assert len(whole.details) == 2
    return whole, info, retry


@pytest.mark.parametrize(("cls", "name"), TABLE.items())
def test_every_failure_has_its_code(cls: type[ServingError], name: str) -> None:
    status = status_of(cls("told"), "id-1")
    assert status.code is grpc.StatusCode[name]
    assert status.number == grpc.StatusCode[name].value[0]
    whole, info, retry = details(status)
    assert (whole.code, whole.message) == (status.number, status.message)
    assert (info.reason, info.domain) == (cls.reason, DOMAIN)
    assert dict(info.metadata) == {"request_id": "id-1"}
    assert retry is None


def test_only_an_internal_error_shows_the_request_id() -> None:
    assert status_of(errors.InvalidInput("told"), "id-1").message == "told"
    assert status_of(errors.BackendFailed("told"), "id-1").message == "told (request id id-1)"
    assert internal("id-2").message == "internal error (request id id-2)"
    assert internal("id-2").code is grpc.StatusCode.INTERNAL


@given(st.floats(0, 1e6), st.dictionaries(st.text("abc_", min_size=1), st.text("0123456789.", max_size=9)))
def test_details_come_back_as_they_went(seconds: float, facts: dict[str, str]) -> None:
    _, info, retry = details(status_of(errors.QueueFull("full", retry_after_seconds=seconds, facts=facts), "id"))
    assert dict(info.metadata) == {**facts, "request_id": "id"}
    assert retry is not None
    assert retry.retry_delay.ToNanoseconds() / 1e9 == pytest.approx(seconds, abs=2e-9)


@given(st.text(max_size=300), st.text(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_details_of_any_length_are_what_the_library_writes(reason: str, fact: str, request_id: str) -> None:
    class Told(ServingError):
        pass

    Told.reason = reason
    whole, info, retry = details(status_of(Told("told", facts={"fact": fact}), request_id))
    assert (info.reason, dict(info.metadata)) == (reason, {"fact": fact, "request_id": request_id})
    assert retry is None
    assert whole.details[0].type_url == "type.googleapis.com/google.rpc.ErrorInfo"


@pytest.mark.parametrize("cls", TABLE)
def test_the_switch_concerns_overload_alone(cls: type[ServingError]) -> None:
    status = status_of(cls("told"), "id", "UNAVAILABLE")
    overload = cls in (errors.QueueFull, errors.DeadlineUnmeetable)
    assert status.code is grpc.StatusCode["UNAVAILABLE" if overload else TABLE[cls]]
    whole, info, _ = details(status)
    assert whole.code == status.number
    assert info.reason == cls.reason


@pytest.mark.parametrize("letter", ["x", "ä", "🙂"])
def test_a_message_that_repeats_a_callers_text_still_fits_into_metadata(letter: str) -> None:
    status = status_of(errors.ModelNotFound(f"no model '{letter * 1_000_000}'"), "id")
    assert status.message.startswith(f"no model '{letter}{letter}")
    assert status.message.endswith("… (1000011 characters)")
    assert len(status.message) < 500
    assert 3 * len(status.message.encode()) + len(status.trailing_metadata[0][1]) * 4 / 3 < 8 * 1024


@pytest.mark.parametrize(("characters", "cut"), [(400, False), (401, True)])
def test_a_message_is_cut_only_where_it_is_too_long(characters: int, cut: bool) -> None:
    shown = status_of(errors.InvalidInput("x" * characters), "id").message
    assert shown == ("x" * 400 + " … (401 characters)" if cut else "x" * 400)
