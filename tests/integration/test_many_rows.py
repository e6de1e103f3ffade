"""More rows in a request than a batch holds, where the operator allows them."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from tests.integration.harness import MODELS, ServerProcess, arrays_of, failure, infer_request

GOLDEN = np.load(MODELS / "lenet5-mnist" / "1" / "golden.npz")
ROWS = np.concatenate([GOLDEN["input_0"]] * 7)[:101]
FLAGS = ("--model-control-mode", "explicit", "--load-models", "lenet5-mnist", "--max-request-rows", "101")


@pytest.fixture(scope="module")
def server(transport: str):
    with ServerProcess(MODELS, transport, *FLAGS) as running:
        yield running


def test_are_answered_in_order(server: ServerProcess):
    response = server.client.infer(infer_request("lenet5-mnist", {"images": ROWS}))
    expected = np.concatenate([GOLDEN["output_0"]] * 7)[:101]
    np.testing.assert_allclose(arrays_of(response)["probabilities"], expected, atol=1e-5)
    assert server.metric("convserve_batch_size_sum", model="lenet5-mnist") == 101
    assert server.metric("convserve_batch_size_count", model="lenet5-mnist") >= 4


def test_more_than_allowed_are_refused(server: ServerProcess):
    rows = np.concatenate([ROWS, ROWS[:1]])
    told = failure(server.client.infer, infer_request("lenet5-mnist", {"images": rows}))
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected 1 to 101" in told.message
