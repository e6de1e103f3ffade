"""More rows in a request than a batch holds, where the operator allows them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from tests.integration import graphs
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


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, transport: str):
    """Serves graphs that treat the rows of a batch unlike others."""
    root = tmp_path_factory.mktemp("odd")
    for build in (graphs.as_wide_as_it_says, graphs.running_sums, graphs.products, graphs.places, graphs.quotients):
        graphs.write(root, build.__name__, build())
    graphs.write(root, "scores", graphs.scores())
    (root / "as_wide_as_it_says" / "serving.toml").write_text("max_request_rows = 8\nmax_batch_size = 4\n")
    with ServerProcess(root, transport) as running:
        yield running


def test_whose_answers_do_not_fit_together_fail(odd: ServerProcess):
    """A graph whose output is as wide as the batch says: each part is fine, and has another width."""
    even = odd.client.infer(infer_request("as_wide_as_it_says", {"x": np.full((8, 1), 2)}))
    assert arrays_of(even)["y"].shape == (8, 2)
    uneven = np.repeat(np.array([[2], [3]]), 4, axis=0)
    told = failure(odd.client.infer, infer_request("as_wide_as_it_says", {"x": uneven}))
    assert told.code is grpc.StatusCode.INTERNAL
    assert odd.metric("convserve_inflight_requests") == 0


def test_of_a_graph_whose_first_axis_is_no_batch_nobody_hears_of_others(odd: ServerProcess):
    """Put together, who comes second would be told sums that begin with the numbers of who came first."""
    sent = [np.full((rows, 2), rows, np.float32) for rows in (1, 2, 3, 5)] * 8
    calls = [odd.client.inference.ModelInfer.future(infer_request("running_sums", {"x": array})) for array in sent]
    for array, call in zip(sent, calls, strict=True):
        np.testing.assert_array_equal(arrays_of(call.result())["sums"], np.cumsum(array, axis=0))
    told = odd.logged("rows affect each other's answers")
    assert "running_sums" in {entry["model"] for entry in told}


@pytest.mark.parametrize(("name", "of"), [("products", lambda x: x @ x.T), ("places", np.argwhere)])
def test_nor_of_one_whose_answers_are_as_wide_as_the_batch_or_not_a_row_each(odd: ServerProcess, name: str, of: Any):
    random = np.random.default_rng(0)
    sent = [random.standard_normal((rows, 2)).astype(np.float32) for rows in (1, 2, 3, 5)] * 8
    calls = [odd.client.inference.ModelInfer.future(infer_request(name, {"x": array})) for array in sent]
    for array, call in zip(sent, calls, strict=True):
        np.testing.assert_allclose(arrays_of(call.result())["y"], of(array), rtol=1e-5)


def test_what_fills_a_batch_up_brings_nobody_down(odd: ServerProcess):
    """Three rows run as four; a fourth of zeros would be divided by."""
    answer = odd.client.infer(infer_request("quotients", {"x": np.array([[1], [2], [50]], np.int32)}))
    assert arrays_of(answer)["y"].tolist() == [[100], [50], [2]]
    assert odd.metric("convserve_batch_size_sum", model="quotients") == 3


def test_inputs_whose_first_axes_are_different_may_be_of_different_lengths(odd: ServerProcess):
    a, b = np.ones((2, 5), np.float32), np.ones((5, 3), np.float32)
    answer = odd.client.infer(infer_request("scores", {"a": a, "b": b}))
    np.testing.assert_array_equal(arrays_of(answer)["y"], np.full((2, 3), 5))
