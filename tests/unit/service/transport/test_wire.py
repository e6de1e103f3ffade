"""Fields counted without parsing: as many as a parser finds, and a damaged message is left to it."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.pb.inference import grpc_service_pb2 as pb
from service.transport import wire

EMPTY_INPUT = b"\x2a\x00"
KNOWN = st.sampled_from(
    [
        EMPTY_INPUT,
        b"\x2a\x04\x0a\x02ab",  # an input with a name
        b"\x0a\x02ab",  # the model's name
        b"\x3a\x80\x01" + bytes(128),  # raw contents
    ]
)
UNKNOWN = st.sampled_from([b"\xc0\x3e\x01", b"\xc1\x3e" + bytes(8), b"\xc5\x3e" + bytes(4), b"\xc3\x3e\xc4\x3e"])


@given(st.lists(KNOWN | UNKNOWN, max_size=20))
def test_counts_every_field(fields: list[bytes]) -> None:
    payload = b"".join(fields)
    pb.ModelInferRequest.FromString(payload)  # which it is
    count = len(fields) + fields.count(b"\xc3\x3e\xc4\x3e")  # a group's end is one as well
    assert not wire.has_more_fields(payload, count)
    assert not count or wire.has_more_fields(payload, count - 1)


@given(st.binary(max_size=50), st.integers(0, 60))
def test_is_at_a_loss_with_nothing(payload: bytes, most: int) -> None:
    wire.has_more_fields(payload, most)


def test_what_is_large_and_has_few_fields_is_parsed() -> None:
    payload = pb.ModelInferRequest(model_name="a", raw_input_contents=[bytes(1_000_000)]).SerializeToString()
    assert wire.parse(pb.ModelInferRequest, payload, 2).model_name == "a"


def test_what_is_large_and_has_too_many_fields_is_not() -> None:
    with pytest.raises(InvalidInput, match="more than 10 fields"):
        wire.parse(pb.ModelInferRequest, EMPTY_INPUT * 100_000, 10)


def test_who_sent_too_many_items_is_told_how_many_there_may_be() -> None:
    with pytest.raises(InvalidInput, match=r"more than 10 fields: expected 1 to 4 items$"):
        wire.parse(pb.ModelInferRequest, EMPTY_INPUT * 100_000, 10, 4)


def test_a_damaged_message_is_what_the_parser_calls_it() -> None:
    with pytest.raises(DecodeError):
        wire.parse(pb.ModelInferRequest, b"\x0a" + b"\xff" * 100_000, 10)
