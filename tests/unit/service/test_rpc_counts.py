"""RPCs are counted in and out under the names and in the spelling of go-grpc-prometheus."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from service.errors import DeadlineExceeded, RequestCancelled, ServingError
from service.rpc_counts import RpcCounts

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"
LEFT = partial(RequestCancelled, "left")


@pytest.fixture
def rpcs() -> RpcCounts:
    return RpcCounts(CollectorRegistry())


def shown(rpcs: RpcCounts) -> dict[tuple[str, ...], float]:
    """Every series, by the last part of its name and its labels' values."""
    samples = [sample for family in rpcs.collect() for sample in family.samples]
    return {(sample.name.split("_")[2], *sample.labels.values()): sample.value for sample in samples}


def test_those_that_run_are_started_and_not_handled(rpcs: RpcCounts) -> None:
    rpcs.started(INFER, 3)
    rpcs.handled(INFER, "OK", 2)
    assert shown(rpcs) == {
        ("started", "unary", "inference.GRPCInferenceService", "ModelInfer"): 3,
        ("handled", "unary", "inference.GRPCInferenceService", "ModelInfer", "OK"): 2,
    }


@pytest.mark.parametrize(
    ("code", "spelt"),
    [
        ("OK", "OK"),
        ("CANCELLED", "Canceled"),
        ("RESOURCE_EXHAUSTED", "ResourceExhausted"),
        ("INVALID_ARGUMENT", "InvalidArgument"),
        ("INTERNAL", "Internal"),
    ],
)
def test_codes_are_spelt_as_in_go(rpcs: RpcCounts, code: str, spelt: str) -> None:
    rpcs.handled(INFER, code)
    assert [key[-1] for key in shown(rpcs)] == [spelt]


@pytest.mark.parametrize(("method", "kind"), [(STREAM, "bidi_stream"), (WATCH, "server_stream"), (INFER, "unary")])
def test_the_type_is_told(rpcs: RpcCounts, method: str, kind: str) -> None:
    rpcs.started(method)
    assert [key[1] for key in shown(rpcs)] == [kind]


def ending(rpcs: RpcCounts) -> str:
    """The code of the only one that was handled."""
    ((*_, code),) = [key for key in shown(rpcs) if key[0] == "handled"]
    return code


def test_one_ends_with_the_code_that_it_says(rpcs: RpcCounts) -> None:
    with rpcs.one(STREAM, LEFT) as rpc:
        assert [key[0] for key in shown(rpcs)] == ["started"]
        rpc.code = "OK"
    assert ending(rpcs) == "OK"


@pytest.mark.parametrize(("error", "spelt"), [(RequestCancelled, "Canceled"), (DeadlineExceeded, "DeadlineExceeded")])
def test_one_whose_caller_left_ends_as_that_tells(rpcs: RpcCounts, error: type[ServingError], spelt: str) -> None:
    with pytest.raises(asyncio.CancelledError), rpcs.one(STREAM, lambda: error("left")):
        raise asyncio.CancelledError
    assert ending(rpcs) == spelt


def test_one_that_an_error_escaped_ends_as_grpc_answers_then(rpcs: RpcCounts) -> None:
    with pytest.raises(ValueError), rpcs.one(STREAM, LEFT):  # noqa: PT011 - whichever it is
        raise ValueError
    assert ending(rpcs) == "Unknown"


def test_one_that_was_refused_ends_with_that(rpcs: RpcCounts) -> None:
    def refuse() -> None:
        with rpcs.one(STREAM, LEFT) as rpc:
            rpc.code = "UNAUTHENTICATED"
            raise RuntimeError  # as gRPC's abort does

    with pytest.raises(RuntimeError):
        refuse()
    assert ending(rpcs) == "Unauthenticated"
